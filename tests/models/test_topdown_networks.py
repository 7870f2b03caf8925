import re

import pytest
import torch
from torch import nn

from humanquery.core.errors import CheckpointError
from humanquery.models.topdown.config import FastPoseConfig, HRNetConfig, SimplePoseConfig
from humanquery.models.topdown.convert import from_released, infer_config, read_released
from humanquery.models.topdown.networks import (
    BLOCKS,
    DeformableConv,
    ResNet,
    Squeeze,
    build_network,
)


def released_resnet(depth: int, *, squeeze=True, deformable=False, unshuffle=False) -> dict:
    """Names and shapes as the specification lists them, without our classes."""
    state, channels = {"preact.conv1.weight": (64, 3, 7, 7)} | norm("preact.bn1", 64), 64
    for stage, count in enumerate(BLOCKS[depth]):
        p = 64 * 2**stage
        for i in range(count):
            at = f"preact.layer{stage + 1}.{i}."
            wide = 4 * p if unshuffle and stage and not i else p
            state |= {
                at + "conv1.weight": (p, channels, 1, 1),
                at + "conv2.weight": (p, wide, 3, 3),
                at + "conv3.weight": (4 * p, p, 1, 1),
            }
            state |= norm(at + "bn1", p) | norm(at + "bn2", p) | norm(at + "bn3", 4 * p)
            if deformable and stage:
                state |= {
                    at + "conv2_offset.weight": (18, p, 3, 3),
                    at + "conv2_offset.bias": (18,),
                }
            if not i:
                state |= {at + "downsample.0.weight": (4 * p, channels, 1, 1)}
                state |= norm(at + "downsample.1", 4 * p)
                for fc in (0, 2) if squeeze else ():
                    state |= {
                        at + f"se.fc.{fc}.weight": (4 * p, 4 * p),
                        at + f"se.fc.{fc}.bias": (4 * p,),
                    }
            channels = 4 * p
    return state


def norm(name: str, channels: int) -> dict:
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{kind}": (channels,) for kind in kinds} | {f"{name}.num_batches_tracked": ()}


def fastpose(width: int, joints: int) -> dict:
    state = {
        "duc1.conv.weight": (1024, 512, 3, 3),
        "duc2.conv.weight": (4 * width, 256, 3, 3),
        "conv_out.weight": (joints, width, 3, 3),
        "conv_out.bias": (joints,),
    }
    return state | norm("duc1.bn", 1024) | norm("duc2.bn", 4 * width)


def fastpose_duc(joints: int) -> dict:
    state = {"conv_out.weight": (joints, 256, 3, 3), "conv_out.bias": (joints,)}
    for stage, (width, convolutions, outputs) in enumerate(
        [(512, 4, 1024), (256, 2, 512), (128, 1, 256)]
    ):
        for i in range(convolutions):
            into = outputs if i == convolutions - 1 else width
            state |= {f"duc{stage + 1}.{1 + 3 * i}.weight": (into, width, 3, 3)}
            state |= norm(f"duc{stage + 1}.{2 + 3 * i}", into)
    return state


def simplepose(joints: int) -> dict:
    state = {"final_layer.weight": (joints, 256, 1, 1), "final_layer.bias": (joints,)}
    for i, inputs in zip((0, 3, 6), (2048, 256, 256), strict=True):
        state |= {f"deconv_layers.{i}.weight": (inputs, 256, 4, 4)} | norm(
            f"deconv_layers.{i + 1}", 256
        )
    return state


FAMILIES = {
    "COCO-17": (released_resnet(50) | fastpose(128, 17), FastPoseConfig()),
    "Halpe-136": (released_resnet(50) | fastpose(256, 136), FastPoseConfig(width=256)),
    "DCN": (
        released_resnet(50, deformable=True) | fastpose(256, 133),
        FastPoseConfig(deformable=True, width=256),
    ),
    "DUC": (released_resnet(50) | fastpose_duc(17), FastPoseConfig(upsampling="duc")),
    "DUC, plain": (
        released_resnet(50, squeeze=False) | fastpose_duc(17),
        FastPoseConfig(upsampling="duc", squeeze=False),
    ),
    "DUC, unshuffled": (
        released_resnet(50, unshuffle=True) | fastpose_duc(17),
        FastPoseConfig(upsampling="duc", unshuffle=True),
    ),
    "SimplePose": (released_resnet(50, squeeze=False) | simplepose(17), SimplePoseConfig()),
}


