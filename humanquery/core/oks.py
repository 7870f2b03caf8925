"""The one OKS."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def oks(
    found: Float[Tensor, "*#n k 2"],
    true: Float[Tensor, "*#n k 2"],
    area: Float[Tensor, "*#n"],
    sigmas: Float[Tensor, " k"],
    counts: Bool[Tensor, "*#n k"],
    max_exponent: float | None = None,
) -> Float[Tensor, "*m"]:
    """Object keypoint similarity, 0..1; 0 where no joint counts.

    COCO keypoint evaluation: mean over counted joints of exp(-d² / (2 area (2 sigma)²)). `area` in
    px² of the true person; both point sets in the same space; the leading shapes broadcast, so that
    `found[:, None]` against `true[None]` gives every pair. `max_exponent` cuts the exponent (the
    matching cost of HQNet cuts at 100).
    """
    near = torch.where(counts, joint_similarity(found, true, area, sigmas, max_exponent), 0.0)
    return near.sum(-1) / counts.sum(-1).clamp(min=1)


def joint_similarity(
    found: Float[Tensor, "*#n k 2"],
    true: Float[Tensor, "*#n k 2"],
    area: Float[Tensor, "*#n"],
    sigmas: Float[Tensor, " k"],
    max_exponent: float | None = None,
) -> Float[Tensor, "*#n k"]:
    """What each joint adds to `oks`: 1 in its place, 0 far away."""
    squared = ((found - true) ** 2).sum(-1)
    exponent = squared / (2 * area[..., None].clamp(min=1e-6) * (2 * sigmas) ** 2)
    if max_exponent is not None:
        exponent = exponent.clamp(max=max_exponent)
    return torch.exp(-exponent)
