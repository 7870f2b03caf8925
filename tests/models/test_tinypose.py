"""TinyPose's file as a network of ours."""

from pathlib import Path

import numpy as np
import pytest
import torch

from humanquery.core.errors import CheckpointError
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.models.topdown.config import LiteHRNetConfig
from humanquery.models.topdown.lite_hrnet import LiteHRNet
from humanquery.models.topdown.tinypose import (
    HALF_PRECISION,
    STD,
    _in_order,
    read_tinypose,
    start_from_tinypose,
)
from tests.paths import WEIGHTS, needs_weights

WHOLE = Skeleton.named("coco_wholebody133")


def write_ncnn(path: Path, network: LiteHRNet, half: bool) -> None:
    """The weights of `network` as ncnn writes them."""
    out = b""
    for conv in _in_order(network):
        data = conv.weight.detach().numpy().astype("<f2" if half else "<f4").tobytes()
        out += (HALF_PRECISION if half else 0).to_bytes(4, "little")
        out += data + b"\0" * (-len(data) % 4)
        out += conv.bias.detach().numpy().astype("<f4").tobytes()
    path.write_bytes(out)


@pytest.fixture(scope="module")
def released() -> LiteHRNet:
    """With random weights."""
    torch.manual_seed(0)
    return LiteHRNet(LiteHRNetConfig(), 17).eval()


@pytest.mark.parametrize("half", [False, True])
def test_a_written_file_reads_back_with_the_division_in_the_first_layer(tmp_path, released, half):
    write_ncnn(tmp_path / "pose.bin", released, half)
    state = read_tinypose(tmp_path / "pose.bin")
    for name, value in released.state_dict().items():
        if name == "stem.conv.0.weight":
            value = value / torch.tensor(STD).view(1, 3, 1, 1)
        torch.testing.assert_close(state[name], value, atol=5e-3 if half else 1e-6, rtol=0)


def test_a_file_that_ends_early_or_late_or_is_absent_says_so(tmp_path, released):
    path = tmp_path / "pose.bin"
    write_ncnn(path, released, False)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(CheckpointError, match="ends in convolution 268 of 269"):
        read_tinypose(path)
    path.write_bytes(whole + b"\0" * 8)
    with pytest.raises(CheckpointError, match="8 bytes are left"):
        read_tinypose(path)
    with pytest.raises(CheckpointError, match="No such file"):
        read_tinypose(tmp_path / "absent.bin")


def test_joints_of_another_skeleton_start_as_those_they_hang_on(tmp_path, released):
    write_ncnn(tmp_path / "pose.bin", released, False)
    network = LiteHRNet(LiteHRNetConfig(detail=8), len(WHOLE)).eval()
    start_from_tinypose(network, WHOLE, tmp_path / "pose.bin")
    crops = torch.rand(1, 3, 64, 32)
    with torch.no_grad():
        theirs = released(crops / torch.tensor(STD).view(1, 3, 1, 1))[0]
        ours = network(crops)[0]
    torch.testing.assert_close(ours[:17], theirs, atol=1e-4, rtol=1e-3)
    heel = WHOLE.index("right_heel")
    ankle = theirs[COCO17.index("right_ankle")]
    torch.testing.assert_close(ours[heel], ankle, atol=1e-4, rtol=1e-3)
    fingertip = WHOLE.parts["lefthand"][1] - 1
    wrist = theirs[COCO17.index("left_wrist")]
    torch.testing.assert_close(ours[fingertip], 15 * wrist - 9, atol=1e-3, rtol=1e-3)


def test_heat_maps_have_a_quarter_of_the_crop_and_its_gradient():
    torch.manual_seed(0)
    network = LiteHRNet(LiteHRNetConfig(width=8, modules=(1, 1, 1), detail=4), 5)
    crops = torch.rand(2, 3, 96, 64, requires_grad=True)
    maps = network(crops)
    assert maps.shape == (2, 5, 24, 16)
    (maps**2).sum().backward()
    assert crops.grad.abs().sum() > 0
    assert all(p.grad is not None for p in network.parameters())


@needs_weights
def test_the_released_file_gives_the_heat_maps_of_ncnn():
    ncnn = pytest.importorskip("ncnn")
    folder = WEIGHTS / "teachers"
    network = LiteHRNet(LiteHRNetConfig(), 17).eval()
    network.load_state_dict(read_tinypose(folder / "tinypose_256x192.bin"))
    theirs = ncnn.Net()
    theirs.opt.num_threads = 1
    for name in ("use_fp16_storage", "use_fp16_arithmetic", "use_fp16_packed"):
        setattr(theirs.opt, name, False)
    theirs.load_param(str(folder / "tinypose_256x192.param"))
    theirs.load_model(str(folder / "tinypose_256x192.bin"))
    crop = torch.randn(1, 3, 256, 192, generator=torch.Generator().manual_seed(0))
    run = theirs.create_extractor()
    run.input("image", ncnn.Mat(np.ascontiguousarray(crop[0].numpy())))
    expected = torch.from_numpy(np.array(run.extract(theirs.output_names()[0])[1]))
    with torch.no_grad():
        found = network(crop * torch.tensor(STD).view(1, 3, 1, 1))[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
