"""From pictures to people, through the Python interface and for whole folders."""

import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from humanquery.core.errors import CheckpointError, ConfigError, ImageError
from humanquery.engine.checkpoint import save_weights
from humanquery.media.images import write_image
from humanquery.models.hqnet.hqnet import HQNet
from humanquery.predict import Predictor, load
from humanquery.predict.base import find_weights
from humanquery.predict.loading import trained
from humanquery.predict.predict_folder import find_pictures, picture_stems, predict_sources
from humanquery.predict.threads import HeapTrimmer, SideBySide, openmp_limit
from tests.predict.fake import FakeSystem


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(FakeSystem(), {"score_threshold": 0.5}, "cpu")


def picture(height: int = 30, width: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


def test_a_picture_may_be_a_path_an_array_or_a_pil_image(predictor, tmp_path):
    write_image(tmp_path / "p.png", picture())
    for source in (
        tmp_path / "p.png",
        str(tmp_path / "p.png"),
        picture(),
        Image.fromarray(picture()),
        torch.from_numpy(picture()).permute(2, 0, 1) / 255,
        (tmp_path / "p.png").read_bytes(),
    ):
        people = predictor.predict(source)
        assert len(people) == 1 and people.image_size == (30, 40)


def test_people_of_a_file_paint_themselves_onto_it_and_others_ask_for_the_picture(
    predictor, tmp_path
):
    write_image(tmp_path / "p.png", picture())
    people = predictor.predict(tmp_path / "p.png")
    assert people.path == str(tmp_path / "p.png") and np.array_equal(
        people.draw(), people.draw(picture())
    )
    with pytest.raises(ImageError, match="pass the picture"):
        predictor.predict(picture()).draw()


def test_the_cards_threshold_holds_unless_another_is_asked_for(predictor):
    assert len(predictor.predict(picture())) == 1
    assert len(predictor.predict(picture(), score=0.1)) == 2


def test_attributes_can_be_switched_off_and_tasks_chosen(predictor):
    plain = predictor.predict(picture(), attributes=False)
    assert plain.gender is None and plain.age is None and plain.masks is not None
    only = predictor.predict(picture(), tasks=["age"])
    assert only.masks is None and only.keypoints is None and only.age is not None
    with pytest.raises(ConfigError, match="Did you mean 'masks'"):
        predictor.ask(tasks=["nask"])


SIZES = [(30, 40), (50, 20), (10, 90)]


def test_many_pictures_come_back_in_order_and_on_the_cpu_one_by_one(predictor):
    found = list(predictor.predict_many([picture(*s) for s in SIZES], batch_size=2))
    assert [p.image_size for p in found] == SIZES
    assert [shape[0] for shape in predictor.system.seen] == [1, 1, 1]


def test_elsewhere_pictures_go_in_batches(predictor):
    predictor.batches = True
    found = list(predictor.predict_many([picture(*s) for s in SIZES], batch_size=2))
    assert [p.image_size for p in found] == SIZES
    assert [shape[0] for shape in predictor.system.seen] == [2, 1]


needs_openmp = pytest.mark.skipif(openmp_limit() is None, reason="torch's OpenMP is not found")


@pytest.fixture
def threads():
    """Sets torch's number of threads, and puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_openmp
@pytest.mark.parametrize(("number", "pictures", "each"), [(1, 3, 1), (2, 4, 1), (5, 2, 2)])
def test_torchs_threads_are_shared_by_pictures_side_by_side(threads, number, pictures, each):
    threads(number)
    together = threading.Barrier(min(number, pictures), timeout=30)
    seen = []

    def look(i: int) -> int:
        together.wait()  # nobody passes alone
        seen.append(torch.get_num_threads())
        return i

    assert SideBySide().map(look, list(range(pictures))) == list(range(pictures))
    assert seen == [each] * pictures


@needs_openmp
def test_concurrent_prediction_changes_nobodys_threads(threads):
    """Three clients of five threads, again and again: all keep five, and so do later threads."""
    threads(5)
    pool, after = SideBySide(), []

    def client() -> None:
        for _ in range(5):
            pool.map(lambda i: torch.rand(64, 64).sum(), [0, 1])
        after.append(torch.get_num_threads())

    for clients in (3, 1):  # the last one comes when all is done
        running = [threading.Thread(target=client) for _ in range(clients)]
        for one in running:
            one.start()
        for one in running:
            one.join()
    assert after == [5] * 4 and torch.get_num_threads() == 5


def test_eight_threads_on_one_model_give_what_one_gives(predictor):
    pictures = [picture(30 + 5 * i, 40) for i in range(8)]
    alone = [predictor.predict(p).to_json() for p in pictures]
    with ThreadPoolExecutor(8) as clients:
        for _ in range(3):
            together = list(clients.map(lambda p: predictor.predict(p).to_json(), pictures))
            assert together == alone
    assert [p.to_json() for p in predictor.predict_many(pictures)] == alone


def test_a_picture_that_fails_beside_others_says_so(threads):
    threads(2)
    with pytest.raises(ZeroDivisionError):
        SideBySide().map(lambda i: 1 // i, [1, 0, 2])
    assert torch.get_num_threads() == 2


def test_the_heap_is_trimmed_every_so_many_pictures():
    trimmer, calls = HeapTrimmer(every=4), []
    trimmer._trim = calls.append
    for pictures in (3, 1, 2, 1, 5):
        trimmer.done(pictures)
    assert calls == [0, 0]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (400, 2)])
def test_pictures_of_odd_shape_are_no_problem(predictor, size):
    assert predictor.predict(picture(*size)).image_size == size


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((5, 4, 2), np.uint8), "expected h×w×3"),
        (np.zeros((0, 4, 3), np.uint8), "is empty"),
        (None, "got None, expected a path"),
        ("https://host/photo.jpg", "--urls"),
    ],
)
def test_what_is_no_picture_says_what_is_expected(predictor, given, message):
    with pytest.raises(ImageError, match=message):
        predictor.predict(given)


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="device 'warp'"):
        Predictor(FakeSystem(), device="warp")


# -- weights


def test_a_weights_file_rebuilds_its_model(tmp_path):
    from humanquery.backbones import TimmBackbone
    from humanquery.media.letterbox import LetterboxConfig
    from humanquery.models.hqnet.config import (
        HQNetConfig,
        TasksConfig,
        TransformerConfig,
    )

    config = HQNetConfig(
        backbone=TimmBackbone("test_resnet", frozen_stages=0),
        transformer=TransformerConfig(
            dim=32, heads=4, points=2, levels=3, encoder_layers=1, decoder_layers=1, feedforward=32
        ),
        tasks=TasksConfig(keypoints=None, keypoint_confidence=None, age=None),
        denoising=None,
        num_queries=10,
        num_persons=5,
        input=LetterboxConfig(64, 64),
    )
    model = HQNet(config).eval()
    save_weights(tmp_path / "m.safetensors", model, {"score_threshold": 0.0})
    again = load(tmp_path / "m.safetensors", "cpu")
    assert again.system.config == config
    people = again.predict(picture(60, 80))
    assert (
        len(people) == 5
        and people.keypoints is None
        and people.age is None
        and people.gender is not None
    )
    assert again.default_score == 0.0


def test_a_model_as_it_was_trained_keeps_its_norms_and_exported_files_have_none():
    system, card = trained("hqnet-small")
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in system.modules())
    assert card["name"] == "hqnet-small" and not system.training
    with pytest.raises(CheckpointError, match=r"m\.onnx: an exported file only looks at pictures"):
        trained("m.onnx")


def test_unknown_weights_offer_what_there_is():
    with pytest.raises(CheckpointError, match="no weights named 'hqnet-smal'"):
        find_weights("hqnet-smal")
    with pytest.raises(CheckpointError, match="humanquery train --recipe hqnet_r50"):
        find_weights("hqnet-r50")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_pickle_is_never_opened(tmp_path, name):
    torch.save({"a": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(CheckpointError, match="humanquery convert"):
        load(tmp_path / name, "cpu")


# -- folders


def test_files_folders_globs_and_lists_are_found_once(tmp_path):
    for name in ("a.jpg", "b.png", "notes.txt", "deep/c.webp"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    folder = find_pictures([str(tmp_path)])
    assert [Path(p).name for p in folder] == ["a.jpg", "b.png", "c.webp"]
    assert (
        len(find_pictures([str(tmp_path), str(tmp_path / "a.jpg"), str(tmp_path / "*.png")])) == 3
    )
    listed = find_pictures(["-"], listing=io.StringIO(f"{tmp_path}/a.jpg\n\n{tmp_path}/b.png\n"))
    assert [Path(p).name for p in listed] == ["a.jpg", "b.png"]
    with pytest.raises(ConfigError, match="no picture found"):
        find_pictures([str(tmp_path / "*.tiff")])


def test_pictures_that_share_a_name_take_their_folders_name_in_front():
    names = ["a/1.png", "b/1.png", "b/1.jpg", "c/2.png", "https://host/d/3.png?size=1"]
    stems = ["a_1_png", "b_1_png", "b_1_jpg", "2", "3"]
    assert picture_stems(names) == dict(zip(names, stems, strict=True))


def test_a_folder_gives_a_picture_and_a_json_each_and_one_coco_file(predictor, tmp_path):
    for i in range(3):
        write_image(tmp_path / "in" / f"{i}.png", picture())
    result = predict_sources(
        predictor, [str(tmp_path / "in")], tmp_path / "out", score=0.0, batch_size=2
    )
    assert (result.done, result.people, result.exit_code) == (3, 6, 0)
    said = json.loads((tmp_path / "out" / "1.json").read_text())
    assert len(said["persons"]) == 2 and said["source"].endswith("1.png")
    assert (tmp_path / "out" / "1.jpg").is_file()
    rows = json.loads((tmp_path / "out" / "coco_results.json").read_text())
    images = json.loads((tmp_path / "out" / "images.json").read_text())
    assert {row["image_id"] for row in rows} == {image["id"] for image in images} == {1, 2, 3}
    assert len(rows[0]["keypoints"]) == 51 and rows[0]["segmentation"]["size"] == [30, 40]


def test_one_broken_file_is_named_and_the_rest_is_done(predictor, tmp_path):
    write_image(tmp_path / "good.png", picture())
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    (tmp_path / "words.jpg").write_text("not a picture")
    result = predict_sources(
        predictor, [str(tmp_path), str(tmp_path / "gone.jpg")], tmp_path / "out", pictures=False
    )
    assert result.done == 1 and result.exit_code == 1
    assert sorted(name.rsplit("/", 1)[-1] for name, _ in result.failed) == [
        "bad.png",
        "gone.jpg",
        "words.jpg",
    ]
    assert not (tmp_path / "out" / "good.jpg").exists()


def test_nothing_done_has_an_exit_code_of_its_own(predictor, tmp_path):
    (tmp_path / "bad.png").write_text("")
    assert predict_sources(predictor, [str(tmp_path / "bad.png")], tmp_path / "out").exit_code == 2
