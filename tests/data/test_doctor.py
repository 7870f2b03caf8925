import json
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.core.skeleton import COCO17
from humanquery.data.check.doctor import check, print_report
from humanquery.media.images import write_image
from tests.data.real_part import part_of
from tests.paths import DATA, needs_data

FRONT = {"nose": (50, 20), "left_eye": (53, 17), "right_eye": (47, 17), "left_shoulder": (62, 40)}
FRONT |= {"right_shoulder": (38, 40), "left_hip": (58, 80), "right_hip": (42, 80)}


def _keypoints(places: dict[str, tuple[float, float]]) -> list[float]:
    flat = []
    for name in COCO17.joints:
        flat += [*places[name], 2] if name in places else [0, 0, 0]
    return flat


def _person(number: int = 1, **changes) -> dict:
    person = {
        "id": number,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [30, 10, 40 + number, 90],
    }
    person |= {"area": 2000, "keypoints": _keypoints(FRONT), "num_keypoints": 7}
    return {key: value for key, value in (person | changes).items() if value is not ...}


def _write(folder, people, images=None):
    images = images or [{"id": 1, "file_name": "one.png", "height": 120, "width": 100}]
    path = folder / "people.json"
    path.write_text(
        json.dumps(
            {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}
        )
    )
    return path


def _kinds(folder, people, records=None) -> dict[str, int]:
    return check(_write(folder, people, records)).counts


def test_a_sound_file_has_no_findings(tmp_path):
    report = check(_write(tmp_path, [_person(), _person(2)]))
    assert report.ok and report.findings == []
    assert (report.num_pictures, report.num_people, report.num_facing, report.num_right_way) == (
        1,
        2,
        2,
        2,
    )


def test_an_empty_file_is_sound(tmp_path):
    path = tmp_path / "empty.json"
    path.write_text('{"images": [], "annotations": []}')
    report = check(path)
    assert report.ok and report.right_way_share is None and report.counts == {}


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"bbox": [float("nan"), 1, 2, 3]}, "bad bbox", "holds NaN"),
        ({"bbox": [30, 10, -4, 90]}, "bad bbox", "negative width or height"),
        ({"bbox": ...}, "bad bbox", "expected .x, y, width, height."),
        ({"bbox": [30, 10, 0, 90]}, "empty box", "has no area"),
        ({"bbox": [500, 10, 20, 90]}, "box outside", "outside the picture of 100 x 120"),
        (
            {"bbox": [30, 10, 90, 90]},
            "box over the edge",
            "reaches out of the picture of 100 x 120",
        ),
        ({"keypoints": [1, 2, 2]}, "bad keypoints", "has 3 numbers, expected 51"),
        ({"keypoints": [float("nan")] * 51}, "bad keypoints", "holds NaN"),
        (
            {"num_keypoints": 9},
            "wrong joint count",
            "'num_keypoints' is 9, but 7 joints are labelled",
        ),
        (
            {"keypoints": _keypoints(FRONT | {"nose": (300, 20)})},
            "joint outside",
            r"nose at \(300, 20\) lies outside",
        ),
        (
            {"bbox": [30, 10, 60, 40]},
            "joint far from box",
            "left_hip at .* lies 30 px outside the box",
        ),
        ({"segmentation": [[1, 1, 2, 2]]}, "short polygon", "fewer than three points"),
        ({"segmentation": [[1, 1, 2, 2, 3]]}, "bad segmentation", "no polygon"),
        ({"gender": 2}, "bad gender", r"'gender' is 2, expected 0 \(male\), 1 \(female\)"),
        ({"age": 130}, "impossible age", "130 years; expected 0 to 120"),
        ({"age": "old"}, "bad age", "'age' is 'old'"),
        ({"age_range": [30, 20]}, "bad age_range", "expected .lowest, highest. in years"),
        ({"age_range": [20, 30], "age": 31}, "age outside its range", "'age' 31 lies outside"),
        (
            {"valid": {"gender": 1}},
            "valid label missing",
            "valid.gender is 1, yet there is no such label",
        ),
        (
            {"valid": {"age": 0}, "age": 3},
            "label not said valid",
            "valid.age is 0, yet the label is there",
        ),
        ({"valid": [1]}, "bad valid", "expected an object of 0 and 1"),
        ({"image_id": 7}, "annotation without picture", "'image_id' is 7, none of the 1 pictures"),
        ({"image_id": None}, "annotation without picture", "'image_id' is null"),
    ],
)
def test_each_fault_is_named_with_its_place(tmp_path, changes, kind, words):
    import re

    report = check(_write(tmp_path, [_person(**changes)]))
    finding = next(f for f in report.findings if f.kind == kind)
    assert re.search(words, finding.message), finding.message
    assert finding.annotation_id == 1 and "annotation 1" in finding.where
    assert report.ok == (
        finding.level != "error" and all(f.level != "error" for f in report.findings)
    )


