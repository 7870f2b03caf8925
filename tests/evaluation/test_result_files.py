import json

import numpy as np
import pytest

from humanquery.core.errors import AnnotationError
from humanquery.core.skeleton import COCO17
from humanquery.evaluation.result_files import evaluate_files
from tests.evaluation.scenes import (
    coco_dicts,
    complete,
    found_as_persons,
    our_numbers,
    pycoco_eval,
    pycoco_numbers,
    random_target,
)
from tests.paths import ORACLE, needs_oracle

FOLDER = ORACLE / "evaluators/coco"


@needs_oracle
@pytest.mark.parametrize(
    ("family", "truth", "results"),
    [
        ("box", "instances_val2014_100.json", "instances_val2014_fakebbox100_results.json"),
        ("mask", "instances_val2014_100.json", "instances_val2014_fakesegm100_results.json"),
        ("keypoints", "keypoints_gt.json", "keypoints_dt.json"),
    ],
)
def test_people_of_official_files_score_as_in_pycocotools(family, truth, results):
    report = evaluate_files(FOLDER / truth, FOLDER / results)
    data, rows = (json.loads((FOLDER / name).read_text()) for name in (truth, results))
    reference = pycoco_numbers(pycoco_eval(data, rows, family, category_ids=[1]))
    assert our_numbers(report.families[family]) == reference


@pytest.fixture
def files(tmp_path):
    """Truth and results of two pictures; the results are the truth itself, through
    `Persons.to_coco`."""
    rng = np.random.default_rng(0)
    targets = [complete(random_target(rng, 3, 1)), complete(random_target(rng, 2))]
    truth, _ = coco_dicts([(t, found_as_persons(t)[:0]) for t in targets], "box")
    ids = iter(truth["annotations"])
    for target in targets:
        for j in range(len(target)):
            person = next(ids)
            person["gender"], person["age"] = (
                int(target.gender.value[j]),
                int(target.age.value[j, 0]),
            )
            if person["iscrowd"]:
                person["valid"] = {"gender": 0, "age": 0}
    rows = [
        row for i, target in enumerate(targets) for row in found_as_persons(target).to_coco(i + 1)
    ]

    def write(change_truth=None, change_rows=None):
        for change, data in ((change_truth, truth), (change_rows, rows)):
            if change is not None:
                change(data)
        (tmp_path / "truth.json").write_text(json.dumps(truth))
        (tmp_path / "results.json").write_text(json.dumps(rows))
        return tmp_path / "truth.json", tmp_path / "results.json"

    return write


def test_the_truth_written_as_results_scores_one_in_every_family(files):
    report = evaluate_files(*files())
    assert {family: scores.ap for family, scores in report.families.items()} == dict.fromkeys(
        ("box", "mask", "keypoints", "gender", "age"), 1.0
    )
    assert report.gender.accuracy == report.age.within_ten == 1.0 and report.age.mean_error == 0.0
    assert (report.pictures, report.people, report.ignored, report.found) == (2, 5, 1, 5)


def test_no_results_at_all_score_zero(files):
    report = evaluate_files(*files(None, lambda rows: rows.clear()))
    assert report.families["box"].ap == report.families["keypoints"].ap == 0.0


def test_rows_of_other_categories_are_left_out(files):
    extra = {"image_id": 1, "category_id": 18, "bbox": [0, 0, 5, 5], "score": 1.0}
    assert evaluate_files(*files(None, lambda rows: rows.append(extra))).families["box"].ap == 1.0


def test_valid_zero_and_minus_one_mean_that_nobody_labelled_it(files):
    def unlabel(truth):
        truth["annotations"][0]["valid"] = {"gender": 0, "segmentation": 0, "keypoints_2d": 0}
        truth["annotations"][1]["gender"] = -1

    report = evaluate_files(*files(unlabel))
    counts = {family: scores["all"].people for family, scores in report.families.items()}
    assert counts == {"box": 5, "mask": 4, "keypoints": 4, "gender": 3, "age": 5}


