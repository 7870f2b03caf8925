"""Gender AP and Age-10 AP (HQNet, COCO-UniHuman) and plain numbers about gender, age and the
score threshold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from humanquery.evaluation.coco_rows import (
    UNKNOWN,
    PictureFound,
    PictureTruth,
    best_first,
    overlaps,
)
from humanquery.evaluation.matching import IOU_THRESHOLDS, Curve, Matches, curve, match
from humanquery.evaluation.people_report import (
    AREAS,
    AgeNumbers,
    BestThreshold,
    FamilyScores,
    GenderNumbers,
    ReliabilityBin,
    SizeScores,
)

YEARS = 10.0
"""Age-10: an age is right when its error is strictly below (the released code; the paper writes
"no larger than")"""
MOST_FOUND = (100, 300, 1000)
"""found people per picture: AP at the first, AP50, AP75 and the sizes at the last"""

Pair = tuple[PictureTruth, PictureFound]


def gender_ap(pairs: Sequence[Pair]) -> FamilyScores:
    """COCO box AP in which a match also needs the right gender: (P(female) ≥ 0.5) equals the
    label.

    People without a gender label are dropped, not ignored: a found person that stands on one is
    false. Pictures without a labelled person are left out. `pairs` in the order of their picture
    ids.
    """
    known = [None if truth.gender is None else truth.gender != UNKNOWN for truth, _ in pairs]
    return _attribute_ap(pairs, known, _right_gender)


def age_ap(pairs: Sequence[Pair]) -> FamilyScores:
    """COCO box AP in which a match also needs an age whose error is below `YEARS`; otherwise as
    `gender_ap`.

    Only ages that are one number count; people whose label is an interval are dropped like
    people without a label.
    """
    known = [
        None if t.age is None else (t.age[:, 0] != UNKNOWN) & (t.age[:, 0] == t.age[:, 1])
        for t, _ in pairs
    ]
    return _attribute_ap(pairs, known, _right_age)


def _right_gender(truth: PictureTruth, found: PictureFound) -> Bool[np.ndarray, "m n"]:
    return (found.gender >= 0.5)[:, None] == (truth.gender > 0.5)[None]


def _right_age(truth: PictureTruth, found: PictureFound) -> Bool[np.ndarray, "m n"]:
    return np.abs(found.age[:, None] - truth.age[None, :, 0]) < YEARS


@dataclass(frozen=True, eq=False)
class _Scored:
    """One picture's share of the curves."""

    scores: Float[np.ndarray, " d"]
    matched: Bool[np.ndarray, "a t d"]
    ignored: Bool[np.ndarray, "a t d"]
    people: Int[np.ndarray, " a"]


def _attribute_ap(pairs: Sequence[Pair], known: list[np.ndarray | None], right) -> FamilyScores:
    scored = [
        _score_picture(_people(truth, mask), found, right)
        for (truth, found), mask in zip(pairs, known, strict=True)
        if mask is not None and mask.any()
    ]
    most = {limit: _curves([_cut(s, limit) for s in scored]) for limit in MOST_FOUND}
    first, last = MOST_FOUND[0], MOST_FOUND[-1]
    sizes = {}
    for a, size in enumerate(AREAS):
        whole = most[last][a]
        headline = most[first if size in ("all", "without_small") else last][a]
        sizes[size] = SizeScores(
            ap=headline and headline.mean_precision(),
            ap50=whole and whole.mean_precision(0),
            ap75=whole and whole.mean_precision(5),
            ar=headline and headline.mean_recall(),
            people=int(sum(s.people[a] for s in scored)),
        )
    return FamilyScores(
        sizes, {limit: curves[0] and curves[0].mean_recall() for limit, curves in most.items()}
    )


def _people(truth: PictureTruth, kept: Bool[np.ndarray, " n"]) -> PictureTruth:
    """Only these people, without masks and joints."""
    return PictureTruth(
        size=truth.size,
        boxes=truth.boxes[kept],
        ignore=truth.ignore[kept],
        areas=truth.areas[kept],
        gender=None if truth.gender is None else truth.gender[kept],
        age=None if truth.age is None else truth.age[kept],
    )


def _score_picture(truth: PictureTruth, found: PictureFound, right) -> _Scored:
    order = best_first(found.scores)[: MOST_FOUND[-1]]
    ranges = np.array(list(AREAS.values()))
    unseen = truth.ignore | _outside(truth.areas, ranges)
    fits = right(truth, found)[order] if len(found) else np.zeros((0, len(truth)), dtype=bool)
    matches = match(overlaps(truth, found.boxes[order]), fits, unseen, truth.ignore, IOU_THRESHOLDS)
    matched = matches.owner >= 0
    outside = _outside(found.boxes[order, 2] * found.boxes[order, 3], ranges)
    ignored = matches.ignored | (~matched & outside[:, None])
    return _Scored(found.scores[order], matched, ignored, (~unseen).sum(-1))


def _outside(
    areas: Float[np.ndarray, " n"], ranges: Float[np.ndarray, "a 2"]
) -> Bool[np.ndarray, "a n"]:
    return (areas < ranges[:, :1]) | (areas > ranges[:, 1:])


def _cut(scored: _Scored, limit: int) -> _Scored:
    return replace(
        scored,
        scores=scored.scores[:limit],
        matched=scored.matched[..., :limit],
        ignored=scored.ignored[..., :limit],
    )


def _curves(scored: list[_Scored]) -> list[Curve | None]:
    """One per area range."""
    if not scored:
        return [None] * len(AREAS)
    scores = np.concatenate([s.scores for s in scored])
    return [
        curve(
            scores,
            np.concatenate([s.matched[a] for s in scored], -1),
            np.concatenate([s.ignored[a] for s in scored], -1),
            int(sum(s.people[a] for s in scored)),
        )
        for a in range(len(AREAS))
    ]