def test_several_faults_of_one_person_are_all_named(tmp_path):
    kinds = _kinds(tmp_path, [_person(bbox=[1, 2, -3, 4], keypoints=[1], gender=9)])
    assert kinds == {"bad bbox": 1, "bad keypoints": 1, "bad gender": 1}


def test_a_range_stands_for_an_age(tmp_path):
    person = _person(valid={"age": 1, "gender": 0}, age_range=[20, 30])
    assert _kinds(tmp_path, [person]) == {}


def test_visible_joints_only_may_be_counted(tmp_path):
    flat = _keypoints(FRONT)
    flat[2] = 1  # the nose is hidden
    assert _kinds(tmp_path, [_person(keypoints=flat, num_keypoints=6)]) == {}


def test_repeated_ids_and_people_are_named(tmp_path):
    images = [{"id": 1, "file_name": "a.png", "height": 120, "width": 100}] * 2
    kinds = _kinds(tmp_path, [_person(), _person(), _person(3, bbox=[30, 10, 41, 90])], images)
    assert kinds["repeated image id"] == 1 and kinds["repeated annotation id"] == 1
    assert kinds["same box twice"] >= 1


def test_other_categories_are_not_examined(tmp_path):
    path = tmp_path / "things.json"
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}]
    images = [{"id": 1, "file_name": "one.png", "height": 120, "width": 100}]
    dog = {"id": 5, "image_id": 1, "category_id": 2, "bbox": [1, 2, -3, 4]}
    path.write_text(json.dumps({"images": images, "annotations": [dog], "categories": categories}))
    assert check(path).counts == {"picture without people": 1} and check(path).ok


def test_pictures_are_looked_at(tmp_path):
    write_image(tmp_path / "good.png", np.zeros((120, 100, 3), np.uint8))
    write_image(tmp_path / "small.png", np.zeros((60, 50, 3), np.uint8))
    noise = np.random.default_rng(0).integers(0, 256, (120, 100, 3), dtype=np.uint8)
    write_image(tmp_path / "cut.png", noise)
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:5000])
    (tmp_path / "text.png").write_text("no picture")
    names = ["good.png", "small.png", "cut.png", "text.png", "lost.png"]
    images = [
        {"id": i, "file_name": n, "height": 120, "width": 100} for i, n in enumerate(names, 1)
    ]
    people = [_person(i, image_id=i) for i in range(1, 6)]
    headers_only = check(_write(tmp_path, people, images), tmp_path)
    assert headers_only.counts == {"unreadable picture": 3, "wrong picture size": 1}
    report = check(_write(tmp_path, people, images), tmp_path, read_pictures=True)
    assert [f.image_id for f in report.findings if f.kind == "unreadable picture"] == [3, 4, 5]
    [size] = [f for f in report.findings if f.kind == "wrong picture size"]
    assert "small.png is 60 x 50 (height x width), the file says 120 x 100" in size.message


