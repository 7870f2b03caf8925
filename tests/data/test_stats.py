import json
from io import StringIO

import pytest
from rich.console import Console

from humanquery.core.errors import AnnotationError
from humanquery.data.check.stats import measure, print_stats, write
from humanquery.media.images import read_image
from tests.data.real_part import part_of
from tests.paths import DATA, needs_data


def _person(number, image_id, side, **labels):
    box = {"bbox": [10, 10, side, side], "area": side * side, "iscrowd": 0}
    return {"id": number, "image_id": image_id, "category_id": 1} | box | labels


@pytest.fixture
def small_file(tmp_path):
    joints = [20, 20, 2] * 3 + [30, 30, 1] * 2 + [0, 0, 0] * 12
    people = [
        _person(1, 1, 20, gender=0, age=30, keypoints=joints, num_keypoints=5),
        _person(2, 1, 32, gender=1, age_range=[20, 41]),
        _person(3, 1, 96, gender=1, age=3),
        _person(4, 2, 97, face_box=[1, 1, 5, 5]),
        _person(5, 2, 50, iscrowd=1),
    ]
    images = [{"id": i, "file_name": f"{i}.png", "height": 200, "width": 200} for i in (1, 2, 3)]
    path = tmp_path / "people.json"
    path.write_text(
        json.dumps(
            {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}
        )
    )
    return path


def test_a_small_file_is_counted_by_hand(small_file):
    stats = measure(small_file)
    assert (stats.num_pictures, stats.num_people, stats.num_face_boxes) == (3, 4, 1)
    assert stats.gender == {"male": 1, "female": 2, "unknown": 1}
    assert {age: n for age, n in enumerate(stats.ages) if n} == {3: 1, 30: 2}
    assert (stats.num_ages, stats.num_age_ranges, stats.median_age) == (3, 1, 30)
    assert stats.sizes == {"small": 1, "medium": 2, "large": 1}
    assert stats.people_per_picture == {0: 1, 1: 1, 3: 1}
    assert stats.num_with_joints == 1
    assert stats.visibility["nose"] == [0, 0, 1] and stats.visibility["left_ear"] == [0, 1, 0]
    assert stats.visibility["left_ankle"] == [1, 0, 0]


def test_numbers_and_plot_are_written(small_file, tmp_path):
    pytest.importorskip("matplotlib")
    paths = write(measure(small_file), tmp_path / "deep" / "out", "small")
    assert paths == [
        tmp_path / "deep" / "out" / "stats.json",
        tmp_path / "deep" / "out" / "stats.png",
    ]
    numbers = json.loads(paths[0].read_text())
    assert (
        numbers["title"] == "small" and numbers["num_people"] == 4 and numbers["median_age"] == 30
    )
    plot = read_image(paths[1])
    assert plot.shape[1] > 1000 and plot.std() > 10


def test_a_file_without_people_or_labels_is_drawn_too(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "empty.json").write_text('{"images": [], "annotations": []}')
    stats = measure(tmp_path / "empty.json")
    write(stats, tmp_path / "out")
    assert (stats.num_people, stats.median_age, stats.people_per_picture) == (0, None, {})
    assert (tmp_path / "out" / "stats.png").stat().st_size > 1000


def test_the_table_tells_shares(small_file):
    out = StringIO()
    print_stats(measure(small_file), Console(file=out, width=80))
    assert "female" in out.getvalue() and "50.0%" in out.getvalue()


def test_what_is_no_coco_file_raises(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(AnnotationError, match="a.json: no list 'images' and 'annotations'"):
        measure(tmp_path / "a.json")


@needs_data
def test_real_people_are_counted(tmp_path):
    path = part_of("val", tmp_path, every=10)
    people = [p for p in json.loads(path.read_text())["annotations"] if not p["iscrowd"]]
    stats = measure(path)
    assert stats.num_pictures == 30 and stats.num_people == len(people)
    assert stats.num_with_joints == sum(bool(p.get("num_keypoints")) for p in people)
    women = sum(p.get("gender") == 1 for p in people)
    assert stats.gender["female"] == women and 0 < women < len(people)


@pytest.mark.slow
@needs_data
def test_the_real_val_part_has_the_documented_counts():
    stats = measure(DATA / "people" / "val.json")
    assert (stats.num_pictures, stats.num_with_joints) == (300, 479)
    assert stats.gender["male"] + stats.gender["female"] == 406
