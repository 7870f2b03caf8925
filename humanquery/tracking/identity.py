"""How much two human queries say about being one person's: log-odds from their distance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float

from humanquery.core.boxes import iou
from humanquery.core.errors import ConfigError, TrackingError
from humanquery.core.persons import Persons
from humanquery.tracking.association import cosine_distances

MOST = 4.0
"""log-odds are cut here (98 %): a fit knows little of distances that it has hardly seen"""


@dataclass(frozen=True)
class IdentityEvidence:
    """P(same person) = sigmoid(offset - slope · distance), of somebody who is as likely the same
    as not before looking. The distance is 1 - cosine to the nearest query of a track's gallery.

    A model whose queries tell nobody apart has a slope near 0 and so no say. The defaults are for
    queries of which nothing is known but that they are meant to be compared.
    """

    offset: float = 3.0
    slope: float = 10.0

    def __post_init__(self):
        if not (math.isfinite(self.offset) and math.isfinite(self.slope) and self.slope >= 0):
            raise ConfigError(
                f"IdentityEvidence: offset {self.offset}, slope {self.slope}; expected finite "
                f"numbers and a slope of at least 0 (queries that are nearer are likelier one "
                f"person's)"
            )

    def log_odds(self, distances: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Log of P(same) / P(not the same), within ±`MOST`."""
        return np.clip(self.offset - self.slope * distances, -MOST, MOST).astype(np.float32)


def logit(probability: float) -> float:
    """The log-odds of a probability."""
    return math.log(probability / (1 - probability))


@dataclass(frozen=True, eq=False)
class QueryPairs:
    """Distances from galleries to later queries of the same person and of others."""

    same: Float[np.ndarray, " n"]
    other: Float[np.ndarray, " m"]

    def auc(self) -> float:
        """How often the same person is nearer than another, 0.5..1; ties are half."""
        order = np.sort(self.other)
        below, upto = (np.searchsorted(order, self.same, side) for side in ("left", "right"))
        return float(1 - (below + upto).mean() / 2 / max(len(order), 1))

    def fit(self, steps: int = 50) -> IdentityEvidence:
        """Logistic regression in which both kinds weigh the same, by Newton's method; the slope is
        0 where the others are nearer. TrackingError with fewer than 20 pairs of either kind."""
        if min(len(self.same), len(self.other)) < 20:
            raise TrackingError(
                f"{len(self.same)} pairs of one person and {len(self.other)} of two; expected at "
                f"least 20 of each: give longer videos, with several people at once"
            )
        x = np.concatenate([self.same, self.other]).astype(np.float64)
        y = np.concatenate([np.ones(len(self.same)), np.zeros(len(self.other))])
        weight = np.where(y > 0, 0.5 / len(self.same), 0.5 / len(self.other))
        features = np.stack([np.ones_like(x), -x], 1)
        found = np.zeros(2)
        for _ in range(steps):
            sure = 1 / (1 + np.exp(-(features @ found)))
            gradient = features.T @ (weight * (sure - y)) + 1e-4 * found * [0, 1]
            curved = features.T @ (features * (weight * sure * (1 - sure))[:, None])
            found = found - np.linalg.solve(curved + np.diag([1e-9, 1e-4]), gradient)
        if found[1] < 0:
            return IdentityEvidence(0.0, 0.0)
        return IdentityEvidence(float(found[0]), float(found[1]))


def query_pairs(
    frames: Sequence[Persons],
    *,
    gaps: Sequence[int] = (5, 10, 20, 30),
    gallery: int = 10,
    least_score: float = 0.3,
) -> QueryPairs:
    """Pairs of a video without labels: somebody is the same from frame to frame while the boxes of
    two frames overlap by more than one half and no third box comes near; two people in one frame
    are two. `gaps` frames lie between a gallery's last query and the query that is compared.
    """
    names = _chains(frames, least_score)
    kept: dict[int, list[tuple[int, np.ndarray]]] = {}
    same, other = [], []
    for t, (people, of_frame) in enumerate(zip(frames, names, strict=True)):
        if not len(people):
            continue
        queries = F.normalize(people.embeddings.float(), dim=1).numpy()
        for gap in gaps:
            for name in {n for n in names[t - gap].tolist() if n >= 0} if t >= gap else ():
                older = [q for when, q in kept.get(name, ()) if when <= t - gap][-gallery:]
                present = np.flatnonzero(of_frame >= 0)
                if not older or name not in of_frame[present]:
                    continue  # only whoever is still there is surely none of the others
                near = np.ones((1, len(present)), bool)
                apart = cosine_distances(np.stack(older)[None], queries[present], near)[0]
                mine = of_frame[present] == name
                same.append(apart[mine])
                other.append(apart[~mine])
        for row in np.flatnonzero(of_frame >= 0):
            kept.setdefault(int(of_frame[row]), []).append((t, queries[row]))
    empty = [np.zeros(0, np.float32)]
    return QueryPairs(np.concatenate(same or empty), np.concatenate(other or empty))


def _chains(frames: Sequence[Persons], least_score: float) -> list[np.ndarray]:
    """A number for each person of each frame, the same along a chain of boxes that cannot be
    mistaken; -1 for people who are unsure or near another."""
    names, last, following = [], None, 0
    for people in frames:
        now = np.full(len(people), -1)
        sure = (people.scores >= least_score).numpy()
        if len(people):
            apart = iou(people.boxes, people.boxes).fill_diagonal_(0).numpy()
            sure &= apart.max(1, initial=0) < 0.2
        if last is not None and len(people) and len(last[0]):
            overlap = iou(last[0].boxes, people.boxes).numpy()
            for row in np.flatnonzero(sure):
                before = int(overlap[:, row].argmax())
                alone = (overlap[:, row] > 0.1).sum() == 1
                if alone and overlap[before, row] > 0.5 and last[1][before] >= 0:
                    now[row] = last[1][before]
        for row in np.flatnonzero(sure & (now < 0)):
            now[row], following = following, following + 1
        names.append(now)
        last = (people, now)
    return names
