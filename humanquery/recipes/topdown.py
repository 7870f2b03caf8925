"""Whole-body pose from the top down: one person per crop (AlphaPose)."""

import os

from humanquery.data.augment.person_samples import PersonSampleConfig
from humanquery.data.loading.loader import MixConfig
from humanquery.data.readers.persons import PersonsConfig
from humanquery.engine.optim import OptimConfig
from humanquery.engine.train_config import EngineConfig
from humanquery.models.topdown.config import LiteHRNetConfig, TopDownConfig
from humanquery.models.topdown.tinypose import CROP, MEAN
from humanquery.recipes.poses_in_boxes import PosesInBoxes
from humanquery.recipes.recipe import DataConfig, Recipe
from humanquery.recipes.small import data_root, weights_root


def labels_root() -> str:
    """Where the teachers' labels lie (`benchmarks.whole_body_teachers`): the environment variable
    HUMANQUERY_WHOLE_BODY, or runs/whole_body."""
    return os.environ.get("HUMANQUERY_WHOLE_BODY", "runs/whole_body")


def wholebody_small() -> Recipe:
    """TinyPose with 133 joints: its body joints, and feet, face and hands read from its maps.

    python -m benchmarks.whole_body_teachers ... (docs/wholebody.md)
    humanquery train --recipe wholebody_small --out runs/wholebody

    Data: people/ under HUMANQUERY_DATA with the teachers' labels beside (train.json and val.json
    under HUMANQUERY_WHOLE_BODY); tinypose_256x192.bin under HUMANQUERY_WEIGHTS. Only what
    stands beside TinyPose's output learns. Hardware: one CPU core, 2 s a step. It
    was begun and not trained to the end yet: what it reached stands in EXPERIMENTS.md.
    """
    images, labels = data_root() + "/people/images", labels_root()
    return Recipe(
        model=TopDownConfig(
            skeleton="coco_wholebody133",
            network=LiteHRNetConfig(
                detail=64, weights=weights_root() + "/teachers/tinypose_256x192.bin"
            ),
            input_size=CROP,
            mean=MEAN,
            joints_by="combined",
            heatmap_loss=100.0,
            coordinate_loss=0.1,
            flip_test=False,
        ),
        data=DataConfig(
            train=MixConfig.of(PersonsConfig(labels + "/train.json", images, smallest=150.0)),
            val=PersonsConfig(labels + "/val.json", images),
            augment=PersonSampleConfig(
                size=CROP, rotation=25.0, scale=0.2, half_body_share=0.2, proposals=True
            ),
        ),
        engine=EngineConfig(
            steps=1500,
            batch_size=16,
            optim=OptimConfig(
                lr=1e-2,
                weight_decay=0.0,
                clip=10.0,
                schedule="cosine",
                warmup_steps=30,
                ema=0.99,
                only=("network.detail.",),
            ),
            log_every=10,
            checkpoint_minutes=3.0,
            channels_last=True,
        ),
        data_name="people/ (COCO) with feet, face and hands labelled by MediaPipe's networks",
        data_licence="COCO annotations CC BY 4.0, photos under Flickr terms; TinyPose and "
        "MediaPipe weights Apache-2.0",
        evaluations=(PosesInBoxes(),),
    )
