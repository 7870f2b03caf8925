import json
import math

import pytest

from humanquery.core.errors import AnnotationError
from humanquery.data.check.votes import (
    Aggregate,
    aggregate,
    aggregate_person,
    consistency,
    group_of,
    split_outliers,
)


@pytest.mark.parametrize(
    ("votes", "group"),
    [
        (["young"] * 6 + ["teen"] * 4, "young"),
        (["baby"], "baby"),
        ([], None),
        # a tie: the group nearest to the middle of all votes
        (["teen"] * 4 + ["young"] * 4 + ["middle aged"] * 2, "young"),
        (["teen"] * 4 + ["young"] * 4 + ["kid"] * 2, "teen"),
        # equally near: the younger one
        (["teen"] * 5 + ["young"] * 5, "teen"),
        (["young"] * 5 + ["teen"] * 5, "teen"),
    ],
)
def test_the_group_is_the_mode(votes, group):
    assert group_of(votes) == group


@pytest.mark.parametrize(
    ("votes", "outliers"),
    [
        # median 30, median distance 1: limit 3 * max(1.4826, 1.667) = 5
        ([28, 29, 29, 30, 30, 30, 31, 31, 32, 70], [70]),
        ([30] * 9 + [35], []),
        ([30] * 9 + [36], [36]),
        # median 30, median distance 10: limit 44.5
        ([20, 20, 20, 30, 30, 40, 40, 40, 80], [80]),
        ([20, 20, 20, 30, 30, 40, 40, 40, 74], []),
        ([5, 90], []),
        ([33], []),
    ],
)
def test_outliers_are_far_from_the_median(votes, outliers):
    kept, found = split_outliers(votes)
    assert found == outliers and sorted(kept + found) == sorted(votes) and kept


def test_the_age_is_the_mean_without_outliers():
    person = aggregate_person("p", ["young"] * 3 + ["teen"], [28, 30, 32, 90])
    # median 31, distances 3 1 1 59: median distance 2, limit 8.9
    assert (person.group, person.group_share, person.age) == ("young", 0.75, 30.0)
    assert (person.age_range, person.outliers) == ((28, 32), (90,))


def _voted(age: float, votes: tuple) -> Aggregate:
    return Aggregate("p", None, 0.0, age, (0, 0), (), votes)


def test_consistency_counts_all_votes_within_n_years_that_bound_included():
    people = [_voted(30.0, (25, 35, 36, 41)), _voted(10.0, (10, 20, 20.5, 4))]
    assert consistency(people, 5) == 100 * 3 / 8
    assert consistency(people, 10) == 100 * 6 / 8
    assert math.isnan(consistency([], 5))


ROWS = [
    {"person": "a", "groups": ["young"] * 9 + ["teen"], "ages": [30] * 9 + [60]},
    {"person": 2, "groups": ["kid"] * 10, "ages": [8] * 5 + [14] * 5},
]


def test_a_json_file_becomes_ages_and_consistency(tmp_path):
    (tmp_path / "votes.json").write_text(json.dumps(ROWS))
    result = aggregate(tmp_path / "votes.json", tmp_path / "out" / "ages.json")
    assert result == json.loads((tmp_path / "out" / "ages.json").read_text())
    assert [(p["person"], p["group"], p["age"]) for p in result["people"]] == [
        ("a", "young", 30),
        ("2", "kid", 11),
    ]
    assert (result["num_people"], result["num_age_votes"], result["num_outliers"]) == (2, 20, 1)
    assert result["consistency_percent"] == {"age_5": 95.0, "age_10": 95.0}


def test_a_csv_file_says_the_same(tmp_path):
    lines = ["person,group,age"]
    for row in ROWS:
        lines += [
            f"{row['person']},{group},{age}"
            for group, age in zip(row["groups"], row["ages"], strict=True)
        ]
    (tmp_path / "votes.csv").write_text("\n".join(lines))
    (tmp_path / "votes.json").write_text(json.dumps(ROWS))
    assert aggregate(tmp_path / "votes.csv", tmp_path / "a") == aggregate(
        tmp_path / "votes.json", tmp_path / "b"
    )


def test_a_file_of_nobody_is_written_too(tmp_path):
    (tmp_path / "votes.json").write_text("[]")
    result = aggregate(tmp_path / "votes.json", tmp_path / "ages.json")
    assert result["people"] == [] and result["consistency_percent"] == {
        "age_5": None,
        "age_10": None,
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("v.json", "{", "not JSON"),
        ("v.json", "{}", "expected a list of"),
        ("v.json", '[{"person": 1}]', "entry 0: 'ages' is null, expected years"),
        ("v.json", '[{"person": 1, "ages": []}]', "person '1': no age vote"),
        (
            "v.json",
            '[{"person": 1, "ages": [130]}]',
            "an age vote is 130, expected years from 0 to 120",
        ),
        ("v.json", '[{"person": 1, "ages": [NaN]}]', "an age vote is nan"),
        ("v.json", '[{"person": 1, "ages": ["3"]}]', "an age vote is '3'"),
        (
            "v.json",
            '[{"person": 1, "ages": [3], "groups": ["yung"]}]',
            "unknown age group 'yung'. Did you mean 'young'",
        ),
        (
            "v.json",
            '[{"person": 1, "ages": [3]}, {"person": 1, "ages": [3]}]',
            "'1' stands there twice",
        ),
        ("v.csv", "person,age\n1,2", "no column group; expected person, group, age"),
        ("v.csv", "person,group,age\n1,kid,2\n1,kid,x", "v.csv:3: age 'x' is no number of years"),
        ("v.csv", "", "no column age, group, person"),
    ],
)
def test_a_file_that_cannot_be_votes_says_where_and_why(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(AnnotationError, match=message):
        aggregate(tmp_path / name, tmp_path / "out.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AnnotationError, match="none.json: cannot be read"):
        aggregate(tmp_path / "none.json", tmp_path / "out.json")
