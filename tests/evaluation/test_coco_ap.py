import json

import hotcoco
import numpy as np
import pytest
import torch

from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.core.persons import Persons
from humanquery.core.rows import Labelled
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.core.target import empty_target
from humanquery.evaluation.coco_ap import CocoEvaluator, coco_scores, evaluate_predictions
from tests.evaluation.scenes import (
    SIZE,
    coco_dicts,
    complete,
    found_as_persons,
    our_numbers,
    pycoco_eval,
    pycoco_numbers,
    random_pairs,
    random_persons,
    random_target,
)
from tests.paths import ORACLE, needs_oracle

FOLDER = ORACLE / "evaluators/coco"


def _official(family: str) -> tuple[dict, list]:
    if family == "keypoints":
        names = "keypoints_gt.json", "keypoints_dt.json"
    else:
        kind = {"box": "bbox", "mask": "segm"}[family]
        names = "instances_val2014_100.json", f"instances_val2014_fake{kind}100_results.json"
    return tuple(json.loads((FOLDER / name).read_text()) for name in names)


@needs_oracle
@pytest.mark.parametrize("family", ["box", "mask", "keypoints"])
def test_official_results_score_as_in_pycocotools_to_the_last_digit(family):
    truth, results = _official(family)
    ours = hotcoco.COCO(truth)
    scores = coco_scores(ours, ours.load_res(results), family, sigmas=COCO17.sigmas)
    truth, results = _official(family)  # pycocotools writes into what it is given
    assert our_numbers(scores) == pycoco_numbers(pycoco_eval(truth, results, family))


@needs_oracle
def test_official_results_score_as_printed_by_the_coco_team():
    printed = {
        "box": [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564],
        "mask": [
            0.320,
            0.562,
            0.299,
            0.387,
            0.310,
            0.327,
            0.268,
            0.415,
            0.417,
            0.469,
            0.377,
            0.381,
        ],
    }
    for family, expected in printed.items():
        truth, results = _official(family)
        ours = hotcoco.COCO(truth)
        s = coco_scores(ours, ours.load_res(results), family)
        sizes = ("small", "medium", "large")
        whole = s["all"]
        numbers = [
            whole.ap,
            whole.ap50,
            whole.ap75,
            *(s[n].ap for n in sizes),
            *s.ar_at.values(),
            *(s[n].ar for n in sizes),
        ]
        assert [round(n, 3) for n in numbers] == expected
    truth, results = _official("keypoints")
    ours = hotcoco.COCO(truth)
    s = coco_scores(ours, ours.load_res(results), "keypoints", sigmas=COCO17.sigmas)["all"]
    assert (round(s.ap, 5), round(s.ap50, 5)) == (0.50488, 0.72277)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("family", ["box", "mask", "keypoints"])
def test_random_pictures_score_as_in_pycocotools_to_the_last_digit(family, seed):
    pairs = random_pairs(seed)
    report = evaluate_predictions(pairs, COCO17)
    assert our_numbers(report.families[family]) == pycoco_numbers(
        pycoco_eval(*coco_dicts(pairs, family), family)
    )


def test_more_findings_than_coco_reads_score_as_in_pycocotools():
    rng = np.random.default_rng(3)
    target = random_target(rng, 4)
    pairs = [(target, random_persons(rng, target, false=60, repeats=20))]
    report = evaluate_predictions(pairs, COCO17)
    for family in ("box", "mask", "keypoints"):
        assert our_numbers(report.families[family]) == pycoco_numbers(
            pycoco_eval(*coco_dicts(pairs, family), family)
        )


def test_the_truth_given_back_scores_one_in_every_family():
    rng = np.random.default_rng(0)
    targets = [
        complete(random_target(rng, people, crowds))
        for people, crowds in ((3, 1), (1, 0), (4, 2), (0, 0))
    ]
    report = evaluate_predictions([(t, found_as_persons(t)) for t in targets], COCO17)
    assert set(report.families) == {"box", "mask", "keypoints", "gender", "age"}
    for family, scores in report.families.items():
        assert (scores["all"].ap, scores["all"].ap50, scores["all"].ar) == (1.0, 1.0, 1.0), family
        assert scores["without_small"].ap == 1.0, family
    assert report.gender.accuracy == report.gender.coverage == report.age.within_ten == 1.0
    assert report.age.mean_error == 0.0
    assert (report.box_threshold.f1, report.box_threshold.threshold) == (1.0, pytest.approx(0.9))


