import json

import pytest

from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.core.skeleton import Skeleton
from humanquery.data.readers.whole_body import flat_joints, whole_body_target
from humanquery.evaluation.whole_body_ap import WHOLE, whole_body_scores
from tests.paths import ORACLE, needs_oracle

WHOLEBODY, HALPE = Skeleton.named("coco_wholebody133"), Skeleton.named("halpe136")
FOLDER = ORACLE / "evaluators/pose"
IMAGE = {"id": 7, "height": 200, "width": 300}


def person(**fields):
    return {
        "id": 3,
        "image_id": 7,
        "bbox": [10, 20, 100, 150],
        "area": 8000.0,
        "iscrowd": 0,
        "keypoints": [30, 40, 2] * 17,
        "foot_kpts": [1, 2, 1] * 6,
        "face_kpts": [50.5, 60.25, 0.4] * 34 + [5, 6, 0.3] * 34,
        "lefthand_kpts": [7, 8, 1] * 21,
        "righthand_kpts": [9, 9, 1] * 21,
        "righthand_valid": False,
    } | fields


@needs_oracle
def test_every_part_equals_the_reference_evaluator():
    truth = json.loads((FOLDER / "example_wholebody_val.json").read_text())
    found = json.loads((FOLDER / "example_wholebody_preds.json").read_text())
    expected = json.loads((FOLDER / "reference_stats_xtcocotools_1.14.3.json").read_text())
    people = [a | {"keypoints": flat_joints(a)} for a in truth["annotations"]]
    results = [r | {"keypoints": flat_joints(r)} for r in found]
    scores = whole_body_scores(truth["images"], people, results, WHOLEBODY)
    assert set(scores) == {"body", "foot", "face", "lefthand", "righthand", WHOLE}
    for part, family in scores.items():
        ap, ap50, ap75, ap_m, ap_l, ar, _, _, ar_m, ar_l = expected[
            f"wholebody_example/{'wholebody' if part == WHOLE else part}"
        ]
        every, medium, large = (family[size] for size in ("all", "medium", "large"))
        got = (every.ap, every.ap50, every.ap75, every.ar, medium.ar, large.ar, medium.ap, large.ap)
        assert got == pytest.approx((ap, ap50, ap75, ar, ar_m, ar_l, ap_m, ap_l), abs=1e-6), part


def test_truth_as_found_people_scores_one_on_halpe():
    joints = [v for i in range(136) for v in (20.0 + i, 30.0 + 2 * (i % 40), 1)]
    truth = [person(keypoints=joints)]
    scores = whole_body_scores(
        [IMAGE], truth, [{"image_id": 7, "keypoints": joints, "score": 0.5}], HALPE, area_part=WHOLE
    )
    assert {
        part: scores[part].ap for part in ("body", "foot", "face", "hand", WHOLE)
    } == dict.fromkeys(("body", "foot", "face", "hand", WHOLE), pytest.approx(1.0))


def test_a_part_that_nobody_labelled_has_no_score_and_nobody_found_scores_zero():
    flat = flat_joints(person(lefthand_valid=False))
    scores = whole_body_scores(
        [IMAGE], [person(keypoints=flat)], [], WHOLEBODY, ["lefthand", "body"]
    )
    assert scores["lefthand"].ap is None and scores["body"].ap == 0


def test_wrong_joints_and_unknown_parts_are_named():
    flat = flat_joints(person())
    with pytest.raises(
        AnnotationError, match="found people: row 0 .picture 7. has 399 .* expected 408 of halpe136"
    ):
        whole_body_scores([], [], [{"image_id": 7, "keypoints": flat, "score": 1.0}], HALPE)
    with pytest.raises(ConfigError, match="no part 'hand', expected body, foot"):
        whole_body_scores([], [], [], WHOLEBODY, ["hand"])


def test_five_fields_become_one_skeleton_and_scores_become_labels():
    target = whole_body_target(IMAGE, [person()])
    assert target.skeleton == WHOLEBODY and target.counted_joints[0].sum() == 17 + 6 + 34 + 21
    assert target.keypoints.value[0, 0].tolist() == [30.5, 40.5]
    assert target.keypoints.value[0, 23].tolist() == [51.0, 60.75]
    assert target.visibility[0, [0, 17, 23, 57, 91, 112]].tolist() == [2, 1, 1, 0, 1, 0]


def test_halpe_annotations_hold_all_joints_in_one_field():
    halpe = {k: v for k, v in person().items() if "_kpts" not in k} | {"keypoints": [4, 5, 1] * 136}
    target = whole_body_target(IMAGE, [halpe], halpe=True)
    assert target.skeleton == HALPE and target.counted_joints.all()
    assert len(whole_body_target(IMAGE, [], halpe=True)) == 0


def test_annotations_of_another_data_set_are_named():
    with pytest.raises(
        AnnotationError, match="annotation 3: 'face_kpts' has 3 numbers, expected 204"
    ):
        whole_body_target(IMAGE, [person(face_kpts=[1, 2, 3])], where="val.json")
    with pytest.raises(
        AnnotationError, match="val.json: annotation 3: 133 joints, expected 136 of halpe136"
    ):
        whole_body_target(IMAGE, [person()], halpe=True, where="val.json")
