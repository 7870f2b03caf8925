"""Models for one machine."""

import os
from dataclasses import replace

from humanquery.backbones import TimmBackbone
from humanquery.data.augment.augment import AugmentConfig
from humanquery.data.augment.copy_paste import CopyPasteConfig
from humanquery.data.augment.photometric import PhotometricConfig
from humanquery.data.loading.loader import MixConfig, MixPart
from humanquery.data.readers.coco import CocoSourceConfig
from humanquery.data.readers.crops import FacesConfig, PetaConfig
from humanquery.data.scenes.scenes import easy_scenes
from humanquery.engine.optim import OptimConfig
from humanquery.engine.train_config import EngineConfig
from humanquery.experts import AttributesBackbone, MoveNetBackbone, RtmdetBackbone, StackedBackbone
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models.hqnet.config import (
    DenoisingConfig,
    HQNetConfig,
    TasksConfig,
    TransformerConfig,
)
from humanquery.nn.person_views import RegionConfig
from humanquery.recipes.recipe import DataConfig, Recipe
from humanquery.tasks.age import AgeConfig
from humanquery.tasks.box import BoxConfig
from humanquery.tasks.gender import GenderConfig
from humanquery.tasks.keypoint_refinement import RefinementConfig
from humanquery.tasks.keypoints import KeypointsConfig
from humanquery.tasks.mask import MaskConfig
from humanquery.tasks.mask_refinement import MaskRefinementConfig
from humanquery.tasks.person import PersonConfig

VIEWS = RegionConfig(head=96, view_dropout=0.15)
"""of people, from which attributes_small learns gender and age for hqnet_small"""


def data_root() -> str:
    """Where real photos and labels lie: the environment variable HUMANQUERY_DATA, or
    ../shared/data."""
    return os.environ.get("HUMANQUERY_DATA", "../shared/data")


def weights_root() -> str:
    """Where pretrained backbones lie: the environment variable HUMANQUERY_WEIGHTS, or
    ../shared/weights."""
    return os.environ.get("HUMANQUERY_WEIGHTS", "../shared/weights")


def hqnet_tiny_scenes() -> Recipe:
    """A 2.4 M-parameter HQNet, all tasks, from scratch on generated scenes: the proof that
    everything learns.

    humanquery train --recipe hqnet_tiny_scenes --out runs/tiny

    Data: generated while training, one or two large people on 160 × 160. Hardware: two CPU cores,
    about a quarter of an hour. The scores it reaches on unseen scenes stand in EXPERIMENTS.md.
    """
    size = 160
    scenes = replace(
        easy_scenes(seed=1, size=size),
        people=(1, 2),
        height_fraction=(0.7, 0.95),
        overlap=0.1,
        poses=("stand", "wave", "hips"),
        views=("front",),
    )
    keep = AugmentConfig(
        mirror=0.0,
        short_sides=(size,),
        long_side=size,
        crop=None,
        colours=PhotometricConfig(chance=0.0),
        copy_paste=CopyPasteConfig(),
    )
    return Recipe(
        model=HQNetConfig(
            backbone=TimmBackbone(
                "test_resnet",
                frozen_stages=0,
                frozen_norm=False,
                options={"channels": [32, 64, 128, 192], "layers": [1, 2, 2, 1]},
            ),
            transformer=TransformerConfig(
                dim=128, levels=3, encoder_layers=1, decoder_layers=3, feedforward=256
            ),
            tasks=TasksConfig(
                # A small trunk follows the loudest losses: with weight 1 the class score learns
                # last. In a short training many queries find each person; its cost keeps the same
                # one of them matched, so that the rest learn to be background.
                person=PersonConfig(loss=5.0, cost=10.0),
                box=BoxConfig(l1=10.0, giou=4.0),
                keypoints=KeypointsConfig(
                    hidden=128,
                    in_boxes=True,
                    refinement=RefinementConfig(1, 256, 0.0),
                    heatmap=None,
                ),
                mask=MaskConfig(num_points=1024),
                gender=GenderConfig(hidden_layers=1),
                age=AgeConfig(loss=0.3, hidden_layers=1),
            ),
            denoising=DenoisingConfig(pairs=40),
            num_queries=12,
            num_persons=12,
            input=LetterboxConfig(size, size),
        ),
        data=DataConfig(
            train=MixConfig.of(scenes),
            val=replace(scenes, count=300, split="val"),
            augment=keep,
            letterbox=LetterboxConfig(size, size),
        ),
        engine=EngineConfig(
            steps=2000,
            batch_size=8,
            num_workers=1,
            precision="bf16",
            optim=OptimConfig(
                lr=1e-3,
                backbone_multiplier=1.0,
                clip=1.0,
                schedule="cosine",
                warmup_steps=50,
                ema=0.99,
            ),
            log_every=20,
            checkpoint_minutes=3.0,
        ),
        data_name="generated scenes",
        data_licence="Apache-2.0 (drawn by this library)",
    )


