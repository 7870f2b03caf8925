"""From what tasks give about the chosen queries to `Persons`: the one decoding, for PyTorch,
exported graphs and tests alike."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from humanquery.core.affine import Size
from humanquery.core.batch import Meta
from humanquery.core.boxes import clip
from humanquery.core.fields import FieldSpec
from humanquery.core.persons import Persons
from humanquery.core.rows import Extra
from humanquery.core.skeleton import Skeleton
from humanquery.core.system import Ask
from humanquery.tasks.paint_masks import paint_masks, paint_windows

HELPERS = {
    spec.name: spec
    for spec in (
        FieldSpec("logits"),
        FieldSpec("keypoint_confidence", span=1, part_of="keypoints"),
        FieldSpec("mask_logits", part_of="masks"),
        FieldSpec("mask_windows", span="canvas", part_of="masks"),
    )
}
"""declarations of tensors that become part of fields instead of being one"""
CHOICES = ("queries", "tokens")
"""tensors that tell where each row comes from: its query, and the memory token of each query"""


def best_queries(
    logits: Float[Tensor, "b q"], score: Tensor | float | int, most: int
) -> Int[Tensor, "b k"]:
    """The chosen queries, best first: k is how many of the fullest picture reach `score`, at most
    `most`. Streets that are nearly empty cost little, and crowds are not cut. In an exported graph
    k is at least 1: its operators do not take tensors without rows."""
    best = logits.float().sigmoid().topk(min(most, logits.shape[1]))
    return best.indices[:, : how_many(best.values, score)]


def how_many(best: Float[Tensor, "b q"], score: Tensor | float | int) -> int | torch.SymInt:
    """How many scores of the fullest picture reach `score`, of scores by falling value; at least 1
    in an exported graph."""
    count = (best >= score).sum(1).amax(0)
    if torch.compiler.is_compiling():
        traced = count.clamp(min=1).item()
        torch._check(traced >= 1)  # what a trace cannot know of a number it reads from a tensor
        torch._check(traced <= best.shape[1])
        return traced
    return int(count.item())  # host sync: how many


def decode(
    found: Mapping[str, Float[Tensor, "b k ..."] | Int[Tensor, "b _"]],
    metas: Sequence[Meta],
    padded_size: Size,
    *,
    skeleton: Skeleton | None,
    ask: Ask = Ask(),
    specs: Mapping[str, FieldSpec] | None = None,
) -> list[Persons]:
    """The people of each picture, best first, in pixels of the picture.

    `found`: tensors by name as `Task.tensors` gives them, in canvas px; `scores` and `boxes` must
    be among them. `specs` declares those that are no fields of `Persons` (`Task.fields`). Only
    people with at least `ask.score` are kept, at most `ask.max_persons`; boxes and joints are
    clipped to canvas and picture.
    """
    return [
        _persons({n: v[i] for n, v in found.items()}, meta, padded_size, skeleton, ask, specs or {})
        for i, meta in enumerate(metas)
    ]


def _persons(
    found: dict[str, Tensor],
    meta: Meta,
    padded_size: Size,
    skeleton: Skeleton | None,
    ask: Ask,
    specs: Mapping[str, FieldSpec],
) -> Persons:
    most = len(found["scores"]) if ask.max_persons is None else ask.max_persons
    # host sync: who is kept
    kept = (found["scores"].float() >= ask.score).nonzero()[:, 0][:most]
    rows = {n: v[kept] for n, v in found.items() if n not in CHOICES}
    rows = {n: v.float() if v.is_floating_point() else v for n, v in rows.items()}
    known = {**Persons.specs(), **specs}
    fields = {
        name: _in_picture(value, known[name].kind, meta)
        for name, value in rows.items()
        if name in known
    }
    scores = fields["scores"]
    if "keypoint_scores" in fields:
        joints = fields["keypoint_scores"]
        # the mean of the joints' scores, each weighted by itself: hidden joints do not drown a pose
        sure = joints.square().sum(1) / joints.sum(1).clamp(min=1e-6)
        fields["pose_scores"] = scores * sure
    elif "keypoints" in fields:
        alike = rows.get("keypoint_confidence", scores)
        fields["keypoint_scores"] = (
            alike[:, None].expand(fields["keypoints"].shape[:2]).contiguous()
        )
    if "mask_logits" in rows:
        if "mask_windows" in rows:
            masks, inside = paint_windows(rows["mask_logits"], rows["mask_windows"], meta)
        else:
            masks, inside = paint_masks(rows["mask_logits"], meta, padded_size)
        fields |= {"masks": masks, "mask_scores": scores * inside}
    extra = {name: Extra(spec, fields.pop(name)) for name, spec in specs.items() if name in fields}
    return Persons(image_size=meta.image_size, skeleton=skeleton, extra=extra, **fields)


def _in_picture(value: Tensor, kind: str, meta: Meta) -> Tensor:
    """Boxes and points of the canvas in px of the picture, inside of both; the rest as it is."""
    if kind == "boxes":
        inside = meta.to_canvas.inverse().boxes(clip(value, meta.canvas_size))
        return clip(inside, meta.image_size)
    if kind == "points":
        points = meta.to_canvas.inverse().points(_inside(value, meta.canvas_size))
        return _inside(points, meta.image_size)
    return value


def _inside(points: Float[Tensor, "n k 2"], size: Size) -> Float[Tensor, "n k 2"]:
    height, width = size
    return torch.stack([points[..., 0].clamp(0, width), points[..., 1].clamp(0, height)], -1)
