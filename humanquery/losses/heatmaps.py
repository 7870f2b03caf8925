"""Losses of crops' heat maps: Gaussians, coordinates by integration, and both at once
(AlphaPose)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from humanquery.core.affine import Size


def gaussian_maps(
    joints: Float[Tensor, "n k 2"],
    counted: Bool[Tensor, "n k"],
    size: Size,
    stride: int = 4,
    sigma: float = 2.0,
    radius: int = 6,
) -> tuple[Float[Tensor, "n k h w"], Bool[Tensor, "n k"]]:
    """A Gaussian of height 1 at the cell of every counted joint, and which joints still count.

    `joints` in px of the crop, `size` the map's (h, w), `sigma` and `radius` in cells. A joint
    whose
    whole patch lies outside of the map counts no more.
    """
    height, width = size
    cell = (joints / stride + 0.5).floor()
    x = torch.arange(width, device=joints.device) - cell[..., :1]
    y = torch.arange(height, device=joints.device) - cell[..., 1:]
    inside = (x.abs() <= radius).any(-1) & (y.abs() <= radius).any(-1)
    shown = counted & inside
    along_x = torch.where(x.abs() <= radius, torch.exp(-(x**2) / (2 * sigma**2)), 0.0)
    along_y = torch.where(y.abs() <= radius, torch.exp(-(y**2) / (2 * sigma**2)), 0.0)
    along_x = torch.where(shown[..., None], along_x, 0.0)
    return along_y[..., :, None] * along_x[..., None, :], shown


def heatmap_error(
    maps: Float[Tensor, "n k h w"],
    targets: Float[Tensor, "n k h w"],
    counted: Bool[Tensor, "n k"],
) -> Float[Tensor, ""]:
    """Half the sum of squares over the counted joints' maps; divided by n k h w it is the released
    loss."""
    squared = torch.where(counted[..., None, None], (maps - targets) ** 2, 0.0)
    return squared.sum() / 2


def coordinate_error(
    unit: Float[Tensor, "n k 2"],
    true_unit: Float[Tensor, "n k 2"],
    counted: Bool[Tensor, "n k"],
    weights: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Sum of the absolute differences (eq. 2) of the counted joints, both axes, each joint times
    its
    weight; divided by the number of crops it is the released loss."""
    apart = torch.where(counted[..., None], (unit - true_unit).abs(), 0.0).sum(-1)
    return apart.sum() if weights is None else (apart * weights).sum()
