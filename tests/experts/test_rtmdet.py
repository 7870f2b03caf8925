"""RTMDet-nano rebuilt as a backbone."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from humanquery.core.affine import Affine2D, fit
from humanquery.core.boxes import iou
from humanquery.core.config import from_plain, to_plain
from humanquery.core.errors import CheckpointError
from humanquery.experts import AnyBackbone, RtmdetBackbone, build
from humanquery.media.images import read_image
from tests.paths import DATA, WEIGHTS, needs_data, needs_weights

FILE, ONNX = WEIGHTS / "rtmdet_nano_person.fp16.safetensors", WEIGHTS / "rtmdet_nano_person.onnx"


@pytest.fixture(scope="module")
def empty():
    torch.manual_seed(0)
    return build(RtmdetBackbone()).eval()


def normalised(backbone, picture: np.ndarray) -> torch.Tensor:
    images = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255
    return (images - torch.tensor(backbone.mean)[:, None, None]) / torch.tensor(backbone.std)[
        :, None, None
    ]


def photo(side: int, fill: int = 114) -> np.ndarray:
    record = json.loads((DATA / "people" / "val.json").read_text())["images"][1]
    picture = read_image(DATA / "people" / "images" / record["file_name"])
    matrix = Affine2D.resize(picture.shape[:2], fit(picture.shape[:2], side, side))
    return matrix.image(picture, (side, side), fill=fill)


@pytest.mark.parametrize("size", [(64, 96), (33, 70), (32, 32), (1, 1)])
def test_maps_and_guesses_have_the_told_sides_also_at_odd_sizes(empty, size):
    images = torch.rand(2, 3, *size)
    answers = empty.answer(images)
    sides = [tuple(-(-s // stride) for s in size) for stride in (4, 8, 16, 32)]
    assert empty.channels == (32, 192, 192, 192)
    assert [tuple(f.shape[1:]) for f in answers.features] == [
        (c, *side) for c, side in zip(empty.channels, sides, strict=True)
    ]
    cells = sum(h * w for h, w in sides[1:])
    assert tuple(answers.boxes.logits.shape) == (2, cells) and tuple(answers.boxes.boxes.shape) == (
        2,
        cells,
        4,
    )
    for told, seen in zip(empty(images), answers.features, strict=True):
        assert torch.equal(told, seen)


def test_odd_sides_are_padded_right_and_bottom_by_the_mean_colour(empty):
    images = torch.rand(1, 3, 40, 50)
    padded = torch.zeros(1, 3, 64, 64)
    padded[..., :40, :50] = images
    for cut, whole in zip(empty(images), empty(padded), strict=True):
        height, width = cut.shape[-2:]
        torch.testing.assert_close(cut, whole[..., :height, :width])


def test_guesses_of_equal_distances_are_boxes_about_each_cells_upper_left_corner():
    backbone = build(RtmdetBackbone())
    for level, conv in enumerate(backbone.bbox_head.rtm_reg):
        conv.weight.zero_()
        conv.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]) * (level + 1))
    boxes = backbone.answer(torch.rand(1, 3, 32, 64)).boxes.boxes[0]
    assert boxes[0].tolist() == [-8, -16, 24, 32]
    assert boxes[9].tolist() == [
        8 - 8,
        8 - 16,
        8 + 24,
        8 + 32,
    ]  # second row, second column of stride 8
    assert boxes[32 + 3].tolist() == [
        48 - 32,
        -64,
        48 + 96,
        128,
    ]  # first row, fourth column of stride 16
    assert boxes[-1].tolist() == [32 - 96, -192, 32 + 288, 384]


def test_all_parameters_are_frozen_and_no_norm_is_left(empty):
    assert not any(p.requires_grad for p in empty.train().parameters())
    assert not empty.batch_norms()
    assert not any(f.requires_grad for f in empty(torch.rand(1, 3, 32, 32)))
    assert sum(p.numel() for p in empty.parameters()) == 985_927


def test_without_its_head_only_the_neck_is_kept_and_nobody_is_named():
    backbone = build(RtmdetBackbone(head=False))
    assert (
        [f.shape[1] for f in backbone(torch.rand(1, 3, 32, 32))]
        == list(backbone.channels)
        == [32, 64, 64, 64]
    )
    assert backbone.answers_about == () and backbone.answer(torch.rand(1, 3, 32, 32)).boxes is None


def test_the_config_survives_plain_data():
    config = RtmdetBackbone("a.safetensors", head=False)
    assert from_plain(AnyBackbone, to_plain(config)) == config


def test_a_wrong_file_says_what_does_not_fit(tmp_path):
    with pytest.raises(CheckpointError, match="none.safetensors: no such file"):
        build(RtmdetBackbone(weights=str(tmp_path / "none.safetensors")))
    save_file({"layer9.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(
        CheckpointError, match="do not fit RtmdetFeatures: 246 missing.*1 unexpected"
    ):
        build(RtmdetBackbone(weights=str(tmp_path / "other.safetensors")))


@needs_weights
@pytest.mark.parametrize("head", [True, False])
def test_every_tensor_of_the_file_is_loaded(head):
    tensors = load_file(FILE)
    state = build(RtmdetBackbone(str(FILE), head=head)).state_dict()
    assert state.keys() == {n for n in tensors if head or not n.startswith("bbox_head.")}
    assert all(torch.equal(value, tensors[name].float()) for name, value in state.items())


@needs_weights
@needs_data
def test_it_says_what_the_onnx_file_says():
    """The file's numbers are rounded to 16 bits, the ONNX's are not: with the latter's all guesses
    agree to 5e-5 (logits) and 0.003 px. Rounding moves cells that see people by less than tested
    here, and those of the background by more."""
    runtime = pytest.importorskip("onnxruntime")
    backbone = build(RtmdetBackbone(str(FILE))).eval()
    images = normalised(backbone, photo(320))
    session = runtime.InferenceSession(str(ONNX), providers=["CPUExecutionProvider"])
    levels = session.run(None, {session.get_inputs()[0].name: images.flip(1).numpy()})
    told = torch.cat([torch.from_numpy(level).reshape(-1, 5) for level in levels])
    corners = torch.cat([_corners(side, 320 // side) for side in (40, 20, 10)])
    boxes = torch.cat([corners - told[:, 1:3], corners + told[:, 3:]], 1)
    answers = backbone.answer(images).boxes
    assert (answers.logits[0] - told[:, 0]).norm() < 0.03 * told[:, 0].norm()
    people = told[:, 0] > -1
    assert people.sum() > 3
    torch.testing.assert_close(answers.logits[0][people], told[people, 0], atol=0.02, rtol=0)
    torch.testing.assert_close(answers.boxes[0][people], boxes[people], atol=2, rtol=0)
    assert (answers.boxes[0][people] - boxes[people]).abs().mean() < 0.1


def _corners(side: int, stride: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return (torch.stack([x, y], -1) * stride).reshape(-1, 2)


@needs_weights
@needs_data
def test_the_colour_of_the_padding_changes_little():
    """The network learned with grey 114 around pictures; batches have the mean colour there."""
    backbone = build(RtmdetBackbone(str(FILE))).eval()
    grey = backbone.answer(normalised(backbone, photo(320, fill=114))).boxes
    images = normalised(backbone, photo(320, fill=0))
    images[normalised(backbone, photo(320, fill=1)) != images] = 0
    mean = backbone.answer(images).boxes
    best = int(grey.logits.argmax())
    assert abs(float(grey.logits[0, best].sigmoid() - mean.logits[0, best].sigmoid())) < 0.02
    assert float(iou(grey.boxes[0, [best]], mean.boxes[0, [best]])) > 0.97
