"""Poses from the top down: boxes, crops, joints, stage by stage."""

import json
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from humanquery import load
from humanquery.cli import app
from humanquery.core.errors import AnnotationError, ConfigError, ImageError
from humanquery.core.persons import Persons
from humanquery.core.system import Ask
from humanquery.engine.checkpoint import save_state_dict
from humanquery.models.topdown.config import LiteHRNetConfig, TopDownConfig
from humanquery.models.topdown.system import TopDown, cut_crops
from humanquery.predict import BasePredictor
from humanquery.predict.boxes_file import BoxesFile
from humanquery.predict.whole_body import Detector, WholeBodyPredictor, seen
from humanquery.predict.whole_body_folder import FORMATS, checked, predict_whole_bodies

CONFIG = TopDownConfig(
    skeleton="coco17",
    network=LiteHRNetConfig(width=8, modules=(1, 1, 1)),
    input_size=(64, 32),
    joints_by="heatmap",
    flip_test=False,
    nms=False,
)


class Halves:
    """A finder: one person in the left half of every picture, and nobody in dark ones."""

    def find(self, picture, name, score):
        height, width = picture.shape[:2]
        box = torch.tensor([[0.0, 0.0, width / 2, height]])
        found = Persons(image_size=(height, width), boxes=box, scores=torch.tensor([0.9]))
        return found[found.scores >= (score if picture.any() else 2)]

    def identity(self):
        return {"name": "halves"}


@pytest.fixture(scope="module")
def system() -> TopDown:
    torch.manual_seed(0)
    built = TopDown(CONFIG).eval()
    torch.nn.init.normal_(built.network.head.weight)
    return built


@pytest.fixture
def predictor(system) -> WholeBodyPredictor:
    return WholeBodyPredictor(system, Halves(), {"score_threshold": 0.5}, "cpu")


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (40 + i, 60, 3), dtype=np.uint8) for i in range(count)]


def test_stages_give_in_order_what_one_call_gives(predictor, system):
    shown = pictures(7)
    found = list(predictor.predict_many(shown))
    for picture, people in zip(shown, found, strict=True):
        boxes = Halves().find(picture, None, 0.5)
        alone = system.predict(cut_crops([picture], [boxes], CONFIG), Ask(0.5))[0].persons
        torch.testing.assert_close(people.keypoints, alone.keypoints)
        assert people.image_size == picture.shape[:2]
        assert people.skeleton.name == "coco17"


def test_a_picture_with_nobody_has_nobody(predictor):
    people = predictor.predict(np.zeros((30, 40, 3), np.uint8))
    assert len(people) == 0 and people.image_size == (30, 40)


def test_people_below_the_score_are_not_looked_at(predictor):
    assert len(predictor.predict(pictures(1)[0], score=0.95)) == 0


def test_a_picture_that_cannot_be_read_is_raised_in_its_place(predictor, tmp_path):
    found = predictor.predict_many([*pictures(2), str(tmp_path / "absent.jpg"), *pictures(1)])
    assert len(next(found)) == len(next(found)) == 1
    with pytest.raises(ImageError, match="absent.jpg"):
        next(found)
    assert list(found) == []


def test_what_a_finder_raises_comes_to_the_caller_with_its_stage(system):
    class Broken(Halves):
        def find(self, picture, name, score):
            raise RuntimeError("no eyes")

    broken = WholeBodyPredictor(system, Broken(), device="cpu")
    with pytest.raises(RuntimeError, match="no eyes") as caught:
        broken.predict(pictures(1)[0])
    assert caught.value.__notes__ == ["in the stage 'find'"]


def test_leaving_early_ends_all_threads_and_reads_few_pictures_ahead(predictor):
    before, taken = threading.active_count(), []

    def endless():
        while True:
            taken.append(1)
            yield pictures(1)[0]

    found = predictor.predict_many(endless())
    next(found)
    found.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
    assert len(taken) < 40  # five stages, two waiting before each


