"""Joints are compared by name: what a file names, what is asked for, what truth and findings
have."""

import json

import pytest
import torch

from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.data.readers.coco import CocoSource, CocoSourceConfig
from humanquery.evaluation.coco_ap import CocoEvaluator
from humanquery.evaluation.result_files import evaluate_files
from tests.data.coco_files import person, write_file

FIVE = ["nose", "left_hand", "right_hand", "left_foot", "right_foot"]
BACKWARDS = list(reversed(COCO17.joints))


def file_of(folder, names, joints, **more):
    category = {"id": 1, "name": "person", "keypoints": names, **more}
    people = [person(keypoints=joints, num_keypoints=len(joints) // 3)]
    return write_file(folder, people, categories=[category])


def found_as_persons(target):
    return Persons(
        image_size=target.image_size,
        boxes=target.boxes,
        scores=torch.ones(len(target)),
        keypoints=target.keypoints.value,
        skeleton=target.skeleton,
    )


def counted(k):
    return [value for i in range(k) for value in (12 + i % 9, 8 + i, 2)]


def test_a_file_brings_its_own_joints(tmp_path):
    path = file_of(tmp_path, FIVE, counted(5), skeleton=[[1, 2], [1, 3]])
    source = CocoSource(CocoSourceConfig(path))
    target = source[0].target
    assert target.skeleton.joints == tuple(FIVE) and target.keypoints.value.shape == (1, 5, 2)
    assert source.skeleton.limbs == ((0, 1), (0, 2)) and source.skeleton.pairs == ((1, 2), (3, 4))
    assert target.source == "truth"
    assert CocoSource(CocoSourceConfig(path, name="own"))[0].target.source == "own"


def test_a_small_file_names_the_joints_of_an_annotation_file_that_does_not(tmp_path):
    path = write_file(tmp_path, [person(keypoints=counted(5))])
    (tmp_path / "five.json").write_text(json.dumps({"names": FIVE}))
    source = CocoSource(CocoSourceConfig(path, skeleton=str(tmp_path / "five.json")))
    assert source[0].target.skeleton.joints == tuple(FIVE)
    with pytest.raises(AnnotationError, match="'keypoints' has 15 numbers, expected 51"):
        CocoSource(CocoSourceConfig(path))


def test_boxes_alone_are_enough(tmp_path):
    bare = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 20, 30]}
    target = CocoSource(CocoSourceConfig(write_file(tmp_path, [bare])))[0].target
    assert target.boxes.tolist() == [[10, 5, 30, 35]]
    for name in ("keypoints", "masks", "gender", "age", "skeleton"):
        assert getattr(target, name) is None


def test_joints_in_another_order_are_put_right_by_name_and_said(tmp_path, caplog):
    path = file_of(tmp_path, BACKWARDS, counted(17))
    own = CocoSource(CocoSourceConfig(path))[0].target
    turned = CocoSource(CocoSourceConfig(path, skeleton="coco17"))[0].target
    assert turned.skeleton is COCO17 and own.skeleton is not COCO17
    nose = own.skeleton.index("nose")
    assert turned.keypoints.value[0, 0].equal(own.keypoints.value[0, nose])
    assert "put into the order of coco17 by name" in caplog.text


def test_joints_that_the_file_lacks_are_refused(tmp_path):
    path = file_of(tmp_path, FIVE, counted(5))
    with pytest.raises(
        ConfigError, match="expected those of coco17; it has no left_eye, right_eye"
    ):
        CocoSource(CocoSourceConfig(path, skeleton="coco17"))


def test_truth_and_findings_in_another_order_are_refused_not_scored(tmp_path):
    target = CocoSource(CocoSourceConfig(file_of(tmp_path, BACKWARDS, counted(17))))[0].target
    other = Skeleton("backwards", tuple(BACKWARDS), (), (), COCO17.sigmas)
    found = found_as_persons(target)
    assert found.skeleton.joints == tuple(BACKWARDS)
    with pytest.raises(AnnotationError, match="true people have the joints of .*joint 0 is"):
        CocoEvaluator(COCO17).add(target, found)
    right = target.with_skeleton(COCO17)
    with pytest.raises(AnnotationError, match="found people have the joints of .* coco17 in its"):
        CocoEvaluator(COCO17).add(right, found)
    assert CocoEvaluator(other).add(target, found) is None


def test_a_results_file_of_another_order_is_refused(tmp_path):
    path = file_of(tmp_path, list(COCO17.joints), counted(17))
    target = CocoSource(CocoSourceConfig(path))[0].target
    rows = found_as_persons(target).to_coco(1)
    assert rows[0]["skeleton"] == "coco17"
    (tmp_path / "found.json").write_text(json.dumps(rows))
    assert evaluate_files(path, tmp_path / "found.json").families["keypoints"].ap > 0.99
    rows[0]["skeleton"] = "posetrack18_17"
    (tmp_path / "found.json").write_text(json.dumps(rows))
    with pytest.raises(AnnotationError, match="joints of posetrack18_17, expected those of coco17"):
        evaluate_files(path, tmp_path / "found.json")
    backwards = file_of(tmp_path, BACKWARDS, counted(17))
    with pytest.raises(AnnotationError, match="true people have the joints of person_17"):
        evaluate_files(backwards, tmp_path / "found.json", skeleton=COCO17)
