"""A very small pixel-wise regressor and made-up truth for behaviour tests."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from humanquery.core.batch import Batch, Meta
from humanquery.core.rows import Labelled
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.core.target import Target
from humanquery.models.pixelwise.config import (
    InstanceBranchConfig,
    KeypointBranchConfig,
    PixelWiseConfig,
)
from humanquery.models.pixelwise.system import PixelWise

SIZE = (96, 128)


class Pyramid(nn.Module):
    """Four maps of four channels: means of squares of a 1×1 convolution, so that what it says of a
    mirrored picture is the mirror image of what it says of the picture."""

    channels, mean, std = (4, 4, 4, 4), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(3, 4, 1)

    def forward(self, images):
        fine = F.avg_pool2d(self.mix(images), 4)
        return [fine, *(F.avg_pool2d(fine, n) for n in (2, 4, 8))]


def small_config(**fields) -> PixelWiseConfig:
    keypoints = fields.pop("keypoints", KeypointBranchConfig(channels=3))
    instance = fields.pop("instance", InstanceBranchConfig(channels=5))
    return PixelWiseConfig(keypoints=keypoints, instance=instance, **fields)


def small_model(seed: int = 0, spread: float = 0.3, **fields) -> PixelWise:
    """`spread`: of all weights that start at zero or near it, so that points go somewhere."""
    torch.manual_seed(seed)
    model = PixelWise(small_config(**fields), backbone=Pyramid())
    for reader in ("locate", "spread", "regress"):
        module = getattr(model.keypoints, reader, None)
        if module is not None:
            nn.init.normal_(module.weight, std=spread)
    return model


def person(
    joints: torch.Tensor,
    *,
    visibility: torch.Tensor | None = None,
    area: float = 2000.0,
    ignore: bool = False,
    skeleton: Skeleton = COCO17,
    size: tuple[int, int] = SIZE,
) -> Target:
    """One person with these joints, k 2 px; visibility 2 unless it is given."""
    seen = torch.full((len(joints),), 2) if visibility is None else visibility
    known = joints[seen > 0] if (seen > 0).any() else joints
    low, high = known.amin(0), known.amax(0)
    return Target(
        image_size=size,
        boxes=torch.cat([low, high.maximum(low + 1)])[None],
        ignore=torch.tensor([ignore]),
        areas=torch.tensor([float(area)]),
        keypoints=Labelled(joints[None], torch.tensor([not ignore])),
        visibility=seen[None],
        skeleton=skeleton,
    )


def around(center: tuple[float, float], reach: float = 20.0, joints: int = 17) -> torch.Tensor:
    """Joints in a circle, whose mean is `center` (px)."""
    angle = torch.arange(joints) * (2 * torch.pi / joints)
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    return torch.tensor(center) + reach * (circle - circle.mean(0))


def batch_of(targets: Sequence[Target] | None, size: tuple[int, int] = SIZE, count: int = 1):
    """Noise with this truth."""
    count = count if targets is None else len(targets)
    noise = torch.Generator().manual_seed(1)
    return Batch(
        torch.rand(count, 3, *size, generator=noise),
        torch.zeros(count, *size, dtype=torch.bool),
        [Meta(size, size) for _ in range(count)],
        None if targets is None else list(targets),
    )