def test_an_age_range_is_read_where_no_age_stands(files):
    def ranges(truth):
        person = truth["annotations"][0]
        age = person.pop("age")
        person["age_range"], person["valid"] = [age - 3, age + 3], {"age": 0}

    report = evaluate_files(*files(ranges))
    assert (report.age.labelled, report.age.within_ten, report.families["age"]["all"].people) == (
        5,
        1.0,
        4,
    )


@pytest.mark.parametrize(
    ("change_truth", "change_rows", "message"),
    [
        (None, lambda r: r[0].update(image_id=77), r"results.json: results on 1 pictures "
                                                   r".*image_id 77\); is"),
        (None, lambda r: r[0].update(score=float("nan")), "picture 1: found people: 'scores' of "
                                                          "row 0 holds NaN"),
        (None, lambda r: r[0].pop("score"), "image 1: result 0 has no 'score'"),
        (None, lambda r: r[1].pop("bbox"), "image 1: result 1 has no 'bbox', but others do"),
        (None, lambda r: r[0].update(bbox=[1, 2]), r"'bbox' is \[1, 2\], expected four numbers"),
        (None, lambda r: [x.update(keypoints=[1, 2, 1] * 14) for x in r], "14 joints, expected 17 "
                                                                          "of coco17"),
        (None, lambda r: r[0].update(keypoints=[1, 2]), "'keypoints' have 2, 51 numbers, expected "
                                                        "3 per joint"),
        (None, lambda r: r.append(3), "results.json: row 5 is not an object with an 'image_id'"),
        (lambda t: t["annotations"].clear(), None, "holds no person"),
        (lambda t: t.pop("images"), None, "truth.json: no list 'images'"),
        (lambda t: t["images"].pop(), None, r"truth.json: annotations on 1 pictures .* \(image_id "
                                            r"2\)"),
        (lambda t: t["images"][0].pop("width"), None, "image 1 has no 'height' and 'width', which "
                                                      "masks need"),
        (lambda t: t["images"][0].update(id="a"), None, "picture 0: 'id' is 'a', expected a whole"),
        (lambda t: t["annotations"][0].update(segmentation=[[1, 2, 3, 4]]), None, "annotation 1: a "
                                                                                  "mask polygon "
                                                                                  "needs"),
        (lambda t: t["annotations"][0].update(bbox=[0, 0, float("nan"), 1]), None,
         "annotation 1: 'bbox' .* holds NaN"),
        (lambda t: t["annotations"][0].update(keypoints=[1, 2, 2]), None, "'keypoints' have 3, 51 "
                                                                          "numbers"),
        (lambda t: t.update(categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]), None,
         "no category is called 'person'; found cat, dog"),
    ],
)  # fmt: skip
def test_wrong_files_say_what_is_wrong(files, change_truth, change_rows, message):
    with pytest.raises(AnnotationError, match=message):
        evaluate_files(*files(change_truth, change_rows))


def test_files_that_are_no_coco_files_say_so(tmp_path, files):
    truth, results = files()
    with pytest.raises(AnnotationError, match="absent.json: cannot be read"):
        evaluate_files(tmp_path / "absent.json", results)
    with pytest.raises(AnnotationError, match="holds a list of JSON, expected an object"):
        evaluate_files(results, results)
    results.write_text("{")
    with pytest.raises(AnnotationError, match="results.json: not JSON"):
        evaluate_files(truth, results)


def test_fourteen_joints_need_a_skeleton(files):
    def cut(truth):
        for person in truth["annotations"]:
            person["keypoints"] = person["keypoints"][:42]

    with pytest.raises(AnnotationError, match="14 joints; only 17"):
        evaluate_files(*files(cut))
    with pytest.raises(AnnotationError, match="17 of coco17"):
        evaluate_files(*files(cut), skeleton=COCO17)
