"""Whole-body pose from the top down: one person per crop (AlphaPose)."""

import os
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from humanquery.core.persons import Persons
from humanquery.data.augment.person_samples import PersonSampleConfig
from humanquery.data.loading.loader import MixConfig
from humanquery.data.readers.persons import PersonsConfig, PersonSource
from humanquery.data.readers.sources import open_source
from humanquery.engine.optim import OptimConfig
from humanquery.engine.train_config import EngineConfig
from humanquery.evaluation.whole_body_ap import Row, whole_body_scores
from humanquery.evaluation.whole_body_report import WholeBodyReport, part_errors
from humanquery.models.topdown.config import LiteHRNetConfig, TopDownConfig
from humanquery.models.topdown.system import TopDown, cut_crops
from humanquery.models.topdown.tinypose import CROP, MEAN
from humanquery.recipes.recipe import DataConfig, Recipe
from humanquery.recipes.small import data_root, weights_root


@dataclass(frozen=True)
class PosesInBoxes:
    """AP and error per part of the poses that a top-down system reads in the true boxes of
    `DataConfig.val` (a `PersonsConfig`)."""

    finds_people: ClassVar[bool] = False
    parts: tuple[str, ...] = ()
    """of the system's skeleton; empty: all of them, and all joints together"""

    def run(self, system: nn.Module, data: DataConfig, *, bf16: bool = False) -> WholeBodyReport:
        """Scores on the system's device; `bf16`: under autocast, as the system was trained."""
        device = next(system.parameters()).device
        training = system.training
        system.eval()
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16), torch.inference_mode():
                return score_poses(system, open_source(data.val), list(self.parts))
        finally:
            system.train(training)


def score_poses(system: TopDown, source: PersonSource, parts: list[str]) -> WholeBodyReport:
    """Of everybody of `source` in his true box, picture by picture."""
    images, truth, found = [], [], []
    for image_id, rows in source.by_picture().items():
        samples = [source[row] for row in rows]
        height, width = samples[0].image.shape[:2]
        images.append({"id": image_id, "height": height, "width": width})
        boxes = torch.cat([sample.target.boxes for sample in samples])
        people = Persons(image_size=(height, width), boxes=boxes, scores=torch.ones(len(boxes)))
        crops = cut_crops([samples[0].image], [people], system.config)
        joints, scores = system.read(crops.images.to(next(system.parameters()).device))
        for i, row in enumerate(rows):
            places = crops.metas[i].to_canvas.inverse().points(joints[i].float().cpu())
            truth.append(source.row(row))
            found.append(_found_row(places, scores[i].float().cpu(), image_id))
    spans = parts or None
    families = whole_body_scores(images, truth, found, system.skeleton, spans)
    inside = [part for part in families if part in system.skeleton.parts]
    return WholeBodyReport(families, part_errors(truth, found, system.skeleton, inside), len(truth))


def _found_row(places: torch.Tensor, scores: torch.Tensor, image_id: int) -> Row:
    joints = torch.cat([places.double() - 0.5, scores[:, None].double()], 1)
    body = scores[:17]
    seen = body > 0.2
    score = float(body[seen].mean()) if seen.any() else 0.0
    return {"image_id": image_id, "keypoints": joints.flatten().tolist(), "score": score}


def labels_root() -> str:
    """Where the teachers' labels lie (`benchmarks.whole_body_teachers`): the environment variable
    HUMANQUERY_WHOLE_BODY, or runs/whole_body."""
    return os.environ.get("HUMANQUERY_WHOLE_BODY", "runs/whole_body")


def wholebody_small() -> Recipe:
    """TinyPose with 133 joints: its body joints, and feet, face and hands read from its maps.

    python -m benchmarks.whole_body_teachers ... (docs/wholebody.md)
    humanquery train --recipe wholebody_small --out runs/wholebody

    Data: people/ under HUMANQUERY_DATA with the teachers' labels beside (train.json and val.json
    under HUMANQUERY_WHOLE_BODY); tinypose_256x192.bin under HUMANQUERY_WEIGHTS. Only the last
    layers learn, so that the body joints stay TinyPose's. Hardware: one CPU core, under an hour.
    The scores it reached stand in EXPERIMENTS.md.
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
                lr=2e-3,
                weight_decay=0.0,
                clip=10.0,
                schedule="cosine",
                warmup_steps=30,
                ema=0.99,
                only=("network.detail.", "network.head."),
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