def made_up(shapes: dict) -> dict:
    """Zeros that take no memory, but for the last bias."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_released_checkpoint_fits_without_rest(family):
    shapes, config = FAMILIES[family]
    state = made_up(shapes)
    bias = next(n for n in shapes if re.match("(conv_out|final_layer).bias", n))
    state[bias] = torch.arange(float(shapes[bias][0]))
    network, found = from_released({f"module.{n}": v for n, v in state.items()})
    assert found == config and not network.training
    assert network.head.bias.tolist() == state[bias].tolist()
    assert not network.backbone.conv1.weight.any()


@pytest.mark.parametrize("depth", [101, 152])
def test_deeper_networks_are_told_by_their_blocks(depth):
    shapes = released_resnet(depth) | fastpose(256, 136)
    assert infer_config(made_up(shapes)) == (FastPoseConfig(depth=depth, width=256), 136)


def test_an_hrnet_keeps_its_names_and_the_head_is_the_final_layer():
    network = build_network(HRNetConfig(18), 17)
    released = {
        n.removeprefix("backbone.").replace("head.", "final_layer."): v
        for n, v in network.state_dict().items()
    }
    assert (
        "stage4.2.fuse_layers.0.1.0.weight" in released
        and "stage4.2.fuse_layers.1.0.0.0.weight" not in released
    )
    loaded, config = from_released(released)
    assert config == HRNetConfig(18)
    copy = loaded.state_dict()
    assert all(torch.equal(v, copy[n]) for n, v in network.state_dict().items())


@pytest.mark.parametrize(
    "config",
    [
        FastPoseConfig(deformable=True),
        FastPoseConfig(upsampling="paper"),
        FastPoseConfig(upsampling="duc", unshuffle=True),
        SimplePoseConfig(),
        HRNetConfig(18),
    ],
)
def test_every_network_gives_maps_of_a_quarter(config):
    network = build_network(config, 5).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 64, 32)).shape == (1, 5, 16, 8)


def test_squeezing_stands_in_the_first_block_of_a_stage_alone():
    resnet = ResNet(FastPoseConfig())
    places = [name for name, module in resnet.named_modules() if isinstance(module, Squeeze)]
    assert places == [f"layer{stage}.0.se" for stage in (1, 2, 3, 4)]


def test_the_plain_resnet_is_torchvisions():
    torchvision = pytest.importorskip("torchvision")
    theirs, ours = torchvision.models.resnet50(weights=None), ResNet(FastPoseConfig(squeeze=False))
    kept = {n: v for n, v in theirs.state_dict().items() if not n.startswith("fc.")}
    ours.load_state_dict(kept)
    stages = nn.Sequential(*list(theirs.children())[:-2]).eval()
    crops = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(crops), stages(crops))


def test_a_deformable_convolution_samples_dy_dx_tap_by_tap():
    conv = DeformableConv(1, 1, 1)
    maps = torch.rand(1, 1, 6, 6)
    plain = nn.functional.conv2d(maps, conv.weight, padding=1)
    torch.testing.assert_close(conv(maps), plain)
    conv.offset.bias.data[0::2] = 1.0  # dy of every tap: one row down
    torch.testing.assert_close(conv(maps)[..., :-2, :], plain[..., 1:-1, :])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("duc1.conv.weight"), "1 missing .'upsample.1.0.weight'"),
        (lambda s: s.update({"extra.weight": torch.zeros(1)}), "1 unexpected .'extra.weight'"),
        (lambda s: s.pop("conv_out.weight"), "no 'conv_out.weight' and no 'final_layer.weight'"),
        (lambda s: s.pop("preact.layer3.5.conv1.weight"), r"stages of \(3, 4, 5, 3\) blocks"),
        (lambda s: s.update({"duc1.conv.weight": torch.zeros(1, 512, 3, 3)}), "1 of another shape"),
    ],
)
def test_checkpoints_that_do_not_fit_are_named(change, message):
    state = made_up(FAMILIES["COCO-17"][0])
    change(state)
    with pytest.raises(CheckpointError, match=message):
        from_released(state)


def test_files_that_are_no_checkpoint_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_released(tmp_path / "none.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="list.pth: holds no state dict"):
        read_released(tmp_path / "list.pth")