def hqnet_small() -> Recipe:
    """A small HQNet for real photos that starts from three networks: RTMDet-nano proposes boxes,
    MoveNet MultiPose joints, and a network of the recipe `attributes_small` gender and age, all
    frozen; queries, masks, scores and corrections are learned on data/people.

    humanquery train --recipe attributes_small --out runs/attributes
    humanquery train --recipe hqnet_small --out runs/small

    Data: people/, peta/, faces/ (docs/datasets.md) under HUMANQUERY_DATA; backbone files under
    HUMANQUERY_WEIGHTS and in HUMANQUERY_ATTRIBUTES (default: runs/attributes/model.safetensors).
    Hardware: one CPU core with bf16 for some hours. The scores it reached stand in EXPERIMENTS.md
    and docs/model-card.md; `humanquery ship` made hqnet-small of it.
    """
    people, weights = data_root() + "/people", weights_root()
    return Recipe(
        model=HQNetConfig(
            backbone=StackedBackbone(
                (
                    RtmdetBackbone(f"{weights}/rtmdet_nano_person.fp16.safetensors"),
                    MoveNetBackbone(
                        f"{weights}/movenet_multipose.fp16.safetensors",
                        frozen_blocks=7,
                        heads=True,
                        pose_scales=(0.6, 1.0, 1.6),
                    ),
                    AttributesBackbone(
                        os.environ.get(
                            "HUMANQUERY_ATTRIBUTES", "runs/attributes/model.safetensors"
                        ),
                        regions=VIEWS,
                    ),
                )
            ),
            transformer=TransformerConfig(
                dim=128, levels=3, encoder_layers=1, decoder_layers=2, feedforward=512
            ),
            tasks=TasksConfig(
                person=PersonConfig(loss=2.0, cost=5.0),
                keypoints=KeypointsConfig(
                    l1=20.0,
                    oks=4.0,
                    refine_l1=20.0,
                    refine_oks=8.0,
                    oks_form="linear",
                    hidden=256,
                    in_boxes=True,
                    refinement=RefinementConfig(
                        2, 512, 0.0, in_boxes=True, scores=True, local_features=True
                    ),
                    heatmap=None,
                ),
                mask=MaskConfig(num_points=1024, in_boxes=True, refinement=MaskRefinementConfig()),
                # the attribute network's answers as they are: photos that train this model are the
                # same that trained it
                gender=GenderConfig(loss=0.0),
                age=AgeConfig(loss=0.0),
            ),
            denoising=None,
            priors=("person", "keypoints", "gender", "age"),
            num_queries=40,
            num_persons=40,
            input=LetterboxConfig(416, 416, zoom=2),
        ),
        data=DataConfig(
            train=MixConfig(
                (
                    MixPart(CocoSourceConfig(f"{people}/train.json"), 0.6),
                    MixPart(CocoSourceConfig(f"{people}/train_more.json"), 0.32),
                    MixPart(PetaConfig(data_root() + "/peta"), 0.04),
                    MixPart(FacesConfig(data_root() + "/faces"), 0.04),
                )
            ),
            val=CocoSourceConfig(f"{people}/val.json"),
            augment=AugmentConfig(canvas=(320, 320), canvas_scale=(0.7, 1.5)),
            letterbox=LetterboxConfig(416, 416, zoom=2),
        ),
        engine=EngineConfig(
            steps=3000,
            batch_size=6,
            num_workers=1,
            optim=OptimConfig(lr=5e-4, clip=1.0, schedule="cosine", warmup_steps=200, ema=0.998),
            precision="bf16",
            channels_last=True,
            checkpoint_minutes=3.0,
        ),
        data_name="people/ train and train_more (COCO val2017 and train2017 pictures)",
        data_licence="annotations CC BY 4.0 and research impressions of gender and age; pictures: "
        "Flickr terms",
    )
