"""Gender and age of people whose boxes were given, so that nobody has to be found or matched."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from humanquery.core.persons import Persons
from humanquery.core.target import Target

YEARS = 10.0


@dataclass(frozen=True)
class RegionScores:
    """Shares are 0..1; None where nobody has the label."""

    genders: int
    """people with a gender label"""
    gender_right: float | None
    ages: int
    """people whose age is one number"""
    within_ten: float | None
    """of them have an error below ten years"""
    age_error: float | None
    """mean, in years, over `ages`"""
    intervals: int
    """people of whose age an interval is known"""
    interval_right: float | None
    """of them have an age inside, ends included: whole years from `low` until the day before `high
    + 1`"""


@dataclass(frozen=True)
class RegionReport:
    """Scores by the name of the evaluation part."""

    parts: dict[str, RegionScores]

    def numbers(self) -> dict[str, float | int | None]:
        """`part/score`, flat."""
        return {
            f"{name}/{key}": value
            for name, scores in self.parts.items()
            for key, value in asdict(scores).items()
        }

    def table(self) -> str:
        lines = [
            f"{'':10}{'gender right':>16}{'within ten':>16}{'age error':>11}{'interval right':>18}"
        ]
        for name, s in self.parts.items():
            shares = (
                (s.gender_right, s.genders, 16),
                (s.within_ten, s.ages, 16),
                (s.interval_right, s.intervals, 18),
            )
            gender, ten, interval = (
                _cell(share, count).rjust(width) for share, count, width in shares
            )
            error = ("-" if s.age_error is None else f"{s.age_error:.2f}").rjust(11)
            lines.append(f"{name:10}{gender}{ten}{error}{interval}")
        return "\n".join(lines)

    def to_json(self) -> str:
        return json.dumps({name: asdict(scores) for name, scores in self.parts.items()}, indent=1)

    def save(self, path: Path | str) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(self.to_json() + "\n")


def score_regions(pairs: Iterable[tuple[Target, Persons]]) -> RegionScores:
    """Scores row i of each `Persons` (the same people in the same order) against row i of its
    `Target`.

    Ignore regions do not count. `Persons` with another number of rows, or without gender or age,
    raise ValueError.
    """
    genders, points, spans = [], [], []
    for truth, found in pairs:
        if len(truth) != len(found) or found.gender is None or found.age is None:
            raise ValueError(
                f"score_regions: {len(found)} people read for {len(truth)} true boxes, gender "
                f"{'missing' if found.gender is None else 'given'}, age "
                f"{'missing' if found.age is None else 'given'}; "
                "expected one row with both per true box, in the same order"
            )
        counts = ~truth.ignore
        if truth.gender is not None:
            has = truth.gender.valid & counts
            genders.append((found.gender[has] >= 0.5) == (truth.gender.value[has] > 0.5))
        if truth.age is not None:
            has = truth.age.valid & counts
            low, high = truth.age.value[has].unbind(-1)
            years, point = found.age[has], low == high
            points.append((years - low).abs()[point])
            spans.append(((years >= low) & (years < high + 1))[~point])
    right, error, inside = (
        torch.cat(parts).float() if parts else torch.zeros(0) for parts in (genders, points, spans)
    )
    return RegionScores(
        genders=len(right),
        gender_right=_mean(right),
        ages=len(error),
        within_ten=_mean((error < YEARS).float()),
        age_error=_mean(error),
        intervals=len(inside),
        interval_right=_mean(inside),
    )


def _mean(values: torch.Tensor) -> float | None:
    return float(values.mean()) if len(values) else None


def _cell(share: float | None, people: int) -> str:
    return "-" if share is None else f"{share:.1%} of {people}"