def _swapped(places):
    other = {"left": "right", "right": "left"}
    return {
        name.replace(name.split("_")[0], other.get(name.split("_")[0], "nose")): p
        for name, p in places.items()
    }


def test_a_file_with_left_and_right_swapped_is_an_error(tmp_path):
    people = [_person(i, keypoints=_keypoints(_swapped(FRONT))) for i in range(1, 31)]
    report = check(_write(tmp_path, people))
    assert report.right_way_share == 0 and report.counts == {"sides swapped?": 30, "flip pairs": 1}
    assert (
        not report.ok
        and "only 0 have left and right where they belong" in report.findings[-1].message
    )


def test_one_person_the_wrong_way_round_is_a_warning(tmp_path):
    people = [_person(i) for i in range(1, 30)] + [
        _person(30, keypoints=_keypoints(_swapped(FRONT)))
    ]
    report = check(_write(tmp_path, people))
    assert (
        report.ok
        and report.counts == {"sides swapped?": 1}
        and report.right_way_share == pytest.approx(29 / 30)
    )


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_leaning_people_are_judged_as_they_stand(tmp_path, turn):
    angle = np.radians(turn)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    places = {name: tuple((matrix @ (np.array(p) - 50) + 50).tolist()) for name, p in FRONT.items()}
    report = check(_write(tmp_path, [_person(keypoints=_keypoints(places))]))
    assert (report.num_facing, report.num_right_way) == (1, 1)


def test_people_from_behind_or_from_the_side_are_not_judged(tmp_path):
    behind = {
        name: p for name, p in _swapped(FRONT).items() if "eye" not in name and name != "nose"
    }
    side = FRONT | {"left_shoulder": (51, 40), "right_shoulder": (50, 40)}
    report = check(
        _write(
            tmp_path,
            [_person(1, keypoints=_keypoints(behind)), _person(2, keypoints=_keypoints(side))],
        )
    )
    assert report.num_facing == 0 and report.right_way_share is None


def test_what_is_no_coco_file_or_no_skeleton_raises(tmp_path):
    path = tmp_path / "list.json"
    path.write_text("[1, 2]")
    with pytest.raises(AnnotationError, match="holds a list of JSON"):
        check(path)
    with pytest.raises(AnnotationError, match="missing.json: cannot be read"):
        check(tmp_path / "missing.json")
    with pytest.raises(ConfigError, match="unknown skeleton 'coco18'. Did you mean"):
        check(_write(tmp_path, []), skeleton="coco18")


def test_the_report_is_printed_and_is_plain_data(tmp_path):
    report = check(_write(tmp_path, [_person(gender=5), _person(2, gender=5)]))
    out = StringIO()
    print_report(report, Console(file=out, width=120))
    text = " ".join(out.getvalue().split())
    for words in (
        "1 pictures, 2 people",
        "bad gender",
        "annotation 1 of picture 1",
        "2 errors",
        "100.0% of 2 people",
    ):
        assert words in text
    plain = json.loads(json.dumps(report.to_json()))
    assert (
        plain["ok"] is False
        and plain["counts"] == {"bad gender": 2}
        and plain["findings"][0]["annotation_id"] == 1
    )


def assert_sound(report, facing: int) -> None:
    assert report.ok, report.counts
    assert set(report.counts) <= {"joint far from box", "sides swapped?", "picture without people"}
    assert report.num_facing > facing and report.right_way_share > 0.96


@needs_data
@pytest.mark.parametrize("name, every", [("train", 40), ("val", 4), ("train_more", 20)])
def test_real_people_are_sound_and_their_sides_are_right(name, every, tmp_path):
    assert_sound(check(part_of(name, tmp_path, every=every)), facing=30)


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("name", ["train", "val", "train_more"])
def test_whole_real_files_are_sound_and_their_sides_are_right(name):
    assert_sound(check(DATA / "people" / f"{name}.json"), facing=200)
