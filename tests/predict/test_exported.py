"""An exported file, opened and looked with, with PyTorch and without: on a hand-made one, so that
nothing is traced."""

import numpy as np
import pytest
import torch

from humanquery import load
from humanquery.core.errors import CheckpointError, ConfigError
from tests.predict.handmade import write_handmade

pytest.importorskip("onnx", reason="needs humanquery[export]")
pytest.importorskip("onnxruntime", reason="needs humanquery[onnx]")


@pytest.fixture
def file(tmp_path):
    return write_handmade(tmp_path / "handmade.onnx")


def picture() -> np.ndarray:
    return np.full((128, 128, 3), 90, np.uint8)


def test_canvas_numbers_become_picture_pixels(file):
    people = load(file, "cpu").predict(picture(), score=0.0)
    assert people.boxes.tolist() == [
        [8, 16, 64, 120],
        [80, 0, 128, 128],
    ]  # twice the canvas, kept inside
    assert people.keypoints[0].tolist() == [[16, 32], [48, 64]]
    assert people.keypoint_scores.tolist() == [[0.75, 0.75], [0.5, 0.5]]
    assert people.skeleton.joints == ("left_end", "right_end") and people.skeleton.mirror_order == (
        1,
        0,
    )
    assert (
        people.masks[0, :, :64].all()
        and not people.masks[0, :, 64:].any()
        and not people.masks[1].any()
    )
    assert isinstance(people.boxes, torch.Tensor) and people.embeddings.shape == (2, 2)


def test_threshold_and_tasks_are_those_of_a_predictor(file):
    predictor = load(file, "cpu")
    assert predictor.default_score == 0.5 and len(predictor.predict(picture())) == 1
    nobody = predictor.predict(picture(), score=0.95)
    assert len(nobody) == 0 and nobody.masks.shape == (0, 128, 128)
    plain = predictor.predict(picture(), attributes=False)
    assert plain.age is None and plain.gender is None and plain.masks is not None
    assert predictor.predict(picture(), tasks=["age"]).keypoints is None


def test_what_is_no_exported_file_is_told(tmp_path):
    with pytest.raises(
        CheckpointError, match="does not exist; `humanquery export` writes such a file"
    ):
        load(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(CheckpointError, match="text.onnx: onnxruntime cannot open it"):
        load(tmp_path / "text.onnx")
    with pytest.raises(CheckpointError, match="bare.onnx: no facts of humanquery in this file"):
        load(write_handmade(tmp_path / "bare.onnx", metadata=False))
    with pytest.raises(
        CheckpointError, match="export format 99, this humanquery reads 4; update it"
    ):
        load(write_handmade(tmp_path / "new.onnx", format_version=99))
    with pytest.raises(
        CheckpointError, match="export format 2, this humanquery reads 4; export the weights again"
    ):
        load(write_handmade(tmp_path / "old.onnx", format_version=2))


def test_a_device_that_is_not_there_and_uses_that_need_weights_are_told(file):
    with pytest.raises(ConfigError, match="device 'warp' cannot be used by onnxruntime"):
        load(file, "warp")
    with pytest.raises(CheckpointError, match="give the weights it was made from"):
        _ = load(file, "cpu").system
