"""People of one frame as PoseTrack's evaluation sees them: fifteen joints by name, head sizes,
regions where nothing counts."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from humanquery.core.errors import AnnotationError
from humanquery.core.persons import Persons
from humanquery.core.rows import Labelled
from humanquery.core.skeleton import Skeleton
from humanquery.core.target import Target
from humanquery.evaluation.track_metrics import tracked_frame

JOINTS = (
    "right_ankle",
    "right_knee",
    "right_hip",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_wrist",
    "right_elbow",
    "right_shoulder",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "neck",
    "nose",
    "head_top",
)
OTHER_NAMES = {"neck": ("head_bottom", "upper_neck"), "head_top": ("top_head",)}
"""what other skeletons call the same joint"""
HEAD_SHARE = 0.6
"""head size over the diagonal of the head box"""
NO_SCORE = -9999.0
"""stands for a joint score that is missing: ranked last"""


@runtime_checkable
class PoseTruth(Protocol):
    """The truth of one frame, e.g. `humanquery.data.readers.posetrack.PoseFrame`."""

    target: Target
    head_boxes: Labelled
    ignore_regions: Sequence[torch.Tensor]


@dataclass(frozen=True, eq=False)
class PoseLabels:
    """The truth of one frame: people with joints and track ids, their head boxes, and polygons
    where nothing counts."""

    target: Target
    head_boxes: Labelled
    """value n 4 xyxy px"""
    ignore_regions: Sequence[torch.Tensor] = ()
    """each p 2 px"""


@dataclass(frozen=True, eq=False)
class PoseRows:
    """The people of one frame in the order of `JOINTS`."""

    joints: Float[np.ndarray, "n 15 2"]
    present: Bool[np.ndarray, "n 15"]
    ids: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, "n 15"]
    head_sizes: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.ids)

    def keep(self, rows: Bool[np.ndarray, " n"]) -> "PoseRows":
        return PoseRows(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))

    def only(self, present: Bool[np.ndarray, "n 15"]) -> "PoseRows":
        return dataclasses.replace(self, present=self.present & present)


def found_rows(people: Persons, where: str = "found people", *, tracked: bool = True) -> PoseRows:
    """People found, joints by name; joints with NaN coordinates were not found, NaN scores are
    missing.

    Without `tracked` nobody needs an id.
    """
    n = len(people)
    if not n:
        return _rows(np.zeros((0, 15, 2)), np.zeros((0, 15), bool), np.zeros(0, np.int64))
    if people.keypoints is None or people.skeleton is None:
        raise AnnotationError(f"{where}: no keypoints; expected people with joints and a skeleton")
    ids = tracked_frame(people, where).ids if tracked else np.arange(n)
    joints = people.keypoints.detach().cpu().double().numpy()
    finite = np.isfinite(joints).all(-1)
    scores = np.full(finite.shape, NO_SCORE)
    if people.keypoint_scores is not None:
        given = people.keypoint_scores.detach().cpu().double().numpy()
        scores = np.where(np.isfinite(given), given, NO_SCORE)
    return _rows(
        *_by_name(people.skeleton, np.nan_to_num(joints), finite),
        ids,
        _by_name(people.skeleton, scores)[0],
    )


def true_rows(truth: PoseTruth, where: str = "truth", *, tracked: bool = True) -> PoseRows:
    """True people (no ignore rows), joints by name, with their head sizes in px. Without `tracked`
    nobody needs an id."""
    target, heads = truth.target, truth.head_boxes
    people = ~target.ignore.cpu().numpy()
    if not people.any():
        return _rows(np.zeros((0, 15, 2)), np.zeros((0, 15), bool), np.zeros(0, np.int64))
    if target.keypoints is None or target.visibility is None or target.skeleton is None:
        raise AnnotationError(
            f"{where}: no keypoints; expected a Target with joints, visibility and a skeleton"
        )
    if len(heads) != len(target):
        raise AnnotationError(
            f"{where}: {len(heads)} head boxes for {len(target)} people; give one per person"
        )
    ids = tracked_frame(target, where).ids if tracked else np.arange(int(people.sum()))
    counts = target.counted_joints.cpu().numpy()
    boxes = heads.value.detach().cpu().double().numpy().reshape(-1, 4)
    headless = counts.any(1) & people & ~heads.valid.cpu().numpy()
    if headless.any():
        raise AnnotationError(
            f"{where}: person {np.flatnonzero(headless)[0]} has joints but no head box; distances "
            f"are measured in head sizes"
        )
    sizes = HEAD_SHARE * np.linalg.norm(boxes[:, 2:] - boxes[:, :2], axis=1)
    joints, present = _by_name(
        target.skeleton, target.keypoints.value.detach().cpu().double().numpy(), counts
    )
    return _rows(joints[people], present[people], ids, head_sizes=sizes[people])


def _rows(joints, present, ids, scores=None, head_sizes=None) -> PoseRows:
    scores = np.full(present.shape, NO_SCORE) if scores is None else scores
    return PoseRows(
        joints, present, ids, scores, np.ones(len(ids)) if head_sizes is None else head_sizes
    )


def _by_name(
    skeleton: Skeleton, values: np.ndarray, known: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Columns in the order of `JOINTS`, and which of them are there."""
    out = np.zeros((len(values), len(JOINTS), *values.shape[2:]))
    there = np.zeros(out.shape[:2], bool)
    for to, joint in enumerate(JOINTS):
        name = next((n for n in (joint, *OTHER_NAMES.get(joint, ())) if n in skeleton.joints), None)
        if name is not None:
            at = skeleton.index(name)
            out[:, to], there[:, to] = values[:, at], True if known is None else known[:, at]
    return out, there


def outside(rows: PoseRows, regions: Sequence[torch.Tensor]) -> PoseRows:
    """Without the joints inside of a polygon, and without people who have none left."""
    if not len(regions):
        return rows
    inside = np.zeros(rows.present.shape, bool)
    for region in regions:
        inside |= _inside(rows.joints, np.asarray(region.detach().cpu(), np.float64))
    rows = rows.only(~inside)
    return rows.keep(rows.present.any(1))


def _inside(
    points: Float[np.ndarray, "n k 2"], polygon: Float[np.ndarray, "p 2"]
) -> Bool[np.ndarray, "n k"]:
    """Even-odd rule; a point on the border is outside."""
    if len(polygon) < 3:
        raise AnnotationError(
            f"an ignore region has {len(polygon)} points, expected at least three"
        )
    x, y = points[..., 0, None], points[..., 1, None]
    (x1, y1), (x2, y2) = polygon.T, np.roll(polygon, -1, 0).T
    cross = (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1)
    between = (np.minimum(x1, x2) <= x) & (x <= np.maximum(x1, x2))
    between &= (np.minimum(y1, y2) <= y) & (y <= np.maximum(y1, y2))
    crossed = ((y1 > y) != (y2 > y)) & ((cross > 0) == (y2 > y1))
    return (crossed.sum(-1) % 2 == 1) & ~((cross == 0) & between).any(-1)


def distances(true: PoseRows, rows: PoseRows) -> Float[np.ndarray, "d g 15"]:
    """Of every found to every true person, in head sizes; infinite where either lacks the joint."""
    apart = np.linalg.norm(rows.joints[:, None] - true.joints[None], axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = apart / true.head_sizes[None, :, None]
    return np.where(rows.present[:, None] & true.present[None], apart, np.inf)
