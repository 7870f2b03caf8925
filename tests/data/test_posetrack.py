import json
import math

import pytest
import torch

from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.data.readers.posetrack import (
    POSETRACK,
    read_pose_clip,
    read_posetrack,
    write_posetrack,
)
from tests.paths import DATA, needs_data

NAMES = list(POSETRACK.joints)


def _keypoints(**joints) -> list:
    flat = [0] * 51
    for name, triple in joints.items():
        flat[3 * NAMES.index(name) : 3 * NAMES.index(name) + 3] = triple
    return flat


def _content() -> dict:
    person = {
        "id": 100,
        "image_id": 7,
        "track_id": 3,
        "category_id": 1,
        "bbox": [10, 20, 30, 40],
        "bbox_head": [12, 20, 6, 8],
        "keypoints": _keypoints(nose=[15, 25, 1], left_knee=[18, 50, 0]),
    }
    region = {"ignore_regions_x": [[0, 10, 10], []], "ignore_regions_y": [[0, 0, 10], []]}
    images = [
        {"id": 7, "file_name": "a/000000.jpg", **region},
        {"id": 8, "file_name": "a/000001.jpg"},
    ]
    return {
        "images": images,
        "annotations": [person],
        "categories": [{"id": 1, "name": "person", "keypoints": list(NAMES)}],
    }


def _file(tmp_path, content) -> str:
    path = tmp_path / "sequence.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def _read(tmp_path, content):
    return read_posetrack(_file(tmp_path, content), image_size=(100, 200))


def test_a_person_is_read_with_joints_by_name_head_box_and_id(tmp_path):
    frame, empty = _read(tmp_path, _content())
    target = frame.target
    assert (target.image_size, target.track_ids.tolist()) == ((100, 200), [3])
    assert target.boxes.tolist() == [[10, 20, 40, 60]]
    nose, knee = POSETRACK.index("nose"), POSETRACK.index("left_knee")
    assert target.keypoints.value[0, nose].tolist() == [15.5, 25.5]
    assert (target.visibility[0, nose], target.visibility[0, knee], target.visibility.sum()) == (
        2,
        1,
        3,
    )
    assert frame.head_boxes.value.tolist() == [[12, 20, 18, 28]]
    assert [region.tolist() for region in frame.ignore_regions] == [
        [[0.5, 0.5], [10.5, 0.5], [10.5, 10.5]]
    ]
    assert (len(empty.target), empty.image_id) == (0, 8)


def test_joints_go_by_the_names_of_the_file_not_by_position(tmp_path):
    content = _content()
    content["categories"][0]["keypoints"] = ["left_knee", "nose"]
    content["annotations"][0]["keypoints"] = [1, 2, 1, 3, 4, 1]
    target = _read(tmp_path, content)[0].target
    assert target.keypoints.value[0, POSETRACK.index("nose")].tolist() == [3.5, 4.5]
    assert int((target.visibility > 0).sum()) == 2


def test_one_ignore_region_may_stand_without_a_list_of_its_own(tmp_path):
    content = _content()
    content["images"][0] |= {"ignore_regions_x": [0, 10, 10], "ignore_regions_y": [0, 0, 10]}
    assert len(_read(tmp_path, content)[0].ignore_regions) == 1


def test_a_person_without_box_gets_one_around_joints_and_head(tmp_path):
    content = _content()
    del content["annotations"][0]["bbox"]
    box = _read(tmp_path, content)[0].target.boxes[0].tolist()
    # x 12 to 18.5, y 20 to 50.5, and 15 % of that on each side
    assert box == pytest.approx([12 - 0.975, 20 - 4.575, 18.5 + 0.975, 50.5 + 4.575])


def test_results_are_people_with_scores_and_nan_where_no_joint_was_found(tmp_path):
    content = _content()
    content["annotations"][0] |= {"score": 0.5, "scores": [0.25] * 17}
    content["annotations"].append(
        {"id": 101, "image_id": 7, "track_id": 4, "keypoints": _keypoints(nose=[1, 1, 1])}
    )
    content["annotations"][1]["score"] = 0.75
    people = _read(tmp_path, content)[0].persons()
    assert (people.track_ids.tolist(), people.scores.tolist()) == ([4, 3], [0.75, 0.5])
    assert torch.isfinite(people.keypoints).all(-1).sum().item() == 3
    assert math.isnan(people.keypoint_scores[0, 0]) and people.keypoint_scores[1, 0] == 0.25


