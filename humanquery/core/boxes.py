"""Boxes: xyxy pixels or cxcywh of the unit canvas. The one IoU of the house."""

import torch
from jaxtyping import Float
from torch import Tensor

from humanquery.core.affine import Size
from humanquery.core.transfer import constants

BODY_SHARE = 0.53
"""of a box is body, on average over COCO: the area that OKS wants, where only a box is known"""


def xyxy_to_cxcywh(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], -1)


def cxcywh_to_xyxy(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], -1)


def xyxy_to_xywh(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1)


def xywh_to_xyxy(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)


def unit_to_canvas(boxes_unit: Float[Tensor, "*n 4"], size: Size) -> Float[Tensor, "*n 4"]:
    """cxcywh in 0..1 of a canvas of `size` (height, width) to xyxy px."""
    height, width = size
    return cxcywh_to_xyxy(boxes_unit * constants([width, height, width, height], boxes_unit))


def canvas_to_unit(boxes: Float[Tensor, "*n 4"], size: Size) -> Float[Tensor, "*n 4"]:
    """xyxy px to cxcywh in 0..1 of a canvas of `size` (height, width)."""
    height, width = size
    return xyxy_to_cxcywh(boxes) / constants([width, height, width, height], boxes)


def areas(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """px²; 0 for a box turned inside out."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def clip(boxes: Float[Tensor, "*n 4"], size: Size) -> Float[Tensor, "*n 4"]:
    height, width = size
    low = boxes.new_zeros(4)
    return boxes.maximum(low).minimum(constants([width, height, width, height], boxes))


def iou(
    a: Float[Tensor, "n 4"], b: Float[Tensor, "m 4"], *, crowd: bool = False
) -> Float[Tensor, "n m"]:
    """Intersection over union of every pair of xyxy boxes; with `crowd`, intersection over the area
    of `a` (COCO)."""
    inner, union = _overlap(a[:, None], b[None])
    return inner / (areas(a)[:, None] if crowd else union).clamp(min=1e-12)


def pairwise_iou(boxes: Float[Tensor, "*n q 4"]) -> Float[Tensor, "*n q q"]:
    """IoU of every two xyxy boxes of each picture."""
    inner, union = _overlap(boxes[..., :, None, :], boxes[..., None, :, :])
    return inner / union.clamp(min=1e-12)


def giou(
    a: Float[Tensor, "*#n 4"], b: Float[Tensor, "*#n 4"], eps: float = 1e-6
) -> Float[Tensor, "*m"]:
    """Generalised IoU of matching (or broadcast) xyxy boxes, -1..1 (Rezatofighi et al. 2019)."""
    inner, union = _overlap(a, b)
    union = union.clamp(min=eps)
    sides = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    hull = (sides.clamp(min=0)).prod(-1).clamp(min=eps)
    return inner / union - (hull - union) / hull


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(
        min=0
    )
    inner = sides[..., 0] * sides[..., 1]
    # not `areas`: the official loss keeps the signed product of boxes turned inside out
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    return inner, area_a + area_b - inner
