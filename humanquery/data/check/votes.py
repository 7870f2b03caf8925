"""Votes of many annotators into one age: the two-stage protocol of the paper's section 3.1, and its
consistency.

First, about ten people say in which of six groups a person is; the group is the mode. Then, told
the group, about ten people say an age; outliers are removed and the rest is averaged.
"""

import csv
import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from humanquery.core.errors import AnnotationError, nearest

Years = float | int
GROUPS = ("baby", "kid", "teen", "young", "middle aged", "elderly")
"""from youngest to oldest"""
CONSISTENCY_YEARS = (5, 10)

OUTLIER_DEVIATIONS = 3.0
MIN_SPREAD = 5 / 3
"""years; unanimous votes have no spread of their own, so at least 3 x this from the median is never
an outlier"""


@dataclass(frozen=True)
class Aggregate:
    """One person after the vote."""

    person: str
    group: str | None
    """None where nobody voted for a group"""
    group_share: float
    """share of the group votes that the group got, 0..1"""
    age: float
    """mean of the votes that are no outliers, years"""
    age_range: tuple[Years, Years]
    """lowest and highest of them"""
    outliers: tuple[Years, ...]
    age_votes: tuple[Years, ...]


def group_of(votes: Sequence[str]) -> str | None:
    """The mode of the group votes; None without votes.

    Of several groups with most votes, the one nearest to the middle (the median group) of all
    votes; if two are equally near, the younger one.
    """
    if not votes:
        return None
    counts = Counter(votes)
    ranks = sorted(GROUPS.index(vote) for vote in votes)
    middle = statistics.median(ranks)
    return min(
        counts,
        key=lambda group: (-counts[group], abs(GROUPS.index(group) - middle), GROUPS.index(group)),
    )


def split_outliers(votes: Sequence[Years]) -> tuple[list[Years], list[Years]]:
    """(kept, outliers), each in the given order.

    An outlier is farther from the median than 3 robust standard deviations: 1.4826 times the median
    distance from the median, at least `MIN_SPREAD`. The median itself is never far, so something is
    always kept.
    """
    median = statistics.median(votes)
    spread = 1.4826 * statistics.median(abs(vote - median) for vote in votes)
    limit = OUTLIER_DEVIATIONS * max(spread, MIN_SPREAD)
    kept = [vote for vote in votes if abs(vote - median) <= limit]
    return kept, [vote for vote in votes if abs(vote - median) > limit]


def aggregate_person(person: str, groups: Sequence[str], ages: Sequence[Years]) -> Aggregate:
    """Group and age of one person; at least one age vote is needed."""
    group = group_of(groups)
    kept, outliers = split_outliers(ages)
    share = groups.count(group) / len(groups) if groups else 0.0
    span = (min(kept), max(kept))
    return Aggregate(
        person, group, share, statistics.fmean(kept), span, tuple(outliers), tuple(ages)
    )


def consistency(people: Sequence[Aggregate], years: Years) -> float:
    """Age-n consistency in percent (the paper's equation 1): share of all votes, outliers too,
    within `years` of the person's final age, that bound included. Every person needs at least one
    vote; of no people it is NaN."""
    close = [abs(vote - person.age) <= years for person in people for vote in person.age_votes]
    return 100 * sum(close) / len(close) if close else math.nan


def aggregate(votes: str | Path, out: str | Path) -> dict[str, Any]:
    """Reads a vote file, writes one row per person and the consistency as JSON to `out`, and
    returns what it wrote.

    The vote file is JSON, a list of {"person": id, "groups": [names], "ages": [years]}, or CSV with
    one vote a line and the columns person, group, age (either may stay empty). A file or a vote
    that cannot be one raises AnnotationError.
    """
    votes, out = Path(votes), Path(out)
    people = [aggregate_person(*row) for row in read_votes(votes)]
    agreement = {f"age_{years}": _plain(consistency(people, years)) for years in CONSISTENCY_YEARS}
    result = {
        "num_people": len(people),
        "num_age_votes": sum(len(person.age_votes) for person in people),
        "num_outliers": sum(len(person.outliers) for person in people),
        "consistency_percent": agreement,
        "people": [json.loads(json.dumps(asdict(person))) for person in people],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    return result


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3)


def read_votes(path: Path) -> list[tuple[str, list[str], list[Years]]]:
    """(person, group votes, age votes) of every person, in the order of the file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise AnnotationError(
            f"{path}: cannot be read ({problem}); expected a vote file, JSON or CSV"
        ) from problem
    rows = _from_csv(text, path) if path.suffix.lower() == ".csv" else _from_json(text, path)
    repeated = [person for person, count in Counter(row[0] for row in rows).items() if count > 1]
    if repeated:
        raise AnnotationError(
            f"{path}: person {repeated[0]!r} stands there twice; give all votes of a person "
            f"together"
        )
    for person, groups, ages in rows:
        _check(f"{path}: person {person!r}", groups, ages)
    return rows


def _from_json(text: str, path: Path) -> list[tuple[str, list, list]]:  # votes not yet checked
    try:
        content = json.loads(text)
    except ValueError as problem:
        raise AnnotationError(
            f"{path}: not JSON ({problem}); a vote file is JSON, or CSV named .csv"
        ) from problem
    if not isinstance(content, list):
        raise AnnotationError(f'{path}: expected a list of {{"person", "groups", "ages"}}')
    for row in content:
        lists = (
            isinstance(row, dict)
            and isinstance(row.get("ages"), list)
            and isinstance(row.get("groups", []), list)
        )
        if not lists or "person" not in row:
            raise AnnotationError(
                f'{path}: {row!r} is no {{"person": id, "groups": [names], "ages": [years]}}'
            )
    return [(str(row["person"]), row.get("groups", []), row["ages"]) for row in content]


def _from_csv(text: str, path: Path) -> list[tuple[str, list, list]]:
    reader = csv.DictReader(text.splitlines())
    missing = {"person", "group", "age"} - set(reader.fieldnames or ())
    if missing:
        raise AnnotationError(
            f"{path}: no column {', '.join(sorted(missing))}; expected person, group, age"
        )
    people: dict[str, tuple[list[str], list[Years]]] = {}
    for number, row in enumerate(reader, 2):
        groups, ages = people.setdefault(row["person"], ([], []))
        if row["group"]:
            groups.append(row["group"].strip())
        if row["age"]:
            try:
                ages.append(float(row["age"]))
            except ValueError as problem:
                raise AnnotationError(
                    f"{path}:{number}: age {row['age']!r} is no number of years"
                ) from problem
    return [(person, *votes) for person, votes in people.items()]


def _check(where: str, groups: list, ages: list) -> None:
    if not ages:
        raise AnnotationError(f"{where}: no age vote; at least one is needed")
    for group in groups:
        if group not in GROUPS:
            raise AnnotationError(
                f"{where}: unknown age group {group!r}.{nearest(str(group), GROUPS)}"
            )
    for age in ages:
        number = isinstance(age, int | float) and not isinstance(age, bool)
        if not number or not 0 <= age <= 120:  # NaN fails both comparisons
            raise AnnotationError(f"{where}: an age vote is {age!r}, expected years from 0 to 120")
