import json

import numpy as np
import pytest
import torch

from humanquery.core.batch import Meta, Sample
from humanquery.core.errors import AnnotationError
from humanquery.core.rows import Labelled
from humanquery.core.target import empty_target
from humanquery.data.readers.coco import CocoSource, CocoSourceConfig
from humanquery.data.readers.coco_writer import write_coco
from tests.data.coco_files import person, write_file
from tests.paths import DATA, needs_data


def assert_same(a, b):
    assert torch.equal(a.ignore, b.ignore)
    assert torch.allclose(a.boxes, b.boxes, atol=2e-4) and torch.allclose(
        a.areas, b.areas, atol=2e-4
    )
    for name in ("masks", "keypoints", "gender", "age", "face_boxes"):
        first, second = getattr(a, name), getattr(b, name)
        assert (first is None) == (second is None), name
        if first is not None:
            assert torch.equal(first.valid, second.valid), name
            assert torch.allclose(first.value.float(), second.value.float(), atol=2e-4), name
    assert torch.equal(a.visibility, b.visibility)


def test_what_is_written_is_read_back(tmp_path):
    full = {"gender": 0, "age": 7, "face_box": [12, 6, 5, 6], "track_id": 4}
    people = [
        person(11, **full),
        person(12, box=(0.25, 3.5, 12, 20), age_range=[20, 30]),
        person(13, segmentation=None),
        person(14, box=(40, 2, 20, 30), iscrowd=1),
    ]
    source = CocoSource(CocoSourceConfig(write_file(tmp_path / "a", people, pictures=2)))
    count = write_coco(
        tmp_path / "b/truth.json", (source[i] for i in range(2)), images=tmp_path / "b/images"
    )
    again = CocoSource(CocoSourceConfig(str(tmp_path / "b/truth.json")))
    assert count == 4 and len(again) == 2 and again.image_ids == source.image_ids
    for i in range(2):
        assert np.array_equal(again[i].image, source[i].image)
        assert_same(again[i].target, source[i].target)
    target = again[0].target
    assert torch.equal(target.track_ids, torch.tensor([4, -1, -1, -1]))
    assert torch.equal(target.annotation_ids, source[0].target.annotation_ids)
    rows = json.loads((tmp_path / "b/truth.json").read_text())["annotations"]
    assert rows[0]["keypoints"][:6] == [12, 8, 2, 13, 9, 1] and rows[0]["num_keypoints"] == 2
    assert (
        rows[0]["valid"]["age"] == 1
        and rows[1]["valid"]["age"] == 0
        and rows[2]["valid"]["segmentation"] == 0
    )


def test_the_official_reader_accepts_the_file(tmp_path):
    coco = pytest.importorskip("pycocotools.coco").COCO
    source = CocoSource(CocoSourceConfig(write_file(tmp_path, [person(1), person(2, iscrowd=1)])))
    write_coco(tmp_path / "out.json", [source[0]])
    read = coco(str(tmp_path / "out.json"))
    assert read.annToMask(read.loadAnns(1)[0]).sum() == 600
    assert read.annToMask(read.loadAnns(2)[0]).sum() == 600


def test_nothing_and_repeated_ids(tmp_path):
    meta = Meta((4, 4), (4, 4), image_id=3)
    sample = Sample(np.zeros((4, 4, 3), np.uint8), meta, empty_target((4, 4)))
    assert write_coco(tmp_path / "a.json", [sample]) == 0
    assert len(CocoSource(CocoSourceConfig(str(tmp_path / "a.json")))) == 1
    with pytest.raises(AnnotationError, match="two samples have the image id 3"):
        write_coco(tmp_path / "a.json", [sample, sample])
    with pytest.raises(AnnotationError, match="sample 3 has no target"):
        write_coco(tmp_path / "a.json", [Sample(sample.image, meta)])


def test_joints_of_unannotated_persons_are_not_written(tmp_path):
    source = CocoSource(CocoSourceConfig(write_file(tmp_path, [person()])))
    sample = source[0]
    unknown = Labelled(sample.target.keypoints.value, torch.zeros(1, dtype=torch.bool))
    write_coco(
        tmp_path / "b.json",
        [Sample(sample.image, sample.meta, sample.target.replace(keypoints=unknown))],
    )
    row = json.loads((tmp_path / "b.json").read_text())["annotations"][0]
    assert (
        row["num_keypoints"] == 0
        and row["valid"]["keypoints_2d"] == 0
        and not any(row["keypoints"])
    )
    again = CocoSource(CocoSourceConfig(str(tmp_path / "b.json"), unlabelled_keypoints="unknown"))
    assert not again.target(0).keypoints.valid.any()


@needs_data
def test_real_truth_survives_writing(tmp_path):
    source = CocoSource(CocoSourceConfig(str(DATA / "people/val.json")))
    write_coco(tmp_path / "val.json", (source[i] for i in range(20)))
    again = CocoSource(CocoSourceConfig(str(tmp_path / "val.json"), images=str(source.images)))
    for i in range(20):
        assert_same(again.target(i), source.target(i))
