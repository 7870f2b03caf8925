import json

import numpy as np
import pytest
import torch

from humanquery.core.persons import Persons
from humanquery.core.rows import Labelled
from humanquery.core.target import Target
from humanquery.evaluation.attribute_ap import (
    age_ap,
    age_numbers,
    best_threshold,
    gender_ap,
    gender_numbers,
    match_pairs,
)
from humanquery.evaluation.coco_ap import evaluate_predictions
from humanquery.evaluation.coco_rows import UNKNOWN, PictureFound, PictureTruth, found_of, truth_of
from humanquery.evaluation.matching import IOU_THRESHOLDS, curve, match
from tests.paths import ORACLE, needs_oracle

SCORERS = {"gender": gender_ap, "age": age_ap}


def _official_pairs(people: list[dict], found: list[dict], image_ids: list[int]):
    """The official flag says 1.0 for label 0 (male); ours is P(female)."""
    pairs = []
    for image_id in sorted(image_ids):
        true = [p for p in people if p["image_id"] == image_id]
        rows = [r for r in found if r["image_id"] == image_id]
        truth = PictureTruth(
            size=(480, 640),
            boxes=np.array([p["bbox"] for p in true], float).reshape(-1, 4),
            ignore=np.array([p["iscrowd"] for p in true], bool),
            areas=np.array([p["area"] for p in true], float),
            gender=np.array([p.get("gender", UNKNOWN) for p in true], float),
            age=np.array([[p.get("age", UNKNOWN)] * 2 for p in true], float).reshape(-1, 2),
        )
        rows = PictureFound(
            scores=np.array([r["score"] for r in rows], float),
            boxes=np.array([r["bbox"] for r in rows], float).reshape(-1, 4),
            gender=np.array([1 - r["gender"] for r in rows], float),
            age=np.array([r["age"] for r in rows], float),
        )
        pairs.append((truth, rows))
    return pairs


@needs_oracle
@pytest.mark.parametrize("attribute", ["gender", "age"])
def test_attribute_ap_equals_every_official_number_exactly(attribute):
    data = json.loads((ORACLE / "attr_eval.json").read_text())
    pairs = _official_pairs(
        data["gt"]["annotations"], data["dets"], [image["id"] for image in data["gt"]["images"]]
    )
    scores = SCORERS[attribute](pairs)
    whole, letters = scores["all"], {"s": "small", "m": "medium", "l": "large"}
    ours = {"AP": whole.ap, "AP50": whole.ap50, "AP75": whole.ap75}
    ours |= {f"AP{letter}": scores[size].ap for letter, size in letters.items()}
    ours |= {f"AR{letter}": scores[size].ar for letter, size in letters.items()}
    ours |= {f"AR@{most}": value for most, value in scores.ar_at.items()}
    assert {name: -1.0 if value is None else value for name, value in ours.items()} == data[
        "official"
    ][attribute]


@needs_oracle
def test_every_official_unit_case_comes_out_exactly():
    cases = json.loads((ORACLE / "attr_eval.json").read_text())["unit_cases"]
    ours = {
        case["name"]: SCORERS[case["attr"]](_official_pairs(case["gts"], case["dets"], [1])).ap
        for case in cases
    }
    assert ours == {case["name"]: case["AP"] for case in cases}


def _one_row(n: int, *, gender=None, age=None, crowd=()) -> Target:
    """n people of 100 x 100 px side by side; None or NaN: not labelled."""
    x = torch.arange(n) * 100.0
    labels = torch.tensor(gender if gender is not None else [float("nan")] * n)
    years = torch.tensor(age if age is not None else [[float("nan")] * 2] * n)
    return Target(
        image_size=(100, 100 * n),
        boxes=torch.stack([x, torch.zeros(n), x + 100, torch.full((n,), 100.0)], 1),
        ignore=torch.tensor([i in crowd for i in range(n)]),
        areas=torch.full((n,), 1e4),
        gender=Labelled(labels.nan_to_num(), ~labels.isnan()),
        age=Labelled(years.nan_to_num(), ~years[:, 0].isnan()),
    )


def _seen(target: Target, scores, gender=None, age=None) -> Persons:
    n = len(target)
    return Persons(
        image_size=target.image_size,
        boxes=target.boxes,
        scores=torch.tensor(scores),
        gender=torch.tensor(gender if gender is not None else [0.5] * n),
        age=torch.tensor(age if age is not None else [30.0] * n),
    )


