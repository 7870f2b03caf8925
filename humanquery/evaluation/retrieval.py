"""Person re-identification: mean average precision and the cumulative match curve (Market-1501's
protocol)."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from humanquery.core.errors import AnnotationError

JUNK = -1
"""identity of pictures that count for nobody (bad boxes of Market-1501)"""
RANKS = (1, 5, 10, 20)


@dataclass(frozen=True)
class RetrievalScores:
    """Shares are 0..1; None where no query has anybody to find."""

    queries: int
    """scored: those with at least one picture to find"""
    without_match: int
    """queries left out, since nobody in the gallery is the same person on another camera"""
    mean_ap: float | None
    cmc: dict[int, float] = field(default_factory=dict)
    """rank -> share of queries with a right picture among the first so many"""

    def numbers(self) -> dict[str, float | int | None]:
        ranks = {f"rank_{rank}": share for rank, share in self.cmc.items()}
        return {"mAP": self.mean_ap, **ranks, "queries": self.queries}


def retrieval_scores(
    distances: Float[np.ndarray, "q g"],
    query_ids: Int[np.ndarray, " _q"],
    gallery_ids: Int[np.ndarray, " _g"],
    query_cameras: Int[np.ndarray, " _q"] | None = None,
    gallery_cameras: Int[np.ndarray, " _g"] | None = None,
    *,
    ranks: tuple[int, ...] = RANKS,
    trapezoid: bool = False,
) -> RetrievalScores:
    """mAP and CMC of a gallery ranked by distance for every query.

    For each query, gallery pictures of the same person on the same camera are removed, and `JUNK`
    always; identity 0 is a distractor, which nobody is. Without cameras nothing is removed but junk
    (SenseReID: query and gallery come from different cameras). AP is the sum of the precision at
    each hit over the number of pictures to find, as most code has it; `trapezoid` takes the mean of
    the precision before and at each hit, as the first Market-1501 code did. Equal distances keep
    the order of the gallery.

    Numbers of rows or columns that do not fit, or a NaN distance, raise AnnotationError.
    """
    cameras = (query_cameras, gallery_cameras)
    if (query_cameras is None) != (gallery_cameras is None):
        raise AnnotationError(
            "retrieval: cameras of queries or of gallery alone; give both or none"
        )
    sides = ((query_ids, query_cameras), (gallery_ids, gallery_cameras))
    for what, count, (ids, seen) in zip(
        ("queries", "gallery"), distances.shape, sides, strict=True
    ):
        if len(ids) != count or (seen is not None and len(seen) != count):
            raise AnnotationError(
                f"retrieval: distances are {distances.shape}, but the {what} has {len(ids)} "
                f"identities and {'no' if seen is None else len(seen)} cameras; expected {count}"
            )
    if np.isnan(distances).any():
        raise AnnotationError("retrieval: a distance is NaN; is a feature vector not finite?")
    precisions, firsts = [], []
    for q in range(len(query_ids)):
        hits = _hits(distances[q], query_ids[q], gallery_ids, q, cameras)
        if hits.any():
            precisions.append(_average_precision(hits, trapezoid))
            firsts.append(int(hits.argmax()))
    scored = len(firsts)
    cmc = {k: float(np.mean([first < k for first in firsts])) for k in ranks} if scored else {}
    mean = float(np.mean(precisions)) if scored else None
    return RetrievalScores(scored, len(query_ids) - scored, mean, cmc)


def _hits(distances, person, gallery_ids, query, cameras) -> np.ndarray:
    """Whether each picture that is left in the gallery, nearest first, shows the same person."""
    same = (gallery_ids == person) & (person not in (0, JUNK))
    left = gallery_ids != JUNK
    if cameras[0] is not None:
        left &= ~(same & (cameras[1] == cameras[0][query]))
    order = np.argsort(distances[left], kind="stable")
    return same[left][order]


def _average_precision(hits: np.ndarray, trapezoid: bool) -> float:
    places = np.flatnonzero(hits)
    found = np.arange(1, len(places) + 1)
    precision = found / (places + 1)
    if trapezoid:
        # before the first place of all, precision counts as 1
        before = np.where(places > 0, (found - 1) / np.maximum(places, 1), 1.0)
        precision = (before + precision) / 2
    return float(precision.mean())
