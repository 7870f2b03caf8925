"""Sine encodings and the logit of a coordinate."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from humanquery.core.transfer import constants


def inverse_sigmoid(unit: Float[Tensor, "*n"], eps: float = 1e-3) -> Float[Tensor, "*n"]:
    """Logit of a value in 0..1, cut at `eps` from both ends."""
    unit = unit.clamp(0, 1)
    return torch.log(unit.clamp(min=eps) / (1 - unit).clamp(min=eps))


def sine_map(
    padding: Bool[Tensor, "b h w"], features: int, temperature: float = 20.0
) -> Float[Tensor, "b c h w"]:
    """Position of every cell inside the valid part, 2·features channels, (y, x); see HQNet's
    encoder.

    Positions run from 1/n to 1 over the valid rows and columns, times 2 pi.
    """
    valid = (~padding).float()
    y, x = valid.cumsum(1), valid.cumsum(2)
    y = y / (y[:, -1:, :] + 1e-6) * 2 * math.pi
    x = x / (x[:, :, -1:] + 1e-6) * 2 * math.pi
    return torch.cat(
        [_waves(y, features, temperature), _waves(x, features, temperature)], -1
    ).permute(0, 3, 1, 2)


def sine_boxes(
    boxes_unit: Float[Tensor, "*n 4"], features: int, temperature: float = 10000.0
) -> Float[Tensor, "*n c"]:
    """cxcywh of the unit canvas as 4·features waves in the order (y, x, w, h) (DAB-DETR, DINO)."""
    x, y, w, h = (boxes_unit * 2 * math.pi).unbind(-1)
    return torch.cat([_waves(value, features, temperature) for value in (y, x, w, h)], -1)


def _waves(values: Tensor, features: int, temperature: float) -> Tensor:
    steps = torch.arange(features, device=values.device, dtype=torch.float32)
    divisor = temperature ** (2 * torch.div(steps, 2, rounding_mode="floor") / features)
    angles = values[..., None] / divisor
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], -1).flatten(-2)


def encoder_references(
    shapes: tuple[tuple[int, int], ...], valid_ratios: Float[Tensor, "b levels 2"]
) -> Float[Tensor, "b s levels 2"]:
    """Every cell's own centre, 0..1 of the padded map of every level."""
    centers = []
    for level, (h, w) in enumerate(shapes):
        y, x = torch.meshgrid(
            torch.arange(h, device=valid_ratios.device) + 0.5,
            torch.arange(w, device=valid_ratios.device) + 0.5,
            indexing="ij",
        )
        cells = torch.stack([x.flatten(), y.flatten()], -1)[None]
        centers.append(cells / (valid_ratios[:, None, level] * constants([w, h], valid_ratios)))
    return torch.cat(centers, 1)[:, :, None] * valid_ratios[:, None]