def test_boxes_are_cut_to_the_picture_and_those_without_a_part_of_it_left_out():
    boxes = torch.tensor(
        [[-10.0, -10, 20, 20], [5, 5, 5, 30], [200, 5, 220, 30], [-50, -50, 500, 500]]
    )
    found = Persons(image_size=(40, 60), boxes=boxes, scores=torch.tensor([0.9, 0.8, 0.7, 0.6]))
    inside = seen(found, (40, 60))
    assert inside.boxes.tolist() == [[0, 0, 20, 20], [0, 0, 60, 40]]
    assert inside.scores.tolist() == pytest.approx([0.9, 0.6])


def test_a_box_that_is_no_number_is_named():
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, float("nan"), 9, 9]])
    found = Persons(image_size=(40, 60), boxes=boxes, scores=torch.ones(2))
    with pytest.raises(AnnotationError, match="box 1 of 2 is .*expected finite xyxy px"):
        seen(found, (40, 60))


def test_a_person_larger_than_the_picture_keeps_joints_in_px_of_the_picture(predictor):
    picture = pictures(1)[0]
    box = torch.tensor([[-300.0, -300.0, 400.0, 400.0]])
    people = Persons(image_size=picture.shape[:2], boxes=box, scores=torch.ones(1))
    found = predictor.in_boxes(picture, people)
    assert found.boxes.tolist() == [[0, 0, 60, 40]]
    assert found.keypoints.isfinite().all()


@pytest.fixture
def weights(system, tmp_path):
    path = tmp_path / "body.safetensors"
    save_state_dict(path, system.state_dict(), CONFIG, {"name": "body", "score_threshold": 0.25})
    return path


def write_boxes(folder, content, name="boxes.json"):
    (folder / name).write_text(json.dumps(content))
    return folder / name


def test_a_weights_file_is_loaded_with_a_boxes_file(weights, tmp_path):
    Image.fromarray(pictures(1)[0]).save(tmp_path / "000007.png")
    rows = [
        {"image_id": 7, "bbox": [1, 2, 20, 30], "score": 0.8, "category_id": 1},
        {"image_id": 7, "bbox": [30, 2, 20, 30], "score": 0.1, "category_id": 1},
        {"image_id": 7, "bbox": [0, 0, 5, 5], "score": 0.9, "category_id": 18},
    ]
    predictor = load(weights, "cpu", boxes=write_boxes(tmp_path, rows))
    people = predictor.predict(tmp_path / "000007.png")
    assert people.boxes.tolist() == [[1, 2, 21, 32]]
    assert people.path.endswith("000007.png")
    assert predictor.default_score == 0.25
    assert predictor.identity()["boxes"]["name"] == "boxes.json"


def test_a_boxes_file_names_pictures_by_its_records_or_by_those_beside_it(tmp_path):
    record = {"id": 3, "file_name": "folder/street.jpg"}
    person = {"image_id": 3, "bbox": [1, 1, 8, 8], "score": 0.5}
    picture = np.zeros((20, 20, 3), np.uint8)
    whole = write_boxes(tmp_path, {"images": [record], "annotations": [person]})
    assert len(BoxesFile.read(whole).find(picture, "/x/street.jpg", 0.2)) == 1
    write_boxes(tmp_path, [record], "images.json")
    results = BoxesFile.read(write_boxes(tmp_path, [person], "results.json"))
    assert len(results.find(picture, "street.jpg", 0.2)) == 1
    assert len(results.find(picture, "street.jpg", 0.6)) == 0


def test_a_boxes_file_of_other_pictures_says_which_it_knows(tmp_path):
    boxes = BoxesFile.read(write_boxes(tmp_path, [{"image_id": "a.jpg", "bbox": [0, 0, 4, 4]}]))
    picture = np.zeros((20, 20, 3), np.uint8)
    with pytest.raises(AnnotationError, match=r"no boxes of 'b.jpg'; it knows 1 pictures \(a.jpg"):
        boxes.find(picture, "b.jpg", 0.0)
    with pytest.raises(AnnotationError, match="this picture has none"):
        boxes.find(picture, None, 0.0)