def test_truth_comes_back_as_it_was_written(tmp_path):
    first = _read(tmp_path, _content())
    assert write_posetrack(tmp_path / "deep/again.json", first) == 1
    again = read_posetrack(tmp_path / "deep/again.json")
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.target.keypoints.value, b.target.keypoints.value)
        assert torch.equal(a.target.visibility, b.target.visibility)
        assert torch.equal(a.target.boxes, b.target.boxes) and torch.equal(
            a.head_boxes.value, b.head_boxes.value
        )
        assert [r.tolist() for r in a.ignore_regions] == [r.tolist() for r in b.ignore_regions]
        assert (a.image_id, a.file_name, a.target.image_size) == (
            b.image_id,
            b.file_name,
            b.target.image_size,
        )


def test_found_people_of_another_skeleton_are_written_by_joint_name(tmp_path):
    people = Persons(
        image_size=(100, 200),
        boxes=torch.tensor([[10.0, 20, 40, 60]]),
        scores=torch.tensor([0.5]),
        keypoints=torch.arange(34.0).reshape(1, 17, 2),
        keypoint_scores=torch.arange(17.0)[None] / 17,
        track_ids=torch.tensor([9]),
        skeleton=COCO17,
    )
    write_posetrack(
        tmp_path / "found.json", [people, Persons.empty((100, 200))], names=["x.jpg", "y.jpg"]
    )
    again, empty = read_posetrack(tmp_path / "found.json")
    found = again.persons()
    ankle = POSETRACK.index("left_ankle")
    assert found.keypoints[0, ankle].tolist() == people.keypoints[0, 15].tolist()
    assert found.keypoint_scores[0, ankle].item() == pytest.approx(15 / 17)
    assert torch.isnan(found.keypoints[0, POSETRACK.index("head_top")]).all()
    assert (found.track_ids.tolist(), again.file_name, len(empty.persons())) == ([9], "x.jpg", 0)


def test_a_neck_is_written_as_posetracks_head_bottom(tmp_path):
    crowd = Skeleton.named("crowdpose14")
    people = Persons(
        image_size=(9, 9),
        boxes=torch.tensor([[0.0, 0, 9, 9]]),
        scores=torch.ones(1),
        keypoints=torch.full((1, 14, 2), 4.5),
        keypoint_scores=torch.full((1, 14), 0.5),
        track_ids=torch.tensor([0]),
        skeleton=crowd,
    )
    write_posetrack(tmp_path / "found.json", [people])
    found = read_posetrack(tmp_path / "found.json")[0].persons()
    assert found.keypoints[0, POSETRACK.index("head_bottom")].tolist() == [4.5, 4.5]
    assert found.keypoint_scores[0, POSETRACK.index("head_bottom")] == 0.5


def test_what_cannot_be_written_is_told(tmp_path):
    nobody = Persons.empty((9, 9))
    person = nobody.replace(boxes=torch.zeros(1, 4), scores=torch.ones(1))
    with pytest.raises(
        AnnotationError, match="frame 2: the people have no keypoints; PoseTrack needs"
    ):
        write_posetrack(tmp_path / "x.json", [nobody, person])
    with pytest.raises(AnnotationError, match="1 names for 2 frames; give one name per frame"):
        write_posetrack(tmp_path / "x.json", [nobody, nobody], names=["a.jpg"])


