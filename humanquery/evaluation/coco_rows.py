"""Truth and findings of one picture as the plain COCO numbers that evaluators read: small, and
without pixels.

Everything here is COCO's own convention: boxes xywh px, joints as pixel indices (0.5 less than
ours), masks as RLE or polygons. A picture is converted when it is added, so that a whole
validation set fits into memory.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humanquery.core.affine import Size
from humanquery.core.boxes import iou, xywh_to_xyxy, xyxy_to_xywh
from humanquery.core.errors import AnnotationError
from humanquery.core.masks import bitmaps_to_rles
from humanquery.core.persons import Persons
from humanquery.core.skeleton import Skeleton
from humanquery.core.target import Target

MOST_MASKS = 100
"""masks per picture that COCO mask AP reads; what ranks lower is never encoded"""
MOST_POSES = 20
"""poses per picture that COCO keypoint AP reads"""

UNKNOWN = -1.0
"""gender or age that nobody gave, as in the official files"""


@dataclass(frozen=True, eq=False, kw_only=True)
class PictureTruth:
    """The annotations of one picture. A field that is None was never annotated by the data
    set."""

    size: Size | None
    boxes: Float[np.ndarray, "n 4"]
    """xywh px"""
    ignore: Bool[np.ndarray, " n"]
    areas: Float[np.ndarray, " n"]
    segments: list[Any] | None = None
    """RLE or polygons per person; None for a person whose mask nobody drew"""
    joints: Float[np.ndarray, "n k3"] | None = None
    """x, y, visibility per joint"""
    skeleton: Skeleton | None = None
    """of the joints; None: nobody said, so their number is all that can be compared"""
    num_joints: Int[np.ndarray, " n"] | None = None
    """counted joints; people with 0 are ignored by keypoint AP"""
    gender: Float[np.ndarray, " n"] | None = None
    """0 male, 1 female, `UNKNOWN`"""
    age: Float[np.ndarray, "n 2"] | None = None
    """years [low, high], or `UNKNOWN` twice"""

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, eq=False, kw_only=True)
class PictureFound:
    """What a system found in one picture. A field that is None is not given."""

    scores: Float[np.ndarray, " m"]
    boxes: Float[np.ndarray, "m 4"] | None = None
    """xywh px"""
    segments: list[Any] | None = None
    """the best `MOST_MASKS` masks as RLE, with `segment_scores`"""
    segment_scores: Float[np.ndarray, " s"] | None = None
    poses: Int[np.ndarray, " p"] | None = None
    """rows of the best `MOST_POSES` people, whose `joints` and `pose_scores` these are"""
    pose_scores: Float[np.ndarray, " p"] | None = None
    joints: Float[np.ndarray, "p k3"] | None = None
    skeleton: Skeleton | None = None
    """of the joints; None: nobody said"""
    gender: Float[np.ndarray, " m"] | None = None
    """P(female)"""
    age: Float[np.ndarray, " m"] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def fields(self) -> frozenset[str]:
        names = ("boxes", "segments", "joints", "gender", "age")
        return frozenset(name for name in names if getattr(self, name) is not None)


def best_first(scores: Float[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
    """Rows by falling score; equal scores keep their order, as in COCO."""
    return np.argsort(-scores, kind="stable")


def truth_of(target: Target) -> PictureTruth:
    """Of a `Target` in picture px."""
    joints, num_joints = _true_joints(target)
    return PictureTruth(
        size=target.image_size,
        boxes=_numbers(xyxy_to_xywh(target.boxes)),
        ignore=target.ignore.cpu().numpy(),
        areas=_numbers(target.areas),
        segments=_true_segments(target),
        joints=joints,
        skeleton=target.skeleton,
        num_joints=num_joints,
        gender=None
        if target.gender is None
        else _or_unknown(target.gender.value, target.gender.valid),
        age=None if target.age is None else _or_unknown(target.age.value, target.age.valid),
    )


def found_of(persons: Persons) -> PictureFound:
    """Of `Persons` in picture px; ranks masks by `mask_scores` and poses by `pose_scores` where
    the system gives them."""
    scores = _numbers(persons.scores)
    segments, segment_scores = _found_segments(persons, scores)
    poses, joints, pose_scores = None, None, None
    if persons.keypoints is not None:
        ranks = scores if persons.pose_scores is None else _numbers(persons.pose_scores)
        poses = best_first(ranks)[:MOST_POSES]
        pose_scores = ranks[poses]
        joints = _coco_joints(
            persons.keypoints[torch.from_numpy(poses).to(persons.keypoints.device)], 1.0
        )
    return PictureFound(
        scores=scores,
        boxes=_numbers(xyxy_to_xywh(persons.boxes)),
        segments=segments,
        segment_scores=segment_scores,
        poses=poses,
        joints=joints,
        skeleton=persons.skeleton,
        pose_scores=pose_scores,
        gender=None if persons.gender is None else _numbers(persons.gender),
        age=None if persons.age is None else _numbers(persons.age),
    )


def check_truth(truth: PictureTruth, where: str) -> None:
    """NaN or infinity in the truth raises AnnotationError."""
    for name in ("boxes", "areas", "joints", "gender", "age"):
        _check_finite(
            getattr(truth, name), f"{where}: truth", name, "repair or drop this annotation"
        )


def check_found(found: PictureFound, where: str, skeleton: Skeleton | None) -> None:
    """NaN or infinity anywhere, or joints of another skeleton, raises AnnotationError."""
    hint = "the system that made them has diverged, or the file is damaged"
    for name in ("scores", "boxes", "segment_scores", "pose_scores", "joints", "gender", "age"):
        _check_finite(getattr(found, name), f"{where}: found people", name, hint)
    if found.joints is not None and skeleton is not None and len(found.joints):
        check_joints(found.joints, found.skeleton, skeleton, f"{where}: found people")


def check_joints(
    joints: Float[np.ndarray, "n k3"], given: Skeleton | None, skeleton: Skeleton, where: str
) -> None:
    """Joints of another number, or of a `given` skeleton with other joints or another order than
    `skeleton`, raise AnnotationError: COCO would compare them place by place."""
    hint = (
        "convert them with core.skeleton.convert_joints or pass the skeleton that truth and "
        "findings share"
    )
    count = joints.shape[1] // 3
    if count != len(skeleton):
        raise AnnotationError(
            f"{where} have {count} joints, expected {len(skeleton)} of {skeleton.name}; {hint}"
        )
    if given is not None and not given.has_joints_of(skeleton):
        first = next(
            i for i, (a, b) in enumerate(zip(given.joints, skeleton.joints, strict=True)) if a != b
        )
        raise AnnotationError(
            f"{where} have the joints of {given.name}, expected those of {skeleton.name} in its "
            f"order: joint {first} is {given.joints[first]!r} instead of "
            f"{skeleton.joints[first]!r}; {hint}"
        )


def overlaps(truth: PictureTruth, boxes: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "m n"]:
    """IoU of every found (xywh px) with every true box; with ignore regions, the share of the
    found box inside."""
    found = xywh_to_xyxy(torch.from_numpy(boxes))
    true = xywh_to_xyxy(torch.from_numpy(truth.boxes))
    plain = iou(found, true)
    if not truth.ignore.any():
        return plain.numpy()
    return torch.where(torch.from_numpy(truth.ignore), iou(found, true, crowd=True), plain).numpy()


def _numbers(values: Tensor) -> Float[np.ndarray, "..."]:
    return values.detach().cpu().double().numpy()


def _or_unknown(value: Tensor, valid: Tensor) -> Float[np.ndarray, "..."]:
    known = valid.reshape(-1, *[1] * (value.ndim - 1))
    return _numbers(torch.where(known, value.double(), UNKNOWN))


def _coco_joints(
    points: Float[Tensor, "n k 2"], third: Tensor | float
) -> Float[np.ndarray, "n k3"]:
    """Flat x, y, v rows as pixel indices: our px are continuous, COCO's joints are indices of
    pixels."""
    n, k, _ = points.shape
    out = torch.empty(n, k, 3, dtype=torch.float64)
    out[..., :2] = points.double().cpu() - 0.5
    out[..., 2] = third
    return out.reshape(n, k * 3).numpy()


def _true_joints(target: Target) -> tuple[np.ndarray | None, np.ndarray | None]:
    if target.keypoints is None or target.visibility is None:
        return None, None
    counted = target.counted_joints.cpu()
    visibility = torch.where(counted, target.visibility.cpu(), 0)
    return _coco_joints(target.keypoints.value, visibility.double()), counted.sum(-1).numpy()


def _true_segments(target: Target) -> list[Any] | None:
    if target.masks is None:
        return None
    known = target.masks.valid.tolist()
    drawn = iter(bitmaps_to_rles(target.masks.value[target.masks.valid]))
    return [next(drawn) if valid else None for valid in known]


def _found_segments(
    persons: Persons, scores: np.ndarray
) -> tuple[list[Any] | None, np.ndarray | None]:
    if persons.masks is None:
        return None, None
    ranks = scores if persons.mask_scores is None else _numbers(persons.mask_scores)
    if len(ranks) <= MOST_MASKS:  # selecting would copy them all
        return bitmaps_to_rles(persons.masks), ranks
    kept = np.sort(
        best_first(ranks)[:MOST_MASKS]
    )  # in the given order, so that ties rank as they would uncut
    masks = persons.masks[torch.from_numpy(kept).to(persons.masks.device)]
    return bitmaps_to_rles(masks), ranks[kept]


def _check_finite(values: np.ndarray | None, where: str, name: str, hint: str) -> None:
    if values is None or np.isfinite(values).all():
        return
    row = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1))[0])
    raise AnnotationError(
        f"{where}: '{name}' of row {row} holds NaN or infinity, expected finite numbers; {hint}"
    )
