"""CrowdPose's evaluation equals the reference; wrong files are refused."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from humanquery import cli
from humanquery.core.errors import AnnotationError
from humanquery.core.skeleton import Skeleton
from humanquery.data.readers.coco import CocoSourceConfig
from humanquery.evaluation.crowd_pose import evaluate_crowd_pose
from tests.paths import ORACLE, needs_oracle

FOLDER = ORACLE / "evaluators/pose"
OFFICIAL = [*Skeleton.named("crowdpose14").joints[:12], "head", "neck"]
CATEGORY = {"id": 1, "name": "person", "keypoints": OFFICIAL, "skeleton": [[16, 14], [6, 7]]}


def made_up() -> tuple[dict, list]:
    """Nine pictures of all three kinds: people found a little off, twice, or not at all."""
    rng = np.random.default_rng(5)
    images, annotations, found = [], [], []
    for i, crowd in enumerate((0.0, 0.1, 0.15, 0.2, 0.5, 0.79, 0.8, 0.9, 1.0), start=1):
        images.append(
            {"id": i, "file_name": f"{i}.jpg", "height": 400, "width": 500, "crowdIndex": crowd}
        )
        for _ in range(int(rng.integers(1, 4))):
            x, y = rng.integers(10, 200, 2).tolist()
            w, h = rng.integers(60, 180, 2).tolist()
            joints = rng.uniform((x, y), (x + w, y + h), (14, 2)).round(1)
            seen = rng.integers(0, 3, 14)
            flat = np.column_stack([joints * (seen > 0)[:, None], seen]).ravel().tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": 1,
                    "iscrowd": 0,
                    "bbox": [x, y, w, h],
                    "keypoints": flat,
                    # as in the files: the visible joints alone
                    "num_keypoints": int((seen == 2).sum()) if rng.random() < 0.9 else 0,
                }
            )
            for _ in range(int(rng.integers(0, 3))):
                off = joints + rng.normal(0, rng.uniform(0, 12), (14, 2))
                row = np.column_stack([off, np.ones(14)]).round(2).ravel().tolist()
                score = round(float(rng.random()), 4)
                found.append({"image_id": i, "category_id": 1, "keypoints": row, "score": score})
    return {"images": images, "annotations": annotations, "categories": [CATEGORY]}, found


def write(folder, truth, found) -> tuple[str, str]:
    paths = folder / "truth.json", folder / "found.json"
    for path, content in zip(paths, (truth, found), strict=True):
        path.write_text(json.dumps(content))
    return tuple(map(str, paths))


def all_numbers(report) -> list[float]:
    return [report.ap, report.ap50, report.ap75, report.ap_easy, report.ap_medium, report.ap_hard]


def test_truth_as_found_people_scores_one_everywhere(tmp_path):
    truth, _ = made_up()
    perfect = [
        {n: a[n] for n in ("image_id", "category_id", "keypoints")} | {"score": 0.5}
        for a in truth["annotations"]
    ]
    report = evaluate_crowd_pose(*write(tmp_path, truth, perfect))
    assert all_numbers(report) == pytest.approx([1.0] * 6)
    assert report.pictures == {"easy": 3, "medium": 3, "hard": 3}


@needs_oracle
def test_the_example_of_the_reference_has_its_numbers():
    report = evaluate_crowd_pose(
        FOLDER / "example_crowdpose_val.json", FOLDER / "example_crowdpose_preds.json"
    )
    reference = json.loads((FOLDER / "reference_stats_xtcocotools_1.14.3.json").read_text())
    ap, ap50, ap75, ar, _, _, *crowds = reference["crowdpose_example"]
    assert report.ar == pytest.approx(ar)
    # it rounds the last three
    assert all_numbers(report) == pytest.approx([ap, ap50, ap75, *crowds], abs=5e-5)


def test_made_up_files_have_the_numbers_of_the_reference(tmp_path):
    """xtcocotools 1.14.3, `keypoints_crowd` with use_area=False; it rounds the last three."""
    report = evaluate_crowd_pose(*write(tmp_path, *made_up()))
    expected = (0.2759838574355173, 0.39547704770477043, 0.3225181341663578, 0.46470588235294114)
    assert (report.ap, report.ap50, report.ap75, report.ar) == pytest.approx(expected, abs=1e-12)
    assert all_numbers(report)[3:] == pytest.approx([0.3098, 0.3547, 0.2574], abs=5e-5)


def test_a_kind_of_pictures_that_the_file_lacks_has_no_number(tmp_path):
    truth, found = made_up()
    for image in truth["images"]:
        image["crowdIndex"] = 0.3
    report = evaluate_crowd_pose(*write(tmp_path, truth, found))
    assert report.ap_easy is None and report.ap_medium == report.ap
    assert "n/a" in report.table() and "crowdpose/ap_easy" not in report.numbers()


def test_the_command_line_scores_by_crowd_and_writes_the_report(tmp_path):
    paths = write(tmp_path, *made_up())
    arguments = ["evaluate", "--task", "crowdpose", "--data", paths[0], "--results", paths[1]]
    ran = CliRunner().invoke(cli.app, [*arguments, "--out", str(tmp_path / "report.json")])
    assert ran.exit_code == 0, ran.output
    assert "3 easy, 3 medium, 3 hard" in ran.output
    assert json.loads((tmp_path / "report.json").read_text())["pictures"]["hard"] == 3


def test_files_that_are_not_crowdposes_are_refused(tmp_path):
    truth, found = made_up()
    bare = truth | {"images": [{"id": i["id"]} for i in truth["images"]]}
    with pytest.raises(AnnotationError, match="image 1.*no 'crowdIndex'"):
        evaluate_crowd_pose(*write(tmp_path, bare, found))
    with pytest.raises(AnnotationError, match="row 0 is on no picture of the truth"):
        evaluate_crowd_pose(*write(tmp_path, truth, [found[0] | {"image_id": 99}]))
    few = [found[0] | {"keypoints": [1, 2, 1] * 17}]
    with pytest.raises(AnnotationError, match="'keypoints' has 51 numbers, expected 42"):
        evaluate_crowd_pose(*write(tmp_path, truth, few))
    with pytest.raises(AnnotationError, match="row 0.*score"):
        evaluate_crowd_pose(*write(tmp_path, truth, [found[0] | {"score": None}]))


def test_the_official_file_is_read_with_our_joints_and_half_the_box_as_area(tmp_path):
    """Its category calls the top of the head "head", and its limbs are left over from COCO."""
    truth, found = made_up()
    source = CocoSourceConfig(write(tmp_path, truth, found)[0], skeleton="crowdpose14").build()
    assert source.skeleton == Skeleton.named("crowdpose14")
    box = truth["annotations"][0]["bbox"]
    assert source.target(0).areas[0] == pytest.approx(0.53 * box[2] * box[3])
