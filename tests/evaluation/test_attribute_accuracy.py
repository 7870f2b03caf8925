"""Scores of gender and age in given boxes, against numbers done by hand."""

import json

import pytest
import torch

from humanquery.core.persons import Persons
from humanquery.core.rows import Labelled
from humanquery.core.target import Target
from humanquery.evaluation.attribute_accuracy import RegionReport, score_regions


def picture(rows, ignore=()):
    """(true gender, (low, high), said P(female), said age) per person."""
    n = len(rows)
    genders, ages, said, years = zip(*rows, strict=True) if n else ((), (), (), ())
    boxes = torch.tensor([[0.0, 0.0, 5.0, 5.0]]).repeat(n, 1)
    truth = Target(
        image_size=(10, 10),
        boxes=boxes,
        ignore=torch.tensor([i in ignore for i in range(n)], dtype=torch.bool),
        areas=torch.ones(n),
        gender=Labelled(
            torch.tensor([g or 0.0 for g in genders]),
            torch.tensor([g is not None for g in genders], dtype=torch.bool),
        ),
        age=Labelled(
            torch.tensor([a or (0.0, 0.0) for a in ages]).reshape(-1, 2),
            torch.tensor([a is not None for a in ages], dtype=torch.bool),
        ),
    )
    found = Persons(
        image_size=(10, 10),
        boxes=boxes,
        scores=torch.ones(n),
        gender=torch.tensor(said),
        age=torch.tensor(years),
    )
    return truth, found


def test_known_people_give_known_shares():
    first = picture(
        [
            (1.0, (30.0, 30.0), 0.9, 35.0),
            (0.0, (20.0, 20.0), 0.6, 30.0),
            (None, (16.0, 30.0), 0.1, 30.9),
        ]
    )
    second = picture(
        [(0.0, (31.0, 45.0), 0.2, 30.5), (1.0, None, 0.5, 0.0), (0.0, (5.0, 5.0), 0.9, 80.0)],
        ignore=(2,),
    )
    scores = score_regions([first, second])
    assert scores.genders == 4 and scores.gender_right == 0.75
    assert scores.ages == 2 and scores.within_ten == 0.5, "an error of ten years is not below ten"
    assert scores.age_error == 7.5
    assert scores.intervals == 2 and scores.interval_right == 0.5, "30.9 years is an age of 30"


def test_nobody_with_a_label_gives_none_instead_of_a_share():
    unknown = picture([(None, None, 0.5, 30.0)])
    bare = unknown[0].replace(gender=None, age=None), unknown[1]
    for pairs in ([], [unknown], [bare], [picture([])]):
        scores = score_regions(pairs)
        assert (scores.genders, scores.gender_right, scores.within_ten, scores.interval_right) == (
            0,
            None,
            None,
            None,
        )


def test_rows_that_are_not_the_same_people_are_refused():
    truth, found = picture([(1.0, None, 0.5, 30.0), (1.0, None, 0.5, 30.0)])
    with pytest.raises(ValueError, match="1 people read for 2 true boxes, gender given"):
        score_regions([(truth, found[:1])])
    with pytest.raises(ValueError, match="age missing"):
        score_regions([(truth, found.replace(age=None))])


def test_a_report_is_a_table_flat_numbers_and_a_file(tmp_path):
    report = RegionReport(
        {
            "people": score_regions([picture([(1.0, (30.0, 30.0), 0.9, 35.0)])]),
            "peta": score_regions([]),
        }
    )
    assert (
        report.numbers()["people/gender_right"] == 1.0
        and report.numbers()["peta/age_error"] is None
    )
    lines = report.table().splitlines()
    assert lines[1].split() == ["people", "100.0%", "of", "1", "100.0%", "of", "1", "5.00", "-"]
    assert lines[2].split() == ["peta", "-", "-", "-", "-"]
    report.save(tmp_path / "new" / "report.json")
    assert json.loads((tmp_path / "new" / "report.json").read_text())["people"]["genders"] == 1
