"""Pixel-wise pose regression with CIR and QEM: the paper's training, and two for one machine."""

from dataclasses import replace

from humanquery.backbones import TimmBackbone
from humanquery.data.augment.augment import AugmentConfig, SquareConfig
from humanquery.data.augment.photometric import PhotometricConfig
from humanquery.data.loading.loader import MixConfig, MixPart
from humanquery.data.readers.coco import CocoSourceConfig
from humanquery.data.scenes.scenes import easy_scenes
from humanquery.engine.optim import OptimConfig
from humanquery.engine.train_config import EngineConfig
from humanquery.experts import MoveNetBackbone
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models.pixelwise.config import (
    InstanceBranchConfig,
    KeypointBranchConfig,
    OksNMSConfig,
    PixelWiseConfig,
    TargetConfig,
)
from humanquery.recipes.recipe import DataConfig, Recipe
from humanquery.recipes.small import data_root, weights_root

POSE_PICTURES = 56_599
"""of COCO train2017 with labelled joints (the paper: 57k)"""
CROWDPOSE_PICTURES = 12_000
"""of its training and validation part"""
BATCH, EPOCHS = 64, 180
"""the paper tells the batch and that the rate drops at epochs 150 and 170, not where it ends"""


def pixelwise_w32() -> Recipe:
    """HRNet-W32 on COCO keypoints at 512 px, as in the paper.

    torchrun --nproc-per-node 8 -m humanquery train --recipe pixelwise_w32 --out runs/pixelwise

    Data: COCO 2017 pictures under data/coco/{train,val}2017 and person_keypoints_*.json under
    data/coco/annotations (docs/datasets.md). Hardware: 8 GPUs of 24 GB, eight pictures each.
    Expected on val2017 (paper, Table 1, one scale): keypoint AP 69.8, AP50 88.1, AP_M 63.8, AP_L
    78.9. Not trained by this project; docs/pixelwise.md tells which numbers the paper leaves open,
    among them whether its tables look at the mirrored picture too (`model.flip_test=True`).
    """
    return _paper(
        "hrnet_w32",
        512,
        "coco17",
        "data/coco/annotations/person_keypoints_{}2017.json",
        "data/coco/{}2017",
        POSE_PICTURES,
        data_name="COCO train2017",
        data_licence="annotations CC BY 4.0; pictures: Flickr terms",
    )


def pixelwise_w48() -> Recipe:
    """HRNet-W48 on COCO keypoints at 640 px, otherwise as pixelwise_w32.

    torchrun --nproc-per-node 8 -m humanquery train --recipe pixelwise_w48 --out runs/pixelwise48

    Data as pixelwise_w32. Hardware: 8 GPUs of 48 GB. Expected on val2017 (paper, Table 1, one
    scale): keypoint AP 72.4, AP50 89.1, AP_M 67.3, AP_L 80.4. Not trained by this project.
    """
    return _paper(
        "hrnet_w48",
        640,
        "coco17",
        "data/coco/annotations/person_keypoints_{}2017.json",
        "data/coco/{}2017",
        POSE_PICTURES,
        data_name="COCO train2017",
        data_licence="annotations CC BY 4.0; pictures: Flickr terms",
    )


def pixelwise_crowdpose() -> Recipe:
    """HRNet-W32 on CrowdPose (14 joints) at 512 px, with the numbers of pixelwise_w32.

    torchrun --nproc-per-node 8 -m humanquery train --recipe pixelwise_crowdpose --out runs/crowd

    Data: CrowdPose pictures under data/crowdpose/images and crowdpose_trainval.json and
    crowdpose_test.json under data/crowdpose/annotations (docs/datasets.md). Hardware: 8 GPUs of
    24 GB. Expected: the paper has no row for CrowdPose; its baseline DEKR reports AP 65.7 with
    HRNet-W32 (easy 73.0, medium 66.4, hard 57.5). Not trained by this project.
    """
    recipe = _paper(
        "hrnet_w32",
        512,
        "crowdpose14",
        "data/crowdpose/annotations/crowdpose_{}.json",
        "data/crowdpose/images",
        CROWDPOSE_PICTURES,
        parts=("trainval", "test"),
        data_name="CrowdPose trainval",
        data_licence="research only",
    )
    return recipe


def _paper(
    backbone: str,
    side: int,
    skeleton: str,
    annotations: str,
    images: str,
    pictures: int,
    *,
    parts: tuple[str, str] = ("train", "val"),
    data_name: str,
    data_licence: str,
) -> Recipe:
    """The paper's training; `{}` in paths becomes the name of the part."""
    train, val = (
        CocoSourceConfig(annotations.format(part), images.format(part), skeleton=skeleton)
        for part in parts
    )
    epoch = pictures // BATCH
    letterbox = LetterboxConfig(side, 4 * side)
    return Recipe(
        model=PixelWiseConfig(
            skeleton=skeleton,
            backbone=TimmBackbone(
                backbone,
                pretrained=True,
                frozen_stages=0,
                frozen_norm=False,
                options={"feature_location": ""},
            ),
            input=letterbox,
        ),
        data=DataConfig(
            train=MixConfig.of(replace(train, keep_empty=False)),
            val=val,
            augment=AugmentConfig(square=SquareConfig(side), colours=JITTER),
            letterbox=letterbox,
        ),
        engine=EngineConfig(
            steps=EPOCHS * epoch,
            batch_size=BATCH // 8,
            num_workers=4,
            optim=OptimConfig(
                lr=5e-4,
                weight_decay=0.0,
                backbone_multiplier=1.0,
                clip=0.0,
                milestones=(150 / EPOCHS, 170 / EPOCHS),
            ),
            evaluate_every=10 * epoch,
        ),
        data_name=data_name,
        data_licence=data_licence,
    )


