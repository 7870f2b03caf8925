import json
import logging
from collections import Counter
from pathlib import Path

import pytest
import torch

from humanquery.core.coco_files import load_coco
from humanquery.core.config import from_plain, to_plain
from humanquery.core.errors import AnnotationError, ConfigError, ImageError
from humanquery.core.masks import bitmap_to_counts
from humanquery.core.skeleton import COCO17
from humanquery.data.readers.coco import CocoSource, CocoSourceConfig, without_labels
from humanquery.data.readers.coco_target import CocoOptions, is_ignored, is_kept, read_target
from tests.data.coco_files import person, write_file
from tests.data.real_part import part_of
from tests.paths import DATA, needs_data

RECORD = {"id": 1, "file_name": "1.png", "height": 48, "width": 64}


def target_of(*people, **options):
    return read_target(RECORD, people, COCO17, CocoOptions(**options))


def test_plain_coco_gives_boxes_joints_and_masks_but_no_attributes(tmp_path):
    source = CocoSourceConfig(write_file(tmp_path, [person()])).build()
    sample = source[0]
    target = sample.target
    assert target.boxes.tolist() == [[10, 5, 30, 35]] and target.areas.tolist() == [300]
    assert target.keypoints.value[0, :3].tolist() == [[12.5, 8.5], [13.5, 9.5], [0, 0]]
    assert target.visibility[0, :3].tolist() == [2, 1, 0]
    assert target.masks.value.sum() == 600 and target.masks.value[0, 5:35, 10:30].all()
    assert (
        target.gender is None
        and target.age is None
        and target.face_boxes is None
        and target.track_ids is None
    )
    assert target.annotation_ids.tolist() == [1]
    assert (
        sample.meta.image_id == 1
        and sample.meta.path.endswith("1.png")
        and sample.meta.image_size == (48, 64)
    )
    assert source.image_ids == [1] and source.annotations_json == tmp_path / "truth.json"


def test_a_picture_of_nobody_is_an_empty_target_or_left_out(tmp_path):
    path = write_file(tmp_path, [person(image_id=2), person(2, image_id=3, iscrowd=1)], pictures=3)
    everybody = CocoSource(CocoSourceConfig(path))
    assert len(everybody) == 3 and len(everybody[0].target) == 0
    assert everybody[0].target.masks.value.shape == (0, 48, 64)
    assert CocoSource(CocoSourceConfig(path, keep_empty=False)).image_ids == [2]


def test_a_file_without_pictures_is_an_empty_source(tmp_path):
    source = CocoSource(CocoSourceConfig(write_file(tmp_path, [], pictures=0)))
    assert len(source) == 0
    with pytest.raises(IndexError):
        source[0]


def test_crowds_and_guesses_are_ignore_rows_without_labels():
    crowd = person(iscrowd=1, segmentation={"size": [48, 64], "counts": [48 * 64]}, gender=1)
    target = target_of(crowd, person(2, iscrowd=0, pseudo=True), person(3))
    assert target.ignore.tolist() == [True, True, False]
    for labels in (target.masks, target.keypoints):
        assert labels.valid.tolist() == [False, False, True]
    assert not target.gender.valid.any() and target.visibility[:2].sum() == 0


@pytest.mark.parametrize(
    "box, area, kept",
    [
        ((10, 5, 1, 1), 1, True),
        ((10, 5, 0.9, 5), 1, False),
        ((10, 5, 5, 5), 0, False),
        ((64, 5, 5, 5), 9, False),
        ((-5, -5, 5.5, 6), 9, True),
        ((63.5, 47.5, 9, 9), 9, True),
    ],
)
def test_persons_are_kept_when_they_have_a_pixel_in_the_picture(box, area, kept):
    assert is_kept(person(box=box, area=area), (48, 64)) is kept
    assert len(target_of(person(box=box, area=area))) == kept


def test_an_area_is_guessed_from_the_box_where_none_is_given():
    bare = person()
    del bare["area"]
    assert target_of(bare).areas.item() == pytest.approx(0.53 * 600)


def test_suspect_boxes_are_ignored_and_statues_are_people_unless_told_otherwise():
    people = [person(1, look="suspect_box"), person(2, look="depicted"), person(3, look="fragment")]
    assert target_of(*people).ignore.tolist() == [True, False, False]
    other = CocoOptions(suspect_boxes="person", depicted="ignore")
    assert [is_ignored(p, other) for p in people] == [False, True, False]
    assert [is_ignored(p, CocoOptions(fragments="ignore")) for p in people] == [True, False, True]


def flags(**valid):
    keys = ("labels", "bboxes", "keypoints_2d", "segmentation", "smpl", "gender", "age", "face")
    return dict.fromkeys(keys, 0) | {"labels": 1, "bboxes": 1} | valid


