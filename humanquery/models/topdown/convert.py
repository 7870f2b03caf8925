"""Released AlphaPose checkpoints as ours: names, and the config read from names and shapes.

The files are for non-commercial research and may not be passed on; who has one can load it.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from humanquery.core.errors import CheckpointError, ConfigError, nearest
from humanquery.models.topdown.config import (
    FastPoseConfig,
    HRNetConfig,
    SimplePoseConfig,
    TopDownConfig,
)
from humanquery.models.topdown.networks import BLOCKS, NetworkConfig, build_network

# released name -> ours, tried in order
_BACKBONE = [(r"^preact\.", "backbone."), (r"\.conv2_offset\.", ".conv2.offset.")]
_SHUFFLE = [
    (r"^duc1\.conv\.", "upsample.1.0."),
    (r"^duc1\.bn\.", "upsample.1.1."),
    (r"^duc2\.conv\.", "upsample.2.0."),
    (r"^duc2\.bn\.", "upsample.2.1."),
    (r"^conv_out\.", "head."),
]
_DUC = [
    (r"^duc1\.", "upsample.0."),
    (r"^duc2\.", "upsample.1."),
    (r"^duc3\.", "upsample.2."),
    (r"^conv_out\.", "head."),
]
_SIMPLE = [(r"^deconv_layers\.", "upsample."), (r"^final_layer\.", "head.")]
_HRNET = [(r"^final_layer\.", "head."), (r"^(?!head\.)", "backbone.")]


def infer_config(state: Mapping[str, Tensor]) -> tuple[NetworkConfig, int]:
    """The network of a released state dict and its number of joints. Raises CheckpointError."""
    out = state.get("conv_out.weight", state.get("final_layer.weight"))
    if out is None:
        raise CheckpointError(
            "AlphaPose checkpoint: no 'conv_out.weight' and no 'final_layer.weight' among "
            f"{len(state)} tensors {sorted(state)[:4]}; expected FastPose, SimplePose or HRNet"
        )
    if "stage2.0.branches.0.0.conv1.weight" in state:
        return HRNetConfig(_choice(out.shape[1], (18, 32, 48), "width of the HRNet")), len(out)
    depth = _depth(state)
    if any(name.startswith("deconv_layers.") for name in state):
        return SimplePoseConfig(depth), len(out)
    return FastPoseConfig(
        depth=depth,
        squeeze="preact.layer1.0.se.fc.0.weight" in state,
        deformable="preact.layer2.0.conv2_offset.weight" in state,
        unshuffle=_is_unshuffled(state),
        upsampling="duc" if any(n.startswith("duc3.") for n in state) else "shuffle",
        width=128 if any(n.startswith("duc3.") for n in state) else out.shape[1],
    ), len(out)


def _is_unshuffled(state: Mapping[str, Tensor]) -> bool:
    """The 3×3 convolution of a halving block then sees four times its channels."""
    names = ("preact.layer2.0.conv2.weight", "preact.layer2.0.conv2.1.weight")
    weight = next((state[name] for name in names if name in state), None)
    return weight is not None and weight.shape[1] == 4 * weight.shape[0]


def _depth(state: Mapping[str, Tensor]) -> int:
    found = tuple(
        len({m[1] for n in state if (m := re.match(rf"preact\.layer{stage}\.(\d+)\.conv1", n))})
        for stage in (1, 2, 3, 4)
    )
    depth = next((depth for depth, blocks in BLOCKS.items() if blocks == found), None)
    if depth is None:
        raise CheckpointError(
            f"AlphaPose checkpoint: stages of {found} blocks, expected one of {BLOCKS}; "
            "is this a ResNet-50, -101 or -152?"
        )
    return depth


def _choice(value: int, known: tuple[int, ...], what: str) -> int:
    if value not in known:
        raise CheckpointError(f"AlphaPose checkpoint: {what} is {value}, expected one of {known}")
    return value


def _fast_pose(config: FastPoseConfig) -> list[tuple[str, str]]:
    table = _BACKBONE + (_DUC if config.upsampling == "duc" else _SHUFFLE)
    if config.unshuffle:
        table = [*table, (r"(layer[234]\.0\.conv2)\.weight$", r"\1.1.weight")]
    return table


_TABLES: dict[type, Callable[[Any], list[tuple[str, str]]]] = {
    FastPoseConfig: _fast_pose,
    SimplePoseConfig: lambda config: _BACKBONE + _SIMPLE,
    HRNetConfig: lambda config: _HRNET,
}
"""type of a config -> (pattern of a released name, ours) in the order in which they apply"""


def our_name(released: str, config: NetworkConfig) -> str:
    """What we call a tensor of a released state dict."""
    name = released
    for pattern, ours in _TABLES[type(config)](config):
        name = re.sub(pattern, ours, name)
    return name


def from_released(state: Mapping[str, Tensor]) -> tuple[nn.Module, NetworkConfig]:
    """The network with the released weights, in eval mode, and its config.

    Names and shapes must fit without rest: CheckpointError names what does not.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    config, num_joints = infer_config(state)
    with torch.device("meta"):  # no time for weights that are replaced at once
        network = build_network(config, num_joints)
    wanted = {n: v for n, v in network.state_dict().items() if "num_batches" not in n}
    ours = {our_name(n, config): v for n, v in state.items() if "num_batches" not in n}
    missing, extra = sorted(wanted.keys() - ours.keys()), sorted(ours.keys() - wanted.keys())
    other = sorted(n for n in wanted.keys() & ours.keys() if wanted[n].shape != ours[n].shape)
    if missing or extra or other:
        raise CheckpointError(
            f"AlphaPose checkpoint does not fit {config}: {len(missing)} missing {missing[:3]}, "
            f"{len(extra)} unexpected {extra[:3]}, {len(other)} of another shape {other[:3]}"
        )
    counters = {
        n: torch.zeros_like(v, device="cpu")
        for n, v in network.state_dict().items()
        if n not in wanted
    }
    network.load_state_dict({n: v.clone() for n, v in ours.items()} | counters, assign=True)
    return network.eval(), config


