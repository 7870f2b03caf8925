"""From picture to canvas: letterboxes, and what becomes of the truth at the canvas's edge."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8

from humanquery.core.affine import Affine2D, Size, fit
from humanquery.core.batch import ZOOM, Cutout, Meta, Sample
from humanquery.core.boxes import areas, clip
from humanquery.core.rows import Labelled
from humanquery.core.target import Target

GREY = 114
"""what lies around a picture on a fixed canvas"""


@dataclass(frozen=True)
class LetterboxConfig:
    """How a picture is scaled for a network that is not training."""

    short_side: int = 800
    long_side: int = 1333
    canvas: tuple[int, int] | None = None
    """(height, width) of a fixed canvas: the picture is scaled to fit, stands top left, the rest
    is grey"""
    zoom: int = 1
    """the whole canvas is drawn once more at so many times its size (`Batch.zoomed`), for networks
    that look closer at people; 1: not"""


def letterbox(
    image: UInt8[np.ndarray, "h w 3"],
    short_side: int,
    long_side: int,
    *,
    image_id: int = 0,
    path: str = "",
) -> tuple[UInt8[np.ndarray, "H W 3"], Meta]:
    """The picture scaled as `core.affine.fit` says, and the way back. Nothing is padded:
    `Batch.collate` does that."""
    size = image.shape[:2]
    canvas = fit(size, short_side, long_side)
    matrix = Affine2D.resize(size, canvas)
    return matrix.image(image, canvas), Meta(size, canvas, matrix, image_id, path)


def letterbox_fixed(
    image: UInt8[np.ndarray, "h w 3"], canvas: Size, *, image_id: int = 0, path: str = ""
) -> tuple[UInt8[np.ndarray, "H W 3"], Meta]:
    """The picture at the top left of a canvas of exactly this size, as large as fits; the rest
    is grey and counts as picture."""
    size = image.shape[:2]
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    matrix = Affine2D.scaling(scale)
    return matrix.image(image, canvas, GREY), Meta(size, canvas, matrix, image_id, path)


def letterboxed(sample: Sample, config: LetterboxConfig, *, with_target: bool = True) -> Sample:
    """A sample in picture px on the canvas of `config`, with its truth in canvas px (or
    without)."""
    known = {"image_id": sample.meta.image_id, "path": sample.meta.path}
    if config.canvas is None:
        image, meta = letterbox(sample.image, config.short_side, config.long_side, **known)
    else:
        image, meta = letterbox_fixed(sample.image, config.canvas, **known)
    views = {ZOOM: (zoomed(sample.image, meta, config.zoom),)} if config.zoom > 1 else {}
    if sample.target is None or not with_target:
        return Sample(image, meta, views=views)
    target = cut_to_canvas(
        warp_target(sample.target, meta.to_canvas, meta.canvas_size), meta.canvas_size
    )
    return Sample(image, meta, target, views)


def on_canvas(image: UInt8[np.ndarray, "h w 3"], config: LetterboxConfig) -> Sample:
    """A picture of which nothing is known, on the canvas of `config`."""
    return letterboxed(Sample(image, Meta(image.shape[:2], image.shape[:2])), config)


def zoomed(image: UInt8[np.ndarray, "h w 3"], meta: Meta, times: int) -> Cutout:
    """The canvas of `meta` at `times` its size, drawn from the picture itself: its fine detail is
    not lost on the way to the small canvas."""
    size = (meta.canvas_size[0] * times, meta.canvas_size[1] * times)
    to_view = Affine2D.scaling(float(times)) @ meta.to_canvas
    return Cutout(to_view.image(image, size, GREY), to_view)


def warp_target(target: Target, matrix: Affine2D, size: Size) -> Target:
    """`Target.warp`, but masks that were not drawn are not warped: they are empty on any canvas."""
    if target.masks is None:
        return target.warp(matrix, size)
    drawn = target.masks.valid
    masks = torch.zeros(len(target), *size, dtype=torch.bool)
    masks[drawn] = matrix.masks(target.masks.value[drawn], size)
    return target.replace(masks=None).warp(matrix, size).replace(masks=Labelled(masks, drawn))


def cut_to_canvas(target: Target, size: Size) -> Target:
    """What of the truth (already in canvas px) is left on a canvas of `size` (height, width).

    Boxes are clipped and rows whose box has no width or height left are dropped; areas shrink by
    the clipped share of the box, to 1 px² at least; joints outside lose place and visibility;
    face boxes are clipped, or unknown when nothing is left (HQNet release, random crop). Masks
    are on the canvas already.
    """
    boxes = clip(target.boxes, size)
    keep = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(-1)
    # a share of 1 must be exactly 1: people inside keep their area to the last bit
    share = torch.where(
        (boxes == target.boxes).all(-1), 1.0, areas(boxes) / areas(target.boxes).clamp(min=1e-6)
    )
    target = target.replace(boxes=boxes, areas=(target.areas * share).clamp(min=1))[keep]
    if target.keypoints is not None:
        target = _cut_joints(target, size)
    if target.face_boxes is not None:
        faces = clip(target.face_boxes.value, size)
        left = ((faces[:, 2:] - faces[:, :2]) > 0).all(-1) & target.face_boxes.valid
        target = target.replace(face_boxes=Labelled(torch.where(left[:, None], faces, 0.0), left))
    return target


def _cut_joints(target: Target, size: Size) -> Target:
    points = target.keypoints.value
    inside = (points >= 0).all(-1) & (points[..., 0] <= size[1]) & (points[..., 1] <= size[0])
    seen = inside & (target.visibility > 0)
    joints = torch.where(seen[..., None], points, 0.0)
    return target.replace(
        keypoints=Labelled(joints, target.keypoints.valid),
        visibility=torch.where(seen, target.visibility, 0),
    )
