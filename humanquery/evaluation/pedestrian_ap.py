"""Boxes of people in crowds: AP, MR^-2 and JI of CrowdHuman, MR^-2 of Caltech's subsets.

Not COCO's AP: one threshold, the area under the curve by the trapezoid rule, and regions that
forgive by the share of a found box that they cover. Equal to the CrowdDet toolkit but for a floor
under the miss rate.
"""

from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.integrate import trapezoid
from scipy.optimize import linear_sum_assignment

from humanquery.core.boxes import iou
from humanquery.core.errors import AnnotationError

FALSE_PER_PICTURE = (0.01, 0.0178, 0.0316, 0.0562, 0.1, 0.1778, 0.3162, 0.5623, 1.0)
"""where MR^-2 reads the miss rate"""
SMALLEST_MISS = 1e-10
"""below it a miss rate counts as this; the reference does not clip, so that one zero makes all 0"""
CALTECH_ASPECT = 0.41
"""width over height to which Caltech's evaluation brings all boxes"""
EXPANDED = 1.25
"""found boxes may be so many times smaller than the least height of the people"""


@dataclass(frozen=True, eq=False)
class CrowdPicture:
    """One picture; boxes xyxy px."""

    found: Float[np.ndarray, "d 4"]
    scores: Float[np.ndarray, " _d"]
    true: Float[np.ndarray, "g 4"]
    ignored: Bool[np.ndarray, " _g"]
    """regions and people whose finding is neither right nor wrong"""

    def __post_init__(self):
        if len(self.scores) != len(self.found) or len(self.ignored) != len(self.true):
            raise AnnotationError(
                f"crowd picture: {len(self.found)} boxes with {len(self.scores)} scores, "
                f"{len(self.true)} true boxes with {len(self.ignored)} ignore flags; expected one "
                f"each"
            )


@dataclass(frozen=True)
class CrowdScores:
    """AP and JI 0..1, higher is better; MR^-2 0..1, lower is better. None without people."""

    pictures: int
    people: int
    ap: float | None
    miss_rate: float | None
    """MR^-2"""
    jaccard: float | None = None
    """JI: the best over the score thresholds"""
    jaccard_at: float | None = field(default=None)
    """that score threshold"""

    def numbers(self) -> dict[str, float | int | None]:
        return asdict(self)


def crowd_scores(pictures: list[CrowdPicture], *, jaccard: bool = True) -> CrowdScores:
    """CrowdHuman's three numbers over pictures; also those without people or without found boxes
    must be given."""
    people = sum(int((~p.ignored).sum()) for p in pictures)
    if not people:
        return CrowdScores(len(pictures), 0, None, None)
    scores, right = zip(*(_judged(p) for p in pictures), strict=True)
    scores, right = np.concatenate(scores), np.concatenate(right)
    right = right[np.argsort(-scores, kind="stable")]
    hits = np.cumsum(right)
    recall, precision = hits / people, hits / np.arange(1, len(right) + 1)
    # the curve begins at its first point, not at recall 0
    ap = float(trapezoid(precision, recall)) if len(right) else 0.0
    miss = _miss_rate(1 - recall, np.cumsum(~right) / len(pictures))
    best, at = _best_jaccard(pictures) if jaccard else (None, None)
    return CrowdScores(len(pictures), people, ap, miss, best, at)


def _overlaps(a: np.ndarray, b: np.ndarray, *, crowd: bool = False) -> np.ndarray:
    """`core.boxes.iou` of arrays."""
    return iou(torch.from_numpy(a), torch.from_numpy(b), crowd=crowd).numpy()