def read_released(path: Path | str) -> dict[str, Tensor]:
    """The state dict of a released .pth; nothing in the file is executed. Raises
    CheckpointError."""
    try:
        loaded: Any = torch.load(Path(path), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as problem:  # torch raises many kinds for broken and for unsafe files
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint of tensors ({type(problem).__name__}); "
            "expected a released AlphaPose .pth"
        ) from None
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise CheckpointError(f"{path}: holds no state dict; expected a released AlphaPose .pth")
    return dict(loaded)


SKELETONS = {
    17: "coco17",
    21: "hand21",
    26: "halpe26",
    68: "halpe68",
    133: "coco_wholebody133",
    136: "halpe136",
}
"""number of joints of a released model -> their layout"""
HEATMAP_MODELS = (17, 26)
"""numbers of joints whose released models are read as heat maps, most of the others as SIKR"""
READINGS = ("auto", "heatmap", "integral", "combined")


def released_config(network: NetworkConfig, num_joints: int, joints_by: str) -> TopDownConfig:
    """How a released model's joints are read; `joints_by` "auto" goes by their number, which the
    weights alone cannot tell for sure. An unknown name raises ConfigError, an unknown number
    CheckpointError."""
    if joints_by not in READINGS:
        raise ConfigError(f"--joints-by {joints_by}: unknown.{nearest(joints_by, READINGS)}")
    if num_joints not in SKELETONS:
        raise CheckpointError(
            f"AlphaPose checkpoint: {num_joints} joints, expected one of {sorted(SKELETONS)}"
        )
    if joints_by == "auto":
        joints_by = "heatmap" if num_joints in HEATMAP_MODELS else "integral"
    # the loss weights are those of the released combined models; others have 1
    combined = joints_by == "combined"
    return TopDownConfig(
        skeleton=SKELETONS[num_joints],
        network=network,
        joints_by=joints_by,
        heatmap_loss=100.0 if combined else 1.0,
        coordinate_loss=0.01 if combined else 1.0,
    )


def convert_file(source: Path, destination: Path, joints_by: str = "auto") -> list[str]:
    """A released .pth to our .safetensors; returns notices. Raises CheckpointError."""
    from humanquery.engine.checkpoint import save_state_dict

    module, network = from_released(read_released(source))
    config = released_config(network, module.head.out_channels, joints_by)
    card = {
        "name": f"{Path(source).stem} (released by AlphaPose)",
        "source": "converted from AlphaPose's release",
        "score_threshold": 0.1,
        "licences": {
            "code": "Apache-2.0",
            "weights": "non-commercial research, not to be passed on: AlphaPose's licence",
            "data": "see the release",
        },
    }
    state = {f"network.{name}": value for name, value in module.state_dict().items()}
    save_state_dict(Path(destination), state, config, card)
    notice = f"{config.skeleton}, joints read as {config.joints_by}"
    if joints_by == "auto":
        notice += " (by their number; --joints-by says otherwise)"
    return [notice]
