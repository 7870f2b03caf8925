"""A very small HQNet and made-up batches for behaviour tests."""

from dataclasses import replace

import torch

from humanquery.core.batch import Batch, Meta
from humanquery.core.rows import Labelled
from humanquery.core.skeleton import COCO17
from humanquery.core.target import Target, empty_target
from humanquery.models.hqnet.config import (
    DenoisingConfig,
    HQNetConfig,
    TasksConfig,
    TransformerConfig,
)
from humanquery.models.hqnet.hqnet import HQNet
from humanquery.tasks.keypoint_heatmap import HeatmapConfig
from humanquery.tasks.keypoint_refinement import RefinementConfig
from humanquery.tasks.keypoints import KeypointsConfig
from humanquery.tasks.mask import MaskConfig
from tests.models.official_resnet import OfficialResNet


def small_config(**tasks) -> HQNetConfig:
    keypoints = KeypointsConfig(
        hidden=32,
        refinement=RefinementConfig(1, 32, 0.0),
        heatmap=HeatmapConfig(feedforward=32, dropout=0.0),
    )
    return HQNetConfig(
        transformer=TransformerConfig(
            dim=32, heads=4, points=2, levels=3, encoder_layers=1, decoder_layers=2, feedforward=32
        ),
        tasks=replace(TasksConfig(keypoints=keypoints, mask=MaskConfig(num_points=64)), **tasks),
        denoising=DenoisingConfig(pairs=6),
        num_queries=12,
        num_persons=8,
    )


def small_model(config: HQNetConfig | None = None, seed: int = 0) -> HQNet:
    torch.manual_seed(seed)
    return HQNet(config or small_config(), backbone=OfficialResNet(4, (1, 1, 1, 1)))


def person(size: tuple[int, int], box: tuple[float, float, float, float], **labels) -> Target:
    """One fully annotated person; labels replace fields."""
    target_box = torch.tensor([box])
    mask = torch.zeros(1, *size, dtype=torch.bool)
    x1, y1, x2, y2 = (int(v) for v in box)
    mask[0, y1:y2, x1:x2] = True
    yes = torch.ones(1, dtype=torch.bool)
    spread = torch.linspace(0.1, 0.9, 17)[None, :, None]
    joints = target_box[:, None, :2] + spread * (target_box[:, None, 2:] - target_box[:, None, :2])
    fields = {
        "ignore": ~yes,
        "areas": mask.sum((1, 2)).float(),
        "keypoints": Labelled(joints, yes),
        "visibility": torch.full((1, 17), 2),
        "masks": Labelled(mask, yes),
        "gender": Labelled(torch.ones(1), yes),
        "age": Labelled(torch.tensor([[30.0, 30.0]]), yes),
    }
    return Target(image_size=size, boxes=target_box, skeleton=COCO17, **(fields | labels))


def batch(targets: list[Target], seed: int = 0, padded: tuple[int, int] | None = None) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    height = max(t.image_size[0] for t in targets) if padded is None else padded[0]
    width = max(t.image_size[1] for t in targets) if padded is None else padded[1]
    images = torch.zeros(len(targets), 3, height, width)
    padding = torch.ones(len(targets), height, width, dtype=torch.bool)
    for i, target in enumerate(targets):
        h, w = target.image_size
        images[i, :, :h, :w] = torch.rand(3, h, w, generator=generator)
        padding[i, :h, :w] = False
    metas = [Meta(t.image_size, t.image_size) for t in targets]
    return Batch(images, padding, metas, targets)


SIZE = (64, 80)


def crowd() -> Target:
    """Two people beside each other."""
    return Target.cat([person(SIZE, (5.0, 4.0, 30.0, 60.0)), person(SIZE, (40.0, 8.0, 70.0, 50.0))])


def nobody() -> Target:
    return empty_target(SIZE, COCO17)