@dataclass(frozen=True, eq=False)
class BoxMatches:
    """Who was found, at IoU 0.5, one to one, best score first; over all pictures."""

    true_people: list[Int[np.ndarray, " _"]]
    """per picture and found person: its true person, -1 for none"""
    ignored: list[Bool[np.ndarray, " _"]]
    """per picture and found person: it stands on an ignore region"""


def match_pairs(pairs: Sequence[Pair]) -> BoxMatches:
    """Matches by box alone; every true person takes part, labelled or not."""
    people, ignored = [], []
    for truth, found in pairs:
        order = best_first(found.scores)
        overlap = overlaps(truth, found.boxes[order])
        plain: Matches = match(
            overlap,
            np.ones(overlap.shape, dtype=bool),
            truth.ignore[None],
            truth.ignore,
            IOU_THRESHOLDS[:1],
        )
        person, on_region = np.empty_like(plain.owner[0, 0]), np.empty_like(plain.ignored[0, 0])
        person[order], on_region[order] = plain.owner[0, 0], plain.ignored[0, 0]
        people.append(np.where(on_region, -1, person))
        ignored.append(on_region)
    return BoxMatches(people, ignored)


def gender_numbers(
    pairs: Sequence[Pair], matches: BoxMatches, bins: int = 10
) -> GenderNumbers | None:
    """Accuracy and a reliability table over matched people; None where nobody has a gender
    label."""
    probabilities, labels, labelled = [], [], 0
    for (truth, found), person in zip(pairs, matches.true_people, strict=True):
        if truth.gender is None:
            continue
        has = (truth.gender != UNKNOWN) & ~truth.ignore
        labelled += int(has.sum())
        rows = _labelled_rows(person, has)
        probabilities.append(found.gender[rows])
        labels.append(truth.gender[person[rows]])
    if not labelled:
        return None
    probability, label = np.concatenate(probabilities), np.concatenate(labels)
    table = _reliability(probability, label, bins)
    return GenderNumbers(
        labelled=labelled,
        matched=len(label),
        coverage=len(label) / labelled,
        accuracy=_mean((probability >= 0.5) == (label > 0.5)),
        reliability=table,
        calibration_error=_calibration_error(table),
    )


def age_numbers(pairs: Sequence[Pair], matches: BoxMatches) -> AgeNumbers | None:
    """Errors over matched people; None where nobody has an age label.

    The error is the distance to the label: 0 inside an interval. Right means below `YEARS` for
    an age that is one number, inside for an interval.
    """
    errors, right, labelled = [], [], 0
    for (truth, found), person in zip(pairs, matches.true_people, strict=True):
        if truth.age is None:
            continue
        has = (truth.age[:, 0] != UNKNOWN) & ~truth.ignore
        labelled += int(has.sum())
        rows = _labelled_rows(person, has)
        low, high = truth.age[person[rows]].T
        years = found.age[rows]
        error = np.maximum(np.maximum(low - years, years - high), 0.0)
        errors.append(error)
        right.append(np.where(low == high, error < YEARS, error == 0))
    if not labelled:
        return None
    error = np.concatenate(errors)
    return AgeNumbers(
        labelled=labelled,
        matched=len(error),
        coverage=len(error) / labelled,
        within_ten=_mean(np.concatenate(right)),
        mean_error=_mean(error),
    )


def best_threshold(pairs: Sequence[Pair], matches: BoxMatches) -> BestThreshold | None:
    """The score at and above which found boxes have the highest F1 at IoU 0.5; None without
    people or findings.

    Found people on ignore regions do not count.
    """
    num_people = sum(int((~truth.ignore).sum()) for truth, _ in pairs)
    counts = [~ignored for ignored in matches.ignored]
    scores = np.concatenate(
        [f.scores[c] for (_, f), c in zip(pairs, counts, strict=True)] or [np.zeros(0)]
    )
    right = np.concatenate(
        [p[c] >= 0 for p, c in zip(matches.true_people, counts, strict=True)] or [np.zeros(0)]
    )
    if not num_people or not len(scores):
        return None
    order = best_first(scores)
    ends = np.flatnonzero(
        np.append(np.diff(scores[order]) != 0, True)
    )  # equal scores pass a threshold together
    hits = np.cumsum(right[order])[ends]
    precision, recall = hits / (ends + 1), hits / num_people
    f1 = 2 * hits / (ends + 1 + num_people)
    best = int(np.argmax(f1))
    return BestThreshold(
        threshold=float(scores[order][ends[best]]),
        f1=float(f1[best]),
        precision=float(precision[best]),
        recall=float(recall[best]),
    )


def _labelled_rows(
    person: Int[np.ndarray, " d"], has: Bool[np.ndarray, " n"]
) -> Int[np.ndarray, " r"]:
    """Found people that were matched to a labelled person."""
    rows = np.flatnonzero(person >= 0)
    return rows[has[person[rows]]]


def _reliability(
    probability: np.ndarray, label: np.ndarray, bins: int
) -> tuple[ReliabilityBin, ...]:
    bin_of = np.minimum((probability * bins).astype(int), bins - 1)
    return tuple(
        ReliabilityBin(
            low=b / bins,
            high=(b + 1) / bins,
            people=int((bin_of == b).sum()),
            mean_probability=_mean(probability[bin_of == b]),
            share_female=_mean(label[bin_of == b]),
        )
        for b in range(bins)
    )


def _calibration_error(table: tuple[ReliabilityBin, ...]) -> float | None:
    total = sum(b.people for b in table)
    if not total:
        return None
    return (
        sum(b.people * abs(b.mean_probability - b.share_female) for b in table if b.people) / total
    )


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None