JITTER = PhotometricConfig(
    chance=1.0,
    brightness=0.4 * 128,
    contrast=(0.6, 1.4),
    saturation=(0.6, 1.4),
    hue=0.0,
    swap_channels=0.0,
)
"""the paper says "color jitter" and no strength; these are the first author's in AdaptivePose"""


def pixelwise_small() -> Recipe:
    """Pixel-wise poses for real photos from the features of MoveNet MultiPose, its pyramid and
    heads among them, on data/people.

    humanquery train --recipe pixelwise_small --out runs/pixelwise-small

    Data: people/ (docs/datasets.md) under HUMANQUERY_DATA, MoveNet's file under
    HUMANQUERY_WEIGHTS. Hardware: one GPU for less than an hour (not tried), or a CPU core for half
    a day. Only its first step has been tried; EXPERIMENTS.md will tell its scores.
    """
    people = data_root() + "/people"
    letterbox = LetterboxConfig(416, 640)
    return Recipe(
        model=PixelWiseConfig(
            backbone=MoveNetBackbone(
                f"{weights_root()}/movenet_multipose.fp16.safetensors", frozen_blocks=7, heads=True
            ),
            input=letterbox,
            target=TargetConfig(min_area=256.0),
            pose_nms=OksNMSConfig(0.8),
        ),
        data=DataConfig(
            train=MixConfig(
                (
                    MixPart(CocoSourceConfig(f"{people}/train.json", fields=("keypoints",)), 0.65),
                    MixPart(
                        CocoSourceConfig(f"{people}/train_more.json", fields=("keypoints",)), 0.35
                    ),
                )
            ),
            val=CocoSourceConfig(f"{people}/val.json", fields=("keypoints",)),
            augment=AugmentConfig(square=SquareConfig(384, (0.6, 1.5)), colours=JITTER),
            letterbox=letterbox,
        ),
        engine=EngineConfig(
            steps=6000,
            batch_size=8,
            num_workers=1,
            optim=OptimConfig(
                lr=1e-3,
                weight_decay=1e-4,
                clip=5.0,
                schedule="cosine",
                warmup_steps=200,
                ema=0.998,
            ),
            # not bf16: on a CPU without fast kernels its wide 1×1 convolutions took minutes a step
            channels_last=True,
            checkpoint_minutes=3.0,
        ),
        data_name="people/ train and train_more (COCO val2017 and train2017 pictures)",
        data_licence="annotations CC BY 4.0; pictures: Flickr terms",
    )


def pixelwise_tiny_scenes() -> Recipe:
    """A regressor of half a million parameters from scratch on generated scenes: what each part of
    the paper adds, in minutes (`benchmarks/pixelwise_ablations.py`).

    humanquery train --recipe pixelwise_tiny_scenes --out runs/pixelwise-tiny

    Data: generated while training, one or two large people on 96 × 96. Hardware: one CPU core
    for some minutes. The scores it reaches on unseen scenes stand in EXPERIMENTS.md.
    """
    size = 96
    scenes = replace(
        easy_scenes(seed=1, size=size),
        people=(1, 2),
        height_fraction=(0.6, 0.9),
        overlap=0.1,
        poses=("stand", "wave", "hips"),
        views=("front",),
    )
    letterbox = LetterboxConfig(size, size)
    return Recipe(
        model=PixelWiseConfig(
            backbone=TimmBackbone(
                "test_resnet",
                frozen_stages=0,
                frozen_norm=False,
                options={"channels": [24, 48, 96, 128], "layers": [1, 1, 1, 1]},
            ),
            keypoints=KeypointBranchConfig(channels=8),
            instance=InstanceBranchConfig(channels=32),
            target=TargetConfig(min_area=256.0),
            input=letterbox,
        ),
        data=DataConfig(
            train=MixConfig.of(scenes),
            val=replace(scenes, count=200, split="val"),
            augment=AugmentConfig(
                mirror=0.0,
                short_sides=(size,),
                long_side=size,
                crop=None,
                colours=PhotometricConfig(chance=0.0),
            ),
            letterbox=letterbox,
        ),
        engine=EngineConfig(
            steps=400,
            batch_size=8,
            num_workers=0,
            optim=OptimConfig(
                lr=2e-3,
                backbone_multiplier=1.0,
                clip=5.0,
                schedule="cosine",
                warmup_steps=20,
                ema=0.98,
            ),
            channels_last=True,
            checkpoint_minutes=3.0,
        ),
        data_name="generated scenes",
        data_licence="Apache-2.0 (drawn by this library)",
    )