def test_pictures_are_scored_alike_in_any_order_and_under_any_ids():
    pairs = random_pairs(5)
    forwards, backwards = CocoEvaluator(COCO17), CocoEvaluator(COCO17)
    for i, (target, persons) in enumerate(pairs):
        forwards.add(target, persons)
        backwards.add(*pairs[-1 - i], image_id=1000 - 7 * i)
    assert forwards.scores().numbers() == backwards.scores().numbers()


def test_without_small_ignores_small_people_and_small_findings():
    boxes = torch.tensor([[0.0, 0, 40, 40], [50, 50, 60, 60]])  # 1600 and 100 px²
    target = empty_target(SIZE).replace(
        boxes=boxes,
        ignore=torch.zeros(2, dtype=torch.bool),
        areas=torch.tensor([1600.0, 100.0]),
        masks=None,
        gender=None,
        age=None,
    )
    persons = Persons(
        image_size=SIZE,
        boxes=torch.tensor([[100.0, 0, 110, 10], [0, 0, 40, 40]]),  # a small false one ranks first
        scores=torch.tensor([0.9, 0.8]),
    )
    box = evaluate_predictions([(target, persons)]).families["box"]
    assert box["without_small"].ap == pytest.approx(1.0)
    assert box["all"].ap == pytest.approx(0.5 * 51 / 101)  # half the people, behind a false one
    assert (box["all"].people, box["small"].people, box["without_small"].people) == (2, 1, 1)
    assert box["small"].ap == 0.0 and box["large"].ap is None


def test_a_person_whose_mask_nobody_drew_neither_helps_nor_harms_mask_ap():
    rng = np.random.default_rng(1)
    target = complete(random_target(rng, 3))
    valid = torch.tensor([True, True, False])
    persons = found_as_persons(target)
    partly = target.replace(masks=Labelled(target.masks.value, valid))
    found_too = evaluate_predictions([(partly, persons)], COCO17).families["mask"]["all"]
    not_found = evaluate_predictions([(partly, persons[:2])], COCO17).families["mask"]["all"]
    assert found_too.ap == not_found.ap == 1.0
    assert found_too.people == 2


def test_a_person_without_counted_joints_is_ignored_by_keypoints():
    target = complete(random_target(np.random.default_rng(2), 3))
    visibility = target.visibility.clone()
    visibility[1] = 0
    report = evaluate_predictions(
        [(target.replace(visibility=visibility), found_as_persons(target))], COCO17
    )
    assert report.families["keypoints"]["all"].ap == 1.0
    assert report.families["keypoints"]["all"].people == 2
    assert "1 people without labelled joints are ignored by keypoint AP" in report.notes


def test_a_picture_on_which_nothing_was_found_counts_its_people_as_missed():
    target = complete(random_target(np.random.default_rng(4), 2))
    pairs = [(target, found_as_persons(target)), (target, Persons.empty(SIZE, COCO17))]
    report = evaluate_predictions(pairs, COCO17)
    for family in ("box", "mask", "keypoints", "gender", "age"):
        assert report.families[family]["all"].ar == pytest.approx(0.5), family


def test_nothing_found_anywhere_scores_zero():
    target = complete(random_target(np.random.default_rng(4), 2))
    report = evaluate_predictions([(target, Persons.empty(SIZE, COCO17))], COCO17)
    assert (
        all(scores["all"].ap == 0.0 for scores in report.families.values())
        and len(report.families) == 5
    )
    assert (
        report.gender.coverage == 0.0
        and report.gender.accuracy is None
        and report.box_threshold is None
    )


