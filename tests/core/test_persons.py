import json

import pytest
import torch

from humanquery.core.masks import rle_to_bitmap
from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17
from tests.core.people import SIZE, three_persons

PLAIN = (dict, list, str, int, float, bool, type(None))


def _all_values(plain):
    yield plain
    for value in (
        plain.values() if isinstance(plain, dict) else plain if isinstance(plain, list) else ()
    ):
        yield from _all_values(value)


def test_json_holds_plain_values_only_and_reads_back():
    plain = three_persons().to_json()
    assert {type(value) for value in _all_values(plain)} <= set(PLAIN)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    person = plain["persons"][0]
    assert plain["image_size"] == [20, 30] and plain["skeleton"]["joints"][0] == "nose"
    assert person["box"] == three_persons().boxes[0].tolist()
    assert person["keypoints"][3][:2] == three_persons().keypoints[0, 3].tolist()
    assert person["keypoints"][3][2] == round(three_persons().keypoint_scores[0, 3].item(), 4)
    assert (person["gender"], person["age"], person["track_id"]) == ({"female": 0.0}, 3.0, 7)
    assert torch.equal(rle_to_bitmap(person["mask"]), three_persons().masks[0])


def test_json_of_nobody_and_of_boxes_only():
    assert Persons.empty(SIZE).to_json() == {
        "image_size": [20, 30],
        "skeleton": None,
        "persons": [],
    }
    boxes_only = Persons(image_size=SIZE, boxes=torch.ones(1, 4), scores=torch.ones(1))
    assert boxes_only.to_json()["persons"] == [{"box": [1.0, 1.0, 1.0, 1.0], "score": 1.0}]
    json.dumps(boxes_only.to_json())


def test_numbers_that_json_cannot_hold_become_null():
    person = (
        three_persons()
        .replace(age=torch.tensor([float("nan"), 1.0, float("inf")]))
        .to_json()["persons"]
    )
    assert [p["age"] for p in person] == [None, 1.0, None]


def test_joints_without_scores_of_their_own_carry_the_score_of_the_person():
    person = three_persons().replace(keypoint_scores=None).to_json()["persons"][1]
    assert {joint[2] for joint in person["keypoints"]} == {0.5}


def test_half_precision_people_are_written_too():
    people = three_persons()
    half = people.replace(
        boxes=people.boxes.bfloat16(),
        scores=people.scores.half(),
        keypoints=people.keypoints.half(),
    )
    json.dumps(half.to_json(), allow_nan=False)
    json.dumps(half.to_coco(1), allow_nan=False)


def test_coco_results_use_xywh_and_pixel_indices():
    people = three_persons()
    row = people.to_coco(42)[1]
    x, y = people.boxes[1, :2].tolist()
    assert row["image_id"] == 42 and row["category_id"] == 1
    assert row["bbox"] == [x, y, 9.0, 6.0]
    expected = (people.keypoints[1] - 0.5).tolist()
    assert row["keypoints"] == [v for x, y in expected for v in (x, y, 1)]
    assert (row["score"], row["gender"], row["age"]) == (0.5, 0.5, 30.0)
    assert {type(value) for value in _all_values(row)} <= set(PLAIN)
    json.dumps(people.to_coco(1), allow_nan=False)


def test_coco_results_load_into_pycocotools():
    mask = pytest.importorskip("pycocotools.mask")
    people = three_persons()
    decoded = mask.decode([row["segmentation"] for row in people.to_coco(1)])
    assert (decoded.transpose(2, 0, 1).astype(bool) == people.masks.numpy()).all()


def test_coco_results_of_nobody_are_no_rows():
    assert Persons.empty(SIZE, COCO17).to_coco(1) == []


def test_above_keeps_the_score_itself():
    assert (
        three_persons().above(0.5).scores.tolist() == [0.9, 0.5]
        or len(three_persons().above(0.5)) == 2
    )
    assert len(Persons.empty(SIZE).above(0.5)) == 0


def test_a_notebook_shows_the_picture_and_text_where_there_is_none(tmp_path):
    from PIL import Image

    from tests.core.people import SIZE, three_persons

    path = tmp_path / "a.png"
    Image.new("RGB", SIZE[::-1]).save(path)
    shown = three_persons().replace(path=str(path))._repr_png_()
    assert shown.startswith(b"\x89PNG")
    assert three_persons()._repr_png_() is None
    path.unlink()
    assert three_persons().replace(path=str(path))._repr_png_() is None
