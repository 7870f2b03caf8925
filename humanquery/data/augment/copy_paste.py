"""People of another picture put in front of this one, and what they hide."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from humanquery.core.affine import Affine2D
from humanquery.core.batch import Sample
from humanquery.core.boxes import areas
from humanquery.core.masks import mask_boxes
from humanquery.core.rows import Labelled
from humanquery.core.target import Target
from humanquery.media.letterbox import cut_to_canvas, warp_target


@dataclass(frozen=True)
class CopyPasteConfig:
    """People with masks are copied from a second picture (after Ghiasi et al. 2021)."""

    chance: float = 0.0
    """of a picture to get people pasted; the loader fetches a donor that often"""
    people: int = 3
    """at most"""
    scale: tuple[float, float] = (0.5, 1.5)
    """size on this picture, relative to the share of the donor picture's long side"""
    min_visible: float = 0.15
    """a person of whom less than this share stays visible is taken out (without a mask: becomes an
    ignore region)"""


def paste_people(
    sample: Sample, donor: Sample, config: CopyPasteConfig, rng: np.random.Generator
) -> Sample:
    """The sample with up to `people` masked persons of the donor in front of its own.

    Covered masks shrink, and with them boxes and areas; visible joints that are covered become
    hidden ones (2 -> 1). The labels that the sample's data set does not have stay None; those that
    the donor lacks are marked as not annotated.
    """
    pasted = _choose(donor.target, config, rng)
    if pasted is None:
        return sample
    size = sample.target.image_size
    matrix = _placement(donor, pasted, sample, config, rng)
    moved = cut_to_canvas(warp_target(pasted, matrix, size), size)
    moved = _tight(moved[moved.masks.value.flatten(1).any(1)]) if len(moved) else moved
    if not len(moved):
        return sample
    cover = moved.masks.value.any(0)
    # a soft edge of about a pixel: a hard cut would be learned as the sign of a pasted person
    alpha = cv2.GaussianBlur(cover.numpy().astype(np.float32), (3, 3), 0)[..., None]
    image = sample.image * (1 - alpha) + matrix.image(donor.image, size) * alpha
    behind = hide(sample.target, cover, config.min_visible)
    joined = Target.cat([_with_fields(moved, behind), behind])
    return Sample((image + 0.5).clip(0, 255).astype(np.uint8), sample.meta, joined)


def hide(target: Target, cover: Tensor, min_visible: float = 0.0) -> Target:
    """The truth after the pixels of `cover` (h w bool) were painted over."""
    share = torch.ones(len(target))
    if target.masks is not None:
        before = target.masks.value.flatten(1).sum(1)
        masks = target.masks.value & ~cover
        after = masks.flatten(1).sum(1)
        drawn = target.masks.valid & (before > 0)
        share = torch.where(drawn, after / before.clamp(min=1), share)
        changed = drawn & (after < before)
        boxes = torch.where(changed[:, None], mask_boxes(masks), target.boxes)
        target = target.replace(
            boxes=boxes, masks=Labelled(masks, target.masks.valid), areas=target.areas * share
        )
    if target.keypoints is not None:
        target = target.replace(visibility=_hidden_joints(target, cover))
    undrawn = (
        torch.ones(len(target), dtype=torch.bool) if target.masks is None else ~target.masks.valid
    )
    lost = undrawn & (_visible_of_boxes(target.boxes, cover) < min_visible)
    target = target.replace(ignore=target.ignore | lost)
    return target[(share >= min_visible) & (share > 0)]


def _choose(
    target: Target | None, config: CopyPasteConfig, rng: np.random.Generator
) -> Target | None:
    if target is None or target.masks is None:
        return None
    able = (
        (target.masks.valid & ~target.ignore & target.masks.value.flatten(1).any(1))
        .nonzero()[:, 0]
        .numpy()
    )
    if not len(able) or config.people < 1:
        return None
    count = int(rng.integers(1, min(config.people, len(able)) + 1))
    return target[torch.from_numpy(np.sort(rng.permutation(able)[:count]))]


def _placement(
    donor: Sample, pasted: Target, sample: Sample, config: CopyPasteConfig, rng: np.random.Generator
) -> Affine2D:
    """Scaled, perhaps mirrored, with the middle of the group somewhere on the picture."""
    height, width = sample.target.image_size
    scale = rng.uniform(*config.scale) * max(height, width) / max(donor.target.image_size)
    turn = Affine2D.mirror(donor.target.image_size[1]) if rng.random() < 0.5 else Affine2D()
    shape = Affine2D.scaling(scale) @ turn
    hull = shape.boxes(pasted.boxes)
    middle = (hull[:, :2].amin(0) + hull[:, 2:].amax(0)) / 2
    dx, dy = (
        rng.uniform(0, width) - float(middle[0]),
        rng.uniform(0.2, 0.8) * height - float(middle[1]),
    )
    return Affine2D.translation(dx, dy) @ shape


def _tight(moved: Target) -> Target:
    """Boxes that reach the picture's edge fitted to what is left of the mask there."""
    height, width = moved.image_size
    x1, y1, x2, y2 = moved.boxes.unbind(-1)
    cut = (x1 <= 0) | (y1 <= 0) | (x2 >= width) | (y2 >= height)
    return moved.replace(
        boxes=torch.where(cut[:, None], mask_boxes(moved.masks.value), moved.boxes)
    )


def _hidden_joints(target: Target, cover: Tensor) -> Tensor:
    height, width = cover.shape
    x = target.keypoints.value[..., 0].floor().long().clamp(0, width - 1)
    y = target.keypoints.value[..., 1].floor().long().clamp(0, height - 1)
    return torch.where(cover[y, x] & (target.visibility == 2), 1, target.visibility)


def _visible_of_boxes(boxes: Tensor, cover: Tensor) -> Tensor:
    """Share of each box that is not covered, by an integral image."""
    height, width = cover.shape
    sums = torch.zeros(height + 1, width + 1)
    sums[1:, 1:] = cover.float().cumsum(0).cumsum(1)
    x1, y1, x2, y2 = boxes.round().long().unbind(-1)
    x1, x2, y1, y2 = (
        x1.clamp(0, width),
        x2.clamp(0, width),
        y1.clamp(0, height),
        y2.clamp(0, height),
    )
    covered = sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]
    return 1 - covered / areas(boxes).clamp(min=1)


def _with_fields(moved: Target, like: Target) -> Target:
    """Exactly the labels that `like` has; those that `moved` lacks are not annotated."""
    fields = {}
    for name, _ in Target.row_fields():
        wanted, have = getattr(like, name), getattr(moved, name)
        if wanted is None:
            fields[name] = None
        elif have is None:
            fields[name] = _unannotated(wanted, len(moved))
    if like.keypoints is not None and moved.skeleton not in (None, like.skeleton):
        fields["keypoints"] = _unannotated(like.keypoints, len(moved))
        fields["visibility"] = _unannotated(like.visibility, len(moved))
    return moved.replace(**fields, skeleton=like.skeleton)


def _unannotated(like: Labelled | Tensor, count: int) -> Labelled | Tensor:
    if isinstance(like, Tensor):
        blank = 0 if like.ndim > 1 else -1  # visibility: nothing seen; ids: nobody
        return like.new_full((count, *like.shape[1:]), blank)
    return Labelled(
        like.value.new_zeros(count, *like.value.shape[1:]), torch.zeros(count, dtype=torch.bool)
    )
