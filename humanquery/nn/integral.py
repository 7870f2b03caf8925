"""Joints as the mean of a heat map: symmetric integral keypoint regression (SIKR) and what it
replaces.

AlphaPose (Fang et al., TPAMI 2022), section 3.1. Positions are in cells of the map, the centre of
the
first cell at 0, as released.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class IntegralConfig:
    """As released; the ablations of Table 5 differ in one field each."""

    normalisation: Literal["two-step", "softmax"] = "two-step"
    """two-step: sigmoid, then division by the sum (eq. 13 and 15); softmax: one step"""
    gradient: Literal["symmetric", "integral"] = "symmetric"
    """symmetric: amplitude-symmetric gradient (eq. 3); integral: the true one (eq. 7)"""
    amplitude: float | Literal["eighth"] = 2.0
    """A of eq. 3 in cells, for both axes; "eighth": 1/8 of the map's width and height, as in the
    paper"""


class _SymmetricMean(torch.autograd.Function):
    """Forward: sum_i i p(i). Backward: d mean / d p(i) = A sgn(i - mean), with sgn(0) = 1."""

    @staticmethod
    def forward(ctx, marginal: Tensor, amplitude: float) -> Tensor:
        cells = torch.arange(marginal.shape[-1], device=marginal.device, dtype=marginal.dtype)
        mean = (marginal * cells).sum(-1)
        ctx.save_for_backward(cells, mean)
        ctx.amplitude = amplitude
        return mean

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        cells, mean = ctx.saved_tensors
        sign = torch.where(cells >= mean[..., None], 1.0, -1.0).to(grad.dtype)
        return grad[..., None] * ctx.amplitude * sign, None


def symmetric_mean(marginal: Float[Tensor, "*n w"], amplitude: float | int) -> Float[Tensor, "*n"]:
    """Mean cell of each distribution; its gradient pushes all cells on either side of the mean
    alike
    (eq. 3), `amplitude` cells strong."""
    return _SymmetricMean.apply(marginal, float(amplitude))


def integral_mean(marginal: Float[Tensor, "*n w"]) -> Float[Tensor, "*n"]:
    """Mean cell of each distribution (eq. 1)."""
    cells = torch.arange(marginal.shape[-1], device=marginal.device, dtype=marginal.dtype)
    return (marginal * cells).sum(-1)


@dataclass(frozen=True, eq=False)
class IntegralJoints:
    """Joints read from heat maps."""

    unit: Float[Tensor, "n k 2"]
    """x / w - 0.5 and y / h - 0.5, x and y in cells: what the loss compares"""
    scores: Float[Tensor, "n k"]
    """0..1"""

    def cells(self, height: int, width: int) -> Float[Tensor, "n k 2"]:
        """x, y in cells of the map, the centre of the first cell at 0."""
        return (self.unit + 0.5) * self.unit.new_tensor([width, height])


def integral_joints(
    logits: Float[Tensor, "n k h w"], config: IntegralConfig | None = None
) -> IntegralJoints:
    """Mean of every normalised map, and the joint's score: the highest value of the first step
    (eq. 14), of the only step with softmax."""
    config = config or IntegralConfig()
    height, width = logits.shape[-2:]
    flat = logits.flatten(2)
    if config.normalisation == "softmax":
        share = flat.softmax(-1)
        scores = share.amax(-1)
    else:
        confidence = flat.sigmoid()  # eq. 13
        scores = confidence.amax(-1)  # eq. 14
        share = confidence / confidence.sum(-1, keepdim=True)  # eq. 15
    share = share.unflatten(-1, (height, width))
    x, y = (_mean(share.sum(axis), config, size) for axis, size in ((-2, width), (-1, height)))
    return IntegralJoints(torch.stack([x / width - 0.5, y / height - 0.5], -1), scores)


def _mean(marginal: Tensor, config: IntegralConfig, size: int) -> Tensor:
    if config.gradient == "integral":
        return integral_mean(marginal)
    return symmetric_mean(marginal, size / 8 if config.amplitude == "eighth" else config.amplitude)


def heatmap_joints(
    maps: Float[Tensor, "n k h w"],
) -> tuple[Float[Tensor, "n k 2"], Float[Tensor, "n k"]]:
    """The highest cell of each map, moved by a quarter cell towards its higher neighbour, and its
    raw value.

    Cells on the border (and next to the first) stay where they are; a map without a positive value
    gives (0, 0), as released.
    """
    height, width = maps.shape[-2:]
    scores, best = maps.flatten(2).max(-1)
    x, y = best % width, best // width
    inner = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    right, left = _cell(maps, x + 1, y), _cell(maps, x - 1, y)
    below, above = _cell(maps, x, y + 1), _cell(maps, x, y - 1)
    shift = torch.stack([right - left, below - above], -1).sign() / 4
    places = torch.stack([x, y], -1).to(maps.dtype)
    places = torch.where(inner[..., None], places + shift, places)
    return torch.where((scores > 0)[..., None], places, 0.0), scores


def _cell(maps: Tensor, x: Int[Tensor, "n k"], y: Int[Tensor, "n k"]) -> Tensor:
    height, width = maps.shape[-2:]
    at = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return maps.flatten(2).gather(-1, at[..., None])[..., 0]


def unmirrored(
    maps: Float[Tensor, "n k h w"], mirror_order: tuple[int, ...], *, shift: bool = True
) -> Float[Tensor, "n k h w"]:
    """The maps of a mirrored crop as those of the crop: columns turned round, left and right joints
    swapped.

    `shift` moves them right by one column (the first one stays), as released: the cells' centres
    mirror one column off.
    """
    turned = maps.flip(-1)[:, list(mirror_order)]
    return torch.cat([turned[..., :1], turned[..., :-1]], -1) if shift else turned


def flip_test(
    network: nn.Module,
    crops: Float[Tensor, "n c h w"],
    mirror_order: tuple[int, ...],
    *,
    shift: bool = True,
) -> Float[Tensor, "n k H W"]:
    """Mean of the raw maps of the crops and of their mirror images."""
    turned = unmirrored(network(crops.flip(-1)), mirror_order, shift=shift)
    return (network(crops) + turned) / 2