def _broken(change) -> dict:
    content = _content()
    change(content)
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON .*; expected PoseTrack18 or"),
        ([], "holds a list of JSON, expected an object: PoseTrack18 or"),
        ({"annotations": []}, "no list 'images'; .* expected PoseTrack18 or PoseTrack21 JSON$"),
        ({"annolist": []}, "no list 'images'.*; convert PoseTrack17 files"),
        (
            _broken(lambda c: c["annotations"][0].pop("keypoints")),
            "annotation 100: 'keypoints' is null, expected 51",
        ),
        (
            _broken(lambda c: c["annotations"][0].update(keypoints=[1, 2])),
            "'keypoints' has 2 numbers, expected 51",
        ),
        (
            _broken(lambda c: c["annotations"][0].update(bbox=[0, 0, "a", 1])),
            "'bbox' holds something else than finite",
        ),
        (
            _broken(lambda c: c["annotations"][0].update(image_id=99)),
            "annotation 0 belongs to picture 99, which",
        ),
        (
            _broken(lambda c: c["annotations"].append(dict(c["annotations"][0]))),
            "picture 7: track_id 3 comes twice",
        ),
        (
            _broken(lambda c: c["annotations"][0].update(track_id="a")),
            "'track_id' is 'a', expected a whole number",
        ),
        (_broken(lambda c: c["images"][1].update(id=7)), "two pictures have the id 7"),
        (_broken(lambda c: c["images"][1].pop("id")), "picture 1: it lacks 'id'"),
        (
            _broken(lambda c: c["images"][0].update(ignore_regions_x=[[1]])),
            "picture 7: .*have different lengths",
        ),
        (
            _broken(lambda c: c["categories"][0].update(keypoints=["tail"])),
            "none of the joints .*'tail'.* is one of Pose",
        ),
    ],
)
def test_what_is_not_posetrack_is_told(tmp_path, content, message):
    with pytest.raises(AnnotationError, match=message):
        _read(tmp_path, content)


def test_missing_files_and_picture_sizes_are_told(tmp_path):
    with pytest.raises(AnnotationError, match="nowhere.json: cannot be read"):
        read_posetrack(tmp_path / "nowhere.json")
    with pytest.raises(
        AnnotationError, match="picture 7 has no width and height; pass image_size="
    ):
        read_posetrack(_file(tmp_path, _content()))


@needs_data
def test_the_real_clip_has_four_people_and_fourteen_joints():
    frames = read_pose_clip(DATA / "tracking/posetrack-060470979/poses.json")
    assert len(frames) == 41
    assert {int(i) for frame in frames for i in frame.target.track_ids} == {1, 2, 3, 4}
    assert all(int((f.target.visibility > 0).sum()) == 14 * len(f.target) for f in frames)
    target = frames[0].target
    assert target.image_size == (540, 960)
    assert target.keypoints.value[0, POSETRACK.index("head_bottom")].tolist() == pytest.approx(
        [391.18, 135.45], abs=1e-3
    )
    assert (target.boxes[:, 2:] > target.boxes[:, :2]).all()


def _clip(**changes) -> dict:
    person = {"frame": 1, "track_id": 1, "joints": {"neck": [5, 6, 1]}, "head_box": [4, 4, 6, 6]}
    return {"video": "x", "frames": 2, "size": [20, 30], "persons": [person | changes]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "expected an object with 'frames', 'size' .height, width. and 'persons'"),
        (_clip(frame=-1), "person 0: frame -1, expected 1 to 2; frames are counted from 1"),
        (_clip(frame=3), "person 0: frame 3, expected 1 to 2"),
        (_clip(joints=None), "person 0: no 'joints'"),
        (_clip(joints={"neck": [1, 2]}), "joint 'neck' has 2 numbers, expected 3"),
        (_clip() | {"persons": _clip()["persons"] * 2}, "frame 1: track_id 1 comes twice"),
    ],
)
def test_what_is_not_a_clip_is_told(tmp_path, content, message):
    with pytest.raises(AnnotationError, match=message):
        read_pose_clip(_file(tmp_path, content))


def test_a_clip_counts_px_from_one(tmp_path):
    frame, empty = read_pose_clip(_file(tmp_path, _clip()))
    assert frame.target.keypoints.value[0, POSETRACK.index("head_bottom")].tolist() == [4.5, 5.5]
    assert frame.head_boxes.value.tolist() == [[3.5, 3.5, 5.5, 5.5]]
    assert len(empty.target) == 0


def test_an_unknown_joint_of_a_clip_is_told(tmp_path):
    with pytest.raises(ConfigError, match="has no joint 'left_kne'. Did you mean 'left_knee'"):
        read_pose_clip(_file(tmp_path, _clip(joints={"left_kne": [1, 2, 1]})))