@pytest.mark.parametrize(
    "content, message",
    [
        ([{"image_id": "a", "bbox": [0, 0, 4]}], "row 0: bbox' has 3 numbers, expected 4"),
        ([{"image_id": "a", "bbox": [0, 0, 4, None]}], "holds NaN, infinity or no number"),
        ([{"image_id": "a", "bbox": [0, 0, 4, 4], "score": "high"}], "row 0: score' is 'high'"),
        ({"annotations": []}, "expected a list of {'image_id', 'bbox', 'score'}"),
        ("text", "expected an object or a list"),
    ],
)
def test_a_file_that_is_no_boxes_file_is_refused(tmp_path, content, message):
    with pytest.raises(AnnotationError, match=message):
        BoxesFile.read(write_boxes(tmp_path, content))


def test_boxes_belong_to_top_down_models(weights, tmp_path):
    with pytest.raises(ConfigError, match="finds them by itself|is for top-down models"):
        load("hqnet-small", "cpu", boxes="boxes.json")
    with pytest.raises(ConfigError, match="graphs=True is for an HQNet"):
        load(weights, "cpu", graphs=True, boxes=Halves())


def test_any_predictor_of_ours_is_a_finder(system):
    class Model(BasePredictor):
        def predict(self, picture, *, score, tasks):
            assert tasks == ()
            return Halves().find(picture, None, score)

        def identity(self):
            return {"name": "halves"}

    detector = Detector(Model())
    assert len(detector.find(pictures(1)[0], None, 0.3)) == 1
    assert detector.identity() == {"name": "halves"}


def test_a_folder_gives_every_format_and_names_what_failed(predictor, tmp_path):
    shown = tmp_path / "in"
    shown.mkdir()
    for i, picture in enumerate(pictures(2)):
        Image.fromarray(picture).save(shown / f"p{i}.png")
    (shown / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    result = predict_whole_bodies(predictor, [str(shown)], out, formats=FORMATS)
    assert (result.done, result.people, result.exit_code) == (2, 2, 1)
    assert "broken.png" in result.failed[0][0]
    rows = json.loads((out / "alphapose-results.json").read_text())
    assert [row["image_id"] for row in rows] == ["p0.png", "p1.png"]
    assert set(json.loads((out / "alphapose-cmu.json").read_text())) == {"p0.png", "p1.png"}
    assert len(json.loads((out / "alphapose-open.json").read_text())) == 2
    ids = [record["id"] for record in json.loads((out / "images.json").read_text())]
    for name in ("coco_results.json", "coco_wholebody_results.json"):
        assert [row["image_id"] for row in json.loads((out / name).read_text())] == ids == [1, 2]
    assert json.loads((out / "p1.json").read_text())["source"].endswith("p1.png")
    assert (out / "p0.jpg").exists()


def test_a_boxes_file_of_other_pictures_fails_every_picture_by_name(system, tmp_path):
    Image.fromarray(pictures(1)[0]).save(tmp_path / "street.png")
    boxes = BoxesFile.read(write_boxes(tmp_path, [{"image_id": "x.png", "bbox": [0, 0, 9, 9]}]))
    predictor = WholeBodyPredictor(system, boxes, device="cpu")
    result = predict_whole_bodies(predictor, [str(tmp_path / "street.png")], tmp_path / "out")
    assert result.exit_code == 2
    assert "no boxes of 'street.png'" in result.failed[0][1]


def test_an_unknown_format_names_the_nearest():
    with pytest.raises(ConfigError, match="--format alphapos: unknown format.*alphapose"):
        checked(["alphapos"])


def test_the_verb_writes_poses_of_a_picture(weights, tmp_path):
    Image.fromarray(pictures(1)[0]).save(tmp_path / "street.png")
    boxes = write_boxes(tmp_path, [{"image_id": "street", "bbox": [0, 0, 30, 30]}])
    arguments = ["wholebody", str(tmp_path / "street.png"), "--weights", str(weights)]
    arguments += ["--boxes", str(boxes), "--out", str(tmp_path / "out"), "--device", "cpu"]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.output
    assert "1 people in 1 pictures" in ran.output
    (row,) = json.loads((tmp_path / "out/alphapose-results.json").read_text())
    assert len(row["keypoints"]) == 51