def _judged(picture: CrowdPicture) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the found boxes that count, best first, and whether each is right.

    Each takes the free person of highest IoU above 0.5; else it is forgiven where more than half of
    it lies in an ignore region (which may forgive many), else it is false.
    """
    order = np.argsort(-picture.scores, kind="stable")
    found, people = picture.found[order], picture.true[~picture.ignored]
    overlap = _overlaps(found, people)
    covered = _overlaps(found, picture.true[picture.ignored], crowd=True)
    forgiven = (covered > 0.5).any(1) if covered.shape[1] else np.zeros(len(found), bool)
    free = np.ones(len(people), bool)
    right = np.zeros(len(found), bool)
    for i in range(len(found)):
        open_ = free & (overlap[i] > 0.5)
        if open_.any():
            free[np.where(open_, overlap[i], -1).argmax()] = False
            right[i] = True
    kept = right | ~forgiven
    return picture.scores[order][kept], right[kept]


def _miss_rate(missed: np.ndarray, false_per_picture: np.ndarray) -> float:
    if not len(missed):
        return 1.0
    at = np.searchsorted(false_per_picture, FALSE_PER_PICTURE, side="left")
    rates = missed[np.minimum(at, len(missed) - 1)]  # never reached: the last point
    return float(np.exp(np.log(np.maximum(rates, SMALLEST_MISS)).mean()))


def _best_jaccard(pictures: list[CrowdPicture]) -> tuple[float | None, float | None]:
    best: tuple[float, float] | None = None
    for threshold in np.arange(10) / 10:
        each = [value for p in pictures if (value := _jaccard(p, threshold)) is not None]
        if each and (best is None or np.mean(each) > best[0]):
            best = float(np.mean(each)), float(threshold)
    return best or (None, None)


def _jaccard(picture: CrowdPicture, threshold: float) -> float | None:
    """Pairs of a largest matching over people and found boxes; None where there is neither."""
    regions = picture.true[picture.ignored]
    found = _outside(picture.found[picture.scores >= threshold], regions)
    people = _outside(picture.true[~picture.ignored], regions)
    if not len(found) and not len(people):
        return None
    fits = _overlaps(found, people) > 0.5
    rows, columns = linear_sum_assignment(fits, maximize=True)
    pairs = int(fits[rows, columns].sum())
    return pairs / (len(found) + len(people) - pairs + 1e-6)


def _outside(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    if not len(regions) or not len(boxes):
        return boxes
    return boxes[(_overlaps(boxes, regions, crowd=True) <= 0.5).all(1)]


@dataclass(frozen=True)
class CaltechSubset:
    """Which people count in a subset of Caltech's evaluation."""

    name: str
    least_height: float
    """px"""
    visible: tuple[float, float]
    """least share of the box that is visible, and most"""


CALTECH_SUBSETS = (
    CaltechSubset("reasonable", 50.0, (0.65, 1.0)),
    CaltechSubset("heavy", 50.0, (0.2, 0.65)),
    CaltechSubset("all", 20.0, (0.2, 1.0)),
)
"""literature has other bounds of "heavy" as well: state which"""


def caltech_picture(
    picture: CrowdPicture, visible: Float[np.ndarray, " g"], subset: CaltechSubset
) -> CrowdPicture:
    """The picture as Caltech's evaluation sees it for a subset: people outside of the subset become
    ignored, found boxes that are too small are left out, all boxes get the same aspect.

    `visible`: share of every true box that can be seen, 0..1.
    """
    heights = picture.true[:, 3] - picture.true[:, 1]
    low, high = subset.visible
    meant = (heights >= subset.least_height) & (visible >= low) & (visible <= high)
    large = picture.found[:, 3] - picture.found[:, 1] >= subset.least_height / EXPANDED
    return CrowdPicture(
        _standard(picture.found[large]),
        picture.scores[large],
        np.where(picture.ignored[:, None], picture.true, _standard(picture.true)),
        picture.ignored | ~meant,
    )


def _standard(boxes: np.ndarray) -> np.ndarray:
    middle, half = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 3] - boxes[:, 1]) * CALTECH_ASPECT / 2
    return np.stack([middle - half, boxes[:, 1], middle + half, boxes[:, 3]], 1)