def _numbers(target, persons):
    pairs = [(truth_of(target), found_of(persons))]
    return pairs, match_pairs(pairs)


NAN = float("nan")


def test_gender_numbers_count_matched_labelled_people_only():
    target = _one_row(4, gender=[0.0, 1.0, 1.0, NAN])
    persons = _seen(target, [0.9, 0.8, 0.7, 0.6], gender=[0.04, 0.96, 0.26, 0.99])[[0, 1, 2, 3]]
    numbers = gender_numbers(*_numbers(target, persons))
    assert (numbers.labelled, numbers.matched, numbers.coverage) == (3, 3, 1.0)
    assert numbers.accuracy == pytest.approx(2 / 3)
    assert [(b.low, b.people, b.share_female) for b in numbers.reliability if b.people] == [
        (0.0, 1, 0.0),
        (0.2, 1, 1.0),
        (0.9, 1, 1.0),
    ]
    assert len(numbers.reliability) == 10
    assert numbers.calibration_error == pytest.approx((0.04 + 0.74 + 0.04) / 3, abs=1e-6)


def test_coverage_is_the_share_of_labelled_people_that_were_found():
    target = _one_row(4, gender=[0.0, 1.0, 1.0, 0.0], age=[[20.0, 20.0]] * 4)
    pairs, known = _numbers(target, _seen(target, [0.9] * 4, gender=[0.0, 1.0, 1.0, 0.0])[:1])
    assert gender_numbers(pairs, known).coverage == age_numbers(pairs, known).coverage == 0.25


def test_age_errors_are_distances_to_the_label_or_its_interval():
    target = _one_row(4, age=[[30.0, 30.0], [30.0, 30.0], [20.0, 29.0], [20.0, 29.0]])
    numbers = age_numbers(*_numbers(target, _seen(target, [0.9] * 4, age=[39.9, 40.0, 25.0, 31.0])))
    assert numbers.within_ten == 0.5  # 9.9 below ten, 10 is not; inside the interval, 31 is outside
    assert numbers.mean_error == pytest.approx((9.9 + 10 + 0 + 2) / 4, abs=1e-5)


def test_intervals_are_left_out_of_age_ap():
    target = _one_row(2, age=[[30.0, 30.0], [20.0, 29.0]])
    report = evaluate_predictions([(target, _seen(target, [0.9, 0.95], age=[30.0, 25.0]))])
    assert report.families["age"]["all"].people == 1
    assert report.families["age"].ap == pytest.approx(
        0.5
    )  # what stands on the interval person ranks first and is wrong
    assert any("1 people whose age is an interval" in note for note in report.notes)


def test_one_person_is_matched_once_and_the_best_score_goes_first():
    target = _one_row(1, gender=[1.0])
    twice = _seen(target, [0.6], gender=[0.9])
    first = _seen(target, [0.8], gender=[0.1])
    numbers = gender_numbers(*_numbers(target, Persons.cat([twice, first])))
    assert (numbers.matched, numbers.accuracy) == (1, 0.0)


def test_the_best_threshold_is_the_score_with_the_highest_f1():
    target = _one_row(3)
    right = _seen(target, [0.9, 0.7, 0.5])
    stray = right[[0, 0, 0]].replace(boxes=right.boxes / 10, scores=torch.tensor([0.6, 0.4, 0.3]))
    best = best_threshold(*_numbers(target, Persons.cat([right, stray])))
    assert best.threshold == pytest.approx(0.5)
    assert (best.precision, best.recall) == (0.75, 1.0)
    assert best.f1 == pytest.approx(6 / 7)


def test_what_is_found_in_a_crowd_does_not_count_for_the_threshold():
    target = _one_row(2, crowd=(1,))
    best = best_threshold(*_numbers(target, _seen(target, [0.5, 0.9])))
    assert (best.f1, best.threshold) == (1.0, 0.5)


def test_equal_overlap_goes_to_the_later_person_as_in_coco():
    overlap = np.array([[0.8, 0.8]])
    free = np.zeros((1, 2), bool)
    assert match(
        overlap, np.ones((1, 2), bool), free, free[0], IOU_THRESHOLDS[:1]
    ).owner.ravel().tolist() == [1]


def test_without_people_there_is_no_curve_and_without_findings_it_is_zero():
    nothing = np.zeros((10, 0), bool)
    assert curve(np.zeros(0), nothing, nothing, 0) is None
    assert curve(np.zeros(0), nothing, nothing, 3).mean_precision() == 0.0
    assert gender_ap([]).ap is None and age_ap([])["large"].ar is None