@pytest.mark.parametrize(
    "more", [{}, {"lefthand_kpts": 1, "righthand_kpts": 0, "foot_kpts": 0, "dense_pose": 1}]
)
def test_unihuman_valid_flags_of_both_versions_decide(more):
    labels = {"gender": 1, "age": 30, "face_box": [12, 6, 5, 6]}
    yes = person(
        1, **labels, valid=flags(keypoints_2d=1, segmentation=1, gender=1, age=1, face=1, **more)
    )
    no = person(2, **labels, valid=flags(keypoints_2d=1, **more))
    target = target_of(yes, no)
    for name in ("masks", "gender", "age", "face_boxes"):
        assert getattr(target, name).valid.tolist() == [True, False], name
    assert target.gender.value.tolist() == [1, 0]
    assert target.age.value[0].tolist() == [30, 30]
    assert target.face_boxes.value[0].tolist() == [12, 6, 17, 12]
    assert not target.masks.value[1].any()


def test_persons_without_a_joint_are_negatives_or_unknown():
    nothing = {"keypoints": [0] * 51, "num_keypoints": 0}
    plain, flagged = person(1, **nothing), person(2, **nothing, valid=flags())
    looked = person(3, **nothing, valid=flags(keypoints_2d=1))
    people = (plain, flagged, looked, person(4))
    assert target_of(*people).keypoints.valid.tolist() == [True] * 4
    assert target_of(*people, unlabelled_keypoints="unknown").keypoints.valid.tolist() == [
        False,
        False,
        True,
        True,
    ]
    assert target_of(*people).visibility.sum(-1).tolist() == [0, 0, 0, 3]


def test_ages_are_points_or_ranges():
    both = person(1, age=29, age_range=[18, 40])
    only_range = person(2, age_range=[0, 3], valid=flags(age=0))
    neither = person(3)
    points, ranges = (
        target_of(both, only_range, neither),
        target_of(both, only_range, neither, age_labels="range"),
    )
    assert points.age.value.tolist() == [[29, 29], [0, 3], [0, 0]]
    assert ranges.age.value.tolist() == [[18, 40], [0, 3], [0, 0]]
    assert points.age.valid.tolist() == ranges.age.valid.tolist() == [True, True, False]


def test_masks_come_from_polygons_and_both_kinds_of_run_lengths(tmp_path):
    polygon = target_of(person()).masks.value[0]
    from humanquery.core.masks import bitmap_to_rle

    runs = {"size": [48, 64], "counts": bitmap_to_counts(polygon)}
    masks = target_of(
        person(1), person(2, segmentation=runs), person(3, segmentation=bitmap_to_rle(polygon))
    ).masks
    assert masks.valid.all()
    assert torch.equal(masks.value, polygon[None].expand(3, -1, -1))


def test_polygons_of_two_points_are_left_out_and_counted(tmp_path, caplog):
    square = [10, 5, 30, 5, 30, 35, 10, 35]
    people = [
        person(1, segmentation=[[1, 2, 3, 4], square]),
        person(2, segmentation=[[1, 2, 3, 4]]),
    ]
    with caplog.at_level(logging.WARNING):
        source = CocoSource(CocoSourceConfig(write_file(tmp_path, people)))
    assert source.left_out == Counter({"mask polygon with fewer than three points": 2})
    assert "2 x mask polygon with fewer" in caplog.text
    assert source[0].target.masks.valid.tolist() == [True, False]
    assert source[0].target.masks.value[0].sum() == 600


def test_only_persons_of_a_file_with_many_categories_are_read(tmp_path):
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}]
    path = write_file(tmp_path, [person(1), person(2, category_id=2)], categories=categories)
    assert CocoSource(CocoSourceConfig(path))[0].target.annotation_ids.tolist() == [1]
    path = write_file(tmp_path, [], categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}])
    with pytest.raises(AnnotationError, match="no category is called 'person'; found cat, dog"):
        CocoSource(CocoSourceConfig(path))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bbox": [1, 2, -3, 4]}, r"'bbox' \[1, 2, -3, 4\] has a negative width or height"),
        ({"bbox": [1, float("nan"), 3, 4]}, r"'bbox' \[1, nan, 3, 4\] holds NaN"),
        ({"bbox": [1, 2, 3]}, r"'bbox' is \[1, 2, 3\], expected \[x, y, width, height\]"),
        ({"area": float("inf")}, "'area' is inf, expected a finite number"),
        (
            {"keypoints": [0] * 42},
            r"'keypoints' has 42 numbers, expected 51 \(x, y, visibility for 17 joints of coco17",
        ),
        ({"keypoints": [1, 2, 7] * 17}, "visibility 7, expected 0, 1 or 2"),
        ({"keypoints": [1, None, 2] * 17}, "NaN, infinity or no number"),
        ({"segmentation": [[1, 2, float("nan"), 4, 5, 6]]}, "'segmentation' holds NaN"),
        (
            {"segmentation": {"rle": 1}},
            r"'segmentation' has the keys \['rle'\]: .* expected an RLE",
        ),
        ({"gender": 2}, r"'gender' is 2, expected 0 \(male\), 1 \(female\)"),
        ({"age_range": [30, 20]}, r"'age_range' is \[30, 20\], expected \[lowest, highest\]"),
        ({"face_box": [1, 2, -3, 4]}, "'face_box' .* negative"),
        ({"image_id": 77}, "'image_id' is 77, which is none of the 1 pictures"),
    ],
)
def test_a_malformed_annotation_names_file_and_id_or_is_counted(tmp_path, change, message):
    path = write_file(tmp_path, [person(5), person(31, **change)])
    with pytest.raises(AnnotationError, match=rf"truth\.json: annotation 31: .*{message}"):
        CocoSource(CocoSourceConfig(path))
    lenient = CocoSource(CocoSourceConfig(path, strict=False))
    key = next(iter(change))
    assert lenient.left_out == Counter({f"annotation with a bad '{key}'": 1})
    assert lenient[0].target.annotation_ids.tolist() == [5]


