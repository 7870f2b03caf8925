"""Values of maps at places between their cells."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humanquery.core.transfer import constants


def sample_points(
    maps: Float[Tensor, "k h w"] | Bool[Tensor, "k h w"],
    points: Float[Tensor, "n p 2"],
    rows: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, "n p"]:
    """Bilinear values at the points, (x, y) in 0..1, of the maps `rows` (default: each of its own);
    zero outside.

    By indexing: only what is asked for is read, whatever the type of the map, and the gradient has
    a deterministic form on CUDA, which that of `grid_sample` has not.
    """
    k, height, width = maps.shape
    rows = torch.arange(k, device=maps.device) if rows is None else rows
    at = points * constants([width, height], points) - 0.5
    low = at.floor()
    part, low = at - low, low.long()
    values = 0.0
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        x, y = low[..., 0] + right, low[..., 1] + down
        share = (part[..., 0] if right else 1 - part[..., 0]) * (
            part[..., 1] if down else 1 - part[..., 1]
        )
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        seen = maps[rows[:, None], y.clamp(0, height - 1), x.clamp(0, width - 1)]
        values = values + torch.where(inside, share, 0.0) * seen
    return values
