"""Files of poses as other tools read them."""

import json

import pytest
import torch

from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.interop.alphapose import body_18, cmu, coco_whole_body, open_pose, results
from humanquery.predict.track_files import FILES

WHOLE, HALPE = Skeleton.named("coco_wholebody133"), Skeleton.named("halpe136")


def people(skeleton: Skeleton, count: int = 1) -> Persons:
    """Joint j at (10 j + 0.5, j + 0.5), score 0.5."""
    k = len(skeleton)
    joints = torch.stack([10.0 * torch.arange(k), 1.0 * torch.arange(k)], -1) + 0.5
    return Persons(
        image_size=(100, 200),
        boxes=torch.tensor([[10.0, 20, 60, 90]]).repeat(count, 1),
        scores=torch.full((count,), 0.75),
        keypoints=joints.repeat(count, 1, 1),
        keypoint_scores=torch.full((count, k), 0.5),
        pose_scores=torch.full((count,), 0.375),
        skeleton=skeleton,
    )


def test_the_default_list_has_pixel_indices_and_the_rank_of_the_release():
    (row,) = results(people(COCO17).replace(track_ids=torch.tensor([4])), "a.jpg")
    assert row["image_id"] == "a.jpg" and row["category_id"] == 1 and row["idx"] == 4
    assert row["keypoints"][:6] == [0, 0, 0.5, 10, 1, 0.5]
    assert row["box"] == [10, 20, 50, 70]
    assert row["score"] == 0.5 + 0.75 + 1.25 * 0.5


def test_nobody_gives_empty_lists_and_people_without_joints_are_refused():
    nobody = Persons.empty((10, 10))
    assert results(nobody, 1) == coco_whole_body(nobody, 1) == body_18(nobody) == []
    boxed = Persons(image_size=(10, 10), boxes=torch.ones(1, 4), scores=torch.ones(1))
    with pytest.raises(ConfigError, match="no keypoints; AlphaPose's files hold poses"):
        results(boxed, 1)


@pytest.mark.parametrize("skeleton", [COCO17, WHOLE, HALPE])
def test_the_eighteen_joints_go_by_name_and_the_neck_is_between_the_shoulders(skeleton):
    (row,) = body_18(people(skeleton))
    assert len(row) == 54
    assert row[:3] == [0, 0, 0.5]  # nose
    assert row[3:6] == [55, 5.5, 0.5]  # joints 5 and 6
    assert row[6:9] == [60, 6, 0.5]  # right shoulder
    assert row[-3:] == [30, 3, 0.5]  # left ear
    assert cmu(people(skeleton))["bodies"][0]["joints"] == row
    assert open_pose(people(skeleton))["people"][0]["pose_keypoints_2d"] == row


def test_whole_body_results_convert_feet_by_name():
    (row,) = coco_whole_body(people(HALPE), 7)
    assert [len(row[f]) // 3 for f in ("keypoints", "foot_kpts", "face_kpts")] == [17, 6, 68]
    assert len(row["lefthand_kpts"]) == len(row["righthand_kpts"]) == 63
    order = ["left_big_toe", "left_small_toe", "left_heel", "right_big_toe"]
    assert row["foot_kpts"][: 3 * 4 : 3] == [10 * HALPE.index(name) for name in order]
    assert row["score"] == 0.375 and row["image_id"] == 7


def test_joints_that_a_body_lacks_are_zeros_without_a_place():
    (row,) = coco_whole_body(people(COCO17), 1)
    assert row["face_kpts"] == [0.0] * 204


@pytest.mark.parametrize("name", ["alphapose", "cmu", "open", "coco-wholebody"])
def test_files_are_whole_after_every_picture_and_go_on_from_a_mark(tmp_path, name):
    file, kind = FILES[name]
    opened = kind(tmp_path / file)
    assert not json.loads(opened.path.read_text())
    opened.write(0, 0.0, people(WHOLE))
    mark = opened.mark()
    opened.write(1, 0.1, people(WHOLE))
    whole = json.loads(opened.path.read_text())
    assert len(whole) == 2
    opened.close()
    again = kind(tmp_path / file, mark)
    again.write(1, 0.1, people(WHOLE))
    again.close()
    assert json.loads(opened.path.read_text()) == whole