def test_masks_of_another_size_say_so(tmp_path):
    path = write_file(tmp_path, [person(9, segmentation={"size": [4, 4], "counts": [16]})])
    with pytest.raises(
        AnnotationError,
        match=r"truth\.json: annotation 9: the RLE mask is 4 x 4, expected .* 48 x 64",
    ):
        CocoSource(CocoSourceConfig(path))[0]


@pytest.mark.parametrize(
    "text, message",
    [
        ("{not json", r"bad\.json: not JSON"),
        ("[1, 2]", r"holds a list of JSON, expected an object"),
        (
            '{"images": [], "labels": []}',
            r"no list 'annotations'; found the keys 'images', 'labels'",
        ),
        ("{}", r"no list 'images' and 'annotations'; found the keys none"),
        ('{"images": [{"id": 1}], "annotations": []}', r"lacks 'file_name', 'height', 'width'"),
    ],
)
def test_files_that_are_not_coco_say_what_is_missing(tmp_path, text, message):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(AnnotationError, match=message):
        load_coco(tmp_path / "bad.json")


def test_a_missing_file_and_repeated_pictures_say_so(tmp_path):
    with pytest.raises(AnnotationError, match=r"no\.json: cannot be read \(No such file"):
        load_coco(tmp_path / "no.json")
    record = {"id": 1, "file_name": "1.png", "height": 48, "width": 64}
    path = write_file(tmp_path, [], images=[record, record])
    with pytest.raises(AnnotationError, match="two pictures have the id 1"):
        CocoSource(CocoSourceConfig(path))


def test_a_missing_or_rescaled_picture_is_named(tmp_path):
    path = write_file(tmp_path, [person()])
    (tmp_path / "images/1.png").unlink()
    with pytest.raises(ImageError, match=r"1\.png: no such file"):
        CocoSource(CocoSourceConfig(path))[0]
    record = {"id": 1, "file_name": "1.png", "height": 96, "width": 64}
    path = write_file(tmp_path, [], images=[record])
    with pytest.raises(
        AnnotationError, match=r"1\.png: the picture is 48 x 64 .* says 96 x 64.*rescaled"
    ):
        CocoSource(CocoSourceConfig(path))[0]


def test_labels_can_be_switched_off(tmp_path):
    path = write_file(tmp_path, [person(gender=1)])
    bare = CocoSource(without_labels(CocoSourceConfig(path), "masks", "keypoints"))
    assert (
        bare[0].target.masks is None
        and bare[0].target.keypoints is None
        and bare[0].target.gender is not None
    )
    with pytest.raises(ConfigError, match=r"\['genders'\].*Did you mean 'gender'"):
        CocoSource(CocoSourceConfig(path, fields=("genders",)))


def test_the_config_survives_plain_data(tmp_path):
    config = CocoSourceConfig("a.json", age_labels="range", fields=("masks",))
    assert from_plain(CocoSourceConfig, json.loads(json.dumps(to_plain(config)))) == config


@needs_data
@pytest.mark.parametrize("part, every", [("train", 40), ("val", 10), ("train_more", 20)])
def test_real_people_are_read_whole(part, every, tmp_path):
    path = part_of(part, tmp_path, every=every)
    annotations = json.loads(path.read_text())["annotations"]
    crowds = sum(bool(a["iscrowd"]) for a in annotations)
    assert crowds < len(annotations)
    assert_read_whole(path, len(annotations) - crowds, crowds)


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(
    "part, people, crowds", [("train", 9951, 211), ("val", 705, 12), ("train_more", 3770, 348)]
)
def test_real_files_are_read_whole(part, people, crowds):
    assert_read_whole(DATA / f"people/{part}.json", people, crowds)


def assert_read_whole(path: Path, people: int, crowds: int) -> None:
    source = CocoSource(CocoSourceConfig(str(path), suspect_boxes="person"))
    ignored = total = 0
    for i in range(0, len(source)):
        _, annotations = source._record(i)
        ignored += sum(is_ignored(a, source.options) for a in annotations)
        total += len(annotations)
    assert (total - ignored, ignored) == (people, crowds)
    assert not source.left_out
    sample = source[3]
    assert sample.image.shape[:2] == sample.target.image_size
    assert sample.target.gender is not None and sample.target.face_boxes is None
