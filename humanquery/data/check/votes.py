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
from humanquery.core.foreign import (
    is_number,
    items,
    kind_of,
    located,
    mapping,
    parse_json,
    read_text,
    shown,
)

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
    content = read_text(path, "a vote file, JSON or CSV named .csv")
    is_csv = path.suffix.lower() == ".csv"
    rows = _from_csv(content, path) if is_csv else _from_json(content, path)
    repeated = [person for person, count in Counter(row[0] for row in rows).items() if count > 1]
    if repeated:
        raise AnnotationError(
            f"{path}: person {repeated[0]!r} stands there twice; give all votes of a person "
            f"together"
        )
    for person, groups, ages in rows:
        _check(f"{path}: person {person!r}", groups, ages)
    return rows


def _from_json(content: str, path: Path) -> list[tuple[str, list, list]]:  # votes not yet checked
    expected = 'a list of {"person": id, "groups": [names], "ages": [years]}, or CSV named .csv'
    rows = parse_json(content, str(path), expected)
    if not isinstance(rows, list):
        raise AnnotationError(f"{path}: holds {kind_of(rows)} of JSON, expected {expected}")
    people = []
    for i, row in enumerate(rows):
        with located(f"{path}: entry {i}"):
            person = mapping(row, "entry", expected).get("person")
            if isinstance(person, int | float | str) and not isinstance(person, bool):
                groups = items(row.get("groups") or [], "groups", "a list of age groups")
                people.append((str(person), groups, items(row.get("ages"), "ages", "years")))
                continue
            raise AnnotationError(f"'person' is {shown(person)}, expected {expected}")
    return people


def _from_csv(content: str, path: Path) -> list[tuple[str, list, list]]:
    reader = csv.DictReader(content.splitlines())
    missing = {"person", "group", "age"} - set(reader.fieldnames or ())
    if missing:
        raise AnnotationError(
            f"{path}: no column {', '.join(sorted(missing))}; expected person, group, age"
        )
    people: dict[str, tuple[list[str], list[Years]]] = {}
    for number, row in enumerate(reader, 2):
        if row["person"] is None or row["age"] is None or row["group"] is None:
            raise AnnotationError(
                f"{path}:{number}: the line ends early; expected person, group, age"
            )
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
                f"{where}: unknown age group {shown(group)}.{nearest(shown(group), GROUPS)}"
            )
    for age in ages:
        if not is_number(age) or not 0 <= age <= 120:
            raise AnnotationError(
                f"{where}: an age vote is {shown(age)}, expected years from 0 to 120"
            )