def test_families_that_the_truth_or_the_system_lacks_are_left_out():
    target = complete(random_target(np.random.default_rng(4), 2))
    persons = found_as_persons(target)
    no_masks = evaluate_predictions([(target.replace(masks=None), persons)], COCO17)
    assert set(no_masks.families) == {"box", "keypoints", "gender", "age"}
    boxes_only = Persons(image_size=SIZE, boxes=persons.boxes, scores=persons.scores)
    assert set(evaluate_predictions([(target, boxes_only)], COCO17).families) == {"box"}
    assert "keypoints" not in evaluate_predictions([(target, persons)]).families


def test_masks_rank_by_mask_score():
    target = complete(random_target(np.random.default_rng(6), 1))
    one = found_as_persons(target)
    stray = one.replace(
        masks=~one.masks, scores=torch.tensor([0.99]), mask_scores=torch.tensor([0.1])
    )
    pairs = [(target, Persons.cat([stray, one]))]
    assert evaluate_predictions(pairs, COCO17).families["mask"]["all"].ap == pytest.approx(1.0)
    by_score = [(t, p.replace(mask_scores=None)) for t, p in pairs]
    assert evaluate_predictions(by_score, COCO17).families["mask"]["all"].ap == pytest.approx(0.5)


def test_an_empty_truth_says_so():
    with pytest.raises(AnnotationError, match="no picture was added; is the data set empty"):
        CocoEvaluator(COCO17).scores()
    with pytest.raises(
        AnnotationError,
        match="the truth of 1 pictures holds no person .* Is this the right annotation",
    ):
        evaluate_predictions([(empty_target(SIZE, COCO17), Persons.empty(SIZE, COCO17))], COCO17)


def test_another_picture_size_says_both():
    with pytest.raises(
        AnnotationError,
        match="picture 1: the truth is on 160 x 120 px, the found people on 20 x 10 px",
    ):
        CocoEvaluator(COCO17).add(empty_target(SIZE, COCO17), Persons.empty((10, 20), COCO17))


def test_another_skeleton_says_both_counts():
    target = complete(random_target(np.random.default_rng(6), 1))
    persons = found_as_persons(target)
    few = persons.replace(
        keypoints=persons.keypoints[:, :14], skeleton=Skeleton.named("crowdpose14")
    )
    with pytest.raises(
        AnnotationError, match="picture 1: found people have 14 joints, expected 17 of coco17"
    ):
        CocoEvaluator(COCO17).add(target, few)
    with pytest.raises(
        AnnotationError,
        match="picture 1: true people have 17 joints, expected 14 of crowdpose14",
    ):
        CocoEvaluator(Skeleton.named("crowdpose14")).add(target, few)


def test_a_skeleton_without_sigmas_is_refused():
    plain = Skeleton(name="two", joints=("a", "b"), pairs=(), limbs=())
    with pytest.raises(ConfigError, match="'two' has no OKS sigmas"):
        CocoEvaluator(plain)


@pytest.mark.parametrize("field", ["scores", "boxes", "keypoints", "gender", "age", "mask_scores"])
def test_nan_in_findings_names_the_field(field):
    target = complete(random_target(np.random.default_rng(6), 2))
    persons = found_as_persons(target)
    spoilt = getattr(persons, field).clone()
    spoilt[1] = float("nan")
    name = {"keypoints": "joints", "mask_scores": "segment_scores"}.get(field, field)
    with pytest.raises(
        AnnotationError, match=f"picture 1: found people: '{name}' of row 1 holds NaN or infinity"
    ):
        CocoEvaluator(COCO17).add(target, persons.replace(**{field: spoilt}))


def test_fields_that_come_and_go_are_refused():
    target = complete(random_target(np.random.default_rng(6), 1))
    persons = found_as_persons(target)
    evaluator = CocoEvaluator(COCO17)
    evaluator.add(target, persons)
    with pytest.raises(
        AnnotationError,
        match="picture 2: found people have age, boxes, gender, joints, those of picture 1",
    ):
        evaluator.add(target, persons.replace(masks=None))


def test_the_same_picture_twice_is_refused():
    evaluator = CocoEvaluator()
    evaluator.add(empty_target(SIZE), Persons.empty(SIZE), image_id=7)
    with pytest.raises(AnnotationError, match="picture 7 was added before"):
        evaluator.add(empty_target(SIZE), Persons.empty(SIZE), image_id=7)
