"""COCO's greedy matching and its precision-recall curve, for any overlap and with a condition on
the pair."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, eq=False)
class Matches:
    """One picture. Axes: a area ranges, t thresholds, d found people by falling score."""

    owner: Int[np.ndarray, "a t d"]
    """true person that this found person was matched to, -1 for none"""
    ignored: Bool[np.ndarray, "a t d"]
    """neither right nor wrong"""


def match(
    overlap: Float[np.ndarray, "d g"],
    right: Bool[np.ndarray, "d g"],
    ignored: Bool[np.ndarray, "a g"],
    reusable: Bool[np.ndarray, " g"],
    thresholds: Float[np.ndarray, " t"],
) -> Matches:
    """Each found person, best score first, takes the free true person of highest overlap, at least
    the threshold.

    People that are not ignored come first; on equal overlap the later one wins (COCO's comparison
    is "not less"). `reusable` true regions (crowds) may be taken many times. Where the chosen pair
    is not `right`, neither is matched: the found person is false (unless that true person is
    ignored) and the true person stays free for others (AttrCOCOeval of COCO-UniHuman; with `right`
    all true this is COCOeval).
    """
    (d, g), a, t = overlap.shape, len(ignored), len(thresholds)
    owner = np.full((a, t, d), -1)
    dropped = np.zeros((a, t, d), dtype=bool)
    if not g:
        return Matches(owner, dropped)
    limits = np.minimum(thresholds, 1 - 1e-10)[:, None]
    free = np.ones((a, t, g), dtype=bool)
    ranges = np.arange(a)[:, None]
    # found people that overlap nobody stay unmatched: most queries of most pictures
    for i in np.flatnonzero((overlap >= limits.min()).any(1)):
        open_ = (free | reusable) & (overlap[i] >= limits)
        regular = open_ & ~ignored[:, None]
        pool = np.where(regular.any(-1, keepdims=True), regular, open_)
        best = g - 1 - np.argmax(np.where(pool, overlap[i], -1.0)[..., ::-1], -1)
        hit = pool.any(-1)
        dropped[:, :, i] = hit & ignored[ranges, best]
        won = hit & right[i, best]
        owner[won, i] = best[won]
        free[*np.nonzero(won), best[won]] = False
    return Matches(owner, dropped)


@dataclass(frozen=True, eq=False)
class Curve:
    """`precision` at `RECALLS` and the last recall, per threshold."""

    precision: Float[np.ndarray, "t r"]
    recall: Float[np.ndarray, " t"]

    def mean_precision(self, threshold: int | None = None) -> float:
        """AP, over all thresholds or at one (its index)."""
        values = self.precision if threshold is None else self.precision[threshold]
        return float(values.astype(np.float64).ravel().mean())

    def mean_recall(self) -> float:
        """AR."""
        return float(self.recall.astype(np.float64).mean())


def curve(
    scores: Float[np.ndarray, " n"],
    matched: Bool[np.ndarray, "t n"],
    ignored: Bool[np.ndarray, "t n"],
    num_people: int,
) -> Curve | None:
    """COCO's interpolated curve over all pictures; None without people.

    Equal scores keep the order given (pictures by id, then found people as the system gave them).
    Recalls are rounded to single precision before they are compared with `RECALLS`, and the curve
    is kept in single precision, as in the official attribute evaluation: where a recall is a
    multiple of 0.01 this decides, and with few people it is worth a tenth of a point.
    """
    if not num_people:
        return None
    order = np.argsort(-scores, kind="stable")
    precision = np.zeros((len(matched), len(RECALLS)), np.float32)
    last = np.zeros(len(matched), np.float32)
    for t in range(len(matched)):
        counts = ~ignored[t, order]
        right = np.cumsum(matched[t, order] & counts, dtype=float)
        wrong = np.cumsum(~matched[t, order] & counts, dtype=float)
        if not len(right):
            continue
        recall = (right / num_people).astype(np.float32)
        raw = right / (wrong + right + np.spacing(1))
        falling = np.maximum.accumulate(raw[::-1])[::-1]
        at = np.searchsorted(recall, RECALLS, side="left")
        reached = at < len(falling)
        precision[t, reached] = falling[at[reached]]
        last[t] = recall[-1]
    return Curve(precision, last)
