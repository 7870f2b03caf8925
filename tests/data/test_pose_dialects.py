"""OCHuman, CrowdPose, Human-Art and COCO-WholeBody on tiny files in their formats: read, and scored
from the command line."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from humanquery.cli import app
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.data.readers.coco import CocoSourceConfig
from humanquery.media.images import write_image

CROWDPOSE = Skeleton.named("crowdpose14")
BOX = [20.0, 10.0, 60.0, 120.0]


def joints(count: int) -> list[float | int]:
    return [v for i in range(count) for v in (25 + 2.5 * i, 20 + 5.0 * i, 2)]


def file(folder, image: dict, person: dict, keypoints: list[str]):
    """One picture with one person."""
    folder.mkdir(parents=True, exist_ok=True)
    write_image(folder / "images/1.jpg", np.full((160, 120, 3), 90, np.uint8))
    record = {"id": 1, "file_name": "1.jpg", "height": 160, "width": 120}
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": BOX}
    content = {
        "images": [record | image],
        "annotations": [annotation | person],
        "categories": [{"id": 1, "name": "person", "keypoints": keypoints}],
    }
    (folder / "labels.json").write_text(json.dumps(content))
    return folder / "labels.json"


def ochuman(folder):
    outline = [20.0, 10.0, 80.0, 10.0, 80.0, 130.0, 20.0, 130.0]
    person = {"keypoints": joints(17), "num_keypoints": 17, "area": 7200.0}
    return file(folder, {}, person | {"segmentation": [outline]}, list(COCO17.joints))


def crowdpose(folder):
    # no area, and a count of visible joints alone
    person = {"keypoints": joints(14), "num_keypoints": 14}
    return file(folder, {"crowdIndex": 0.31}, person, list(CROWDPOSE.joints))


def human_art(folder):
    person = {
        "keypoints": joints(17), "num_keypoints": 17, "area": 7200.0,
        "keypoints_21": joints(21), "style": ["real"], "annotator": 3,
    }  # fmt: skip
    image = {"category": "cartoon", "picture_description": "a dancer"}
    return file(folder, image, person, list(COCO17.joints))


def whole_body(folder):
    person = {"keypoints": joints(17), "num_keypoints": 17, "area": 7200.0}
    parts = {"foot": 6, "face": 68, "lefthand": 21, "righthand": 21}
    for part, count in parts.items():
        person |= {f"{part}_kpts": [0.0] * 3 * count, f"{part}_valid": False}
    person |= {"face_valid": True, "face_box": [30.0, 12.0, 20.0, 25.0]}
    return file(folder, {}, person, list(COCO17.joints))


@pytest.mark.parametrize("dialect", [ochuman, crowdpose, human_art, whole_body])
def test_a_file_is_read_and_right_results_score_one_from_the_command_line(dialect, tmp_path):
    labels = dialect(tmp_path)
    target = CocoSourceConfig(str(labels)).build()[0].target
    count = 14 if dialect is crowdpose else 17
    assert len(target) == 1 and target.keypoints.value.shape == (1, count, 2)
    assert target.keypoints.value[0, 0].tolist() == [25.5, 20.5]
    found = [
        {"image_id": 1, "category_id": 1, "keypoints": joints(count), "bbox": BOX, "score": 0.9}
    ]
    (tmp_path / "results.json").write_text(json.dumps(found))
    out = tmp_path / "report.json"
    done = CliRunner().invoke(
        app,
        ["evaluate", "--data", str(labels), "--results", str(tmp_path / "results.json"),
         "--out", str(out)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    families = json.loads(out.read_text())["families"]
    assert families["keypoints"]["sizes"]["all"]["ap"] == pytest.approx(1.0)


def test_face_boxes_of_coco_wholebody_are_read(tmp_path):
    faces = CocoSourceConfig(str(whole_body(tmp_path))).build()[0].target.face_boxes
    assert faces.valid.tolist() == [True] and faces.value.tolist() == [[30, 12, 50, 37]]
