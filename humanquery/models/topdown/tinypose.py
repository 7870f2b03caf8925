"""PP-TinyPose's released weights as ours: 17 joints, 256 × 192, Apache-2.0 (PaddleDetection)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from humanquery.core.errors import CheckpointError
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.models.topdown.config import LiteHRNetConfig, TopDownConfig
from humanquery.models.topdown.lite_hrnet import LiteHRNet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""of red, green, blue in 0..1, as TinyPose was trained"""
HALF_PRECISION = 0x01306B47
"""mark of a float16 array in an ncnn file"""
CROP = (256, 192)


def tinypose_config() -> TopDownConfig:
    """The system that reads TinyPose's 17 joints."""
    return TopDownConfig(
        skeleton="coco17",
        network=LiteHRNetConfig(),
        input_size=CROP,
        mean=MEAN,
        joints_by="heatmap",
        flip_test=False,
        nms=False,
    )


def read_tinypose(path: Path | str) -> dict[str, Tensor]:
    """The state dict of a `LiteHRNet` of 17 joints from an ncnn `.bin` of TinyPose at 256 × 192.

    The division by `STD` is part of the first convolution, since a `TopDown` only subtracts a mean.
    A file that does not fit to the last byte raises CheckpointError.
    """
    network = LiteHRNet(LiteHRNetConfig(), 17)
    convolutions = _in_order(network)
    try:
        data = Path(path).read_bytes()
    except OSError as problem:
        raise CheckpointError(f"{path}: cannot be read ({problem.strerror})") from None
    at = 0
    with torch.no_grad():
        for i, convolution in enumerate(convolutions):
            for values, marked in ((convolution.weight, True), (convolution.bias, False)):
                found, at = _array(data, at, values.numel(), marked)
                if found is None:
                    raise CheckpointError(
                        f"{path}: ends in convolution {i} of {len(convolutions)} of TinyPose; "
                        "expected tinypose_256x192.bin in ncnn's format"
                    )
                values.copy_(torch.from_numpy(found).view_as(values))
    if at != len(data):
        raise CheckpointError(
            f"{path}: {len(data) - at} bytes are left after the last convolution of TinyPose; "
            "expected tinypose_256x192.bin in ncnn's format"
        )
    state = network.state_dict()
    state["stem.conv.0.weight"] = state["stem.conv.0.weight"] / torch.tensor(STD).view(1, 3, 1, 1)
    return state


PARENTS = {"face": "nose", "lefthand": "left_wrist", "righthand": "right_wrist"}
"""parts whose joints start as the body joint that they hang on, and are learned as coordinates"""
SHARPER, LOWER = 15.0, -9.0
"""heat of a joint (0..1) to the logit of a part's joint: such a map has its mean at the parent, not
at the middle of the crop"""


@torch.no_grad()
def start_from_tinypose(network: LiteHRNet, skeleton: Skeleton, path: Path | str) -> None:
    """Fills a network that reads another skeleton: the joints that TinyPose has are its own, those
    of face and hands begin at `PARENTS`, those of the feet at the ankles, others at zero."""
    state = read_tinypose(path)
    names = COCO17.joints
    weight, bias = state.pop("head.weight"), state.pop("head.bias")
    own = network.state_dict()
    network.load_state_dict(own | state)
    head = network.head
    head.weight.zero_()
    head.bias.zero_()
    fine = {
        i: names.index(parent)
        for part, parent in PARENTS.items()
        for i in range(*skeleton.parts.get(part, (0, 0)))
    }
    for i, joint in enumerate(skeleton.joints):
        if joint in names:
            head.weight[i], head.bias[i] = weight[names.index(joint)], bias[names.index(joint)]
        elif i in fine:
            head.weight[i] = SHARPER * weight[fine[i]]
            head.bias[i] = SHARPER * bias[fine[i]] + LOWER
        elif i in range(*skeleton.parts.get("foot", (0, 0))):
            ankle = names.index(f"{skeleton.side(i)}_ankle")
            head.weight[i], head.bias[i] = weight[ankle], bias[ankle]


def _in_order(network: nn.Module) -> list[nn.Conv2d]:
    """Convolutions in the order in which they run, which is that of the file."""
    order: list[nn.Conv2d] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: order.append(module))
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    return order


def _array(data: bytes, at: int, count: int, marked: bool) -> tuple[np.ndarray | None, int]:
    """`count` numbers from byte `at`, and the byte after them; None where the file ends before.

    ncnn puts a mark before weights, which says whether they are float16, and nothing before biases.
    """
    kind = np.dtype("<f4")
    if marked:
        if at + 4 > len(data):
            return None, at
        half = int.from_bytes(data[at : at + 4], "little") == HALF_PRECISION
        kind, at = np.dtype("<f2") if half else kind, at + 4
    size = count * kind.itemsize
    if at + size > len(data):
        return None, at
    values = np.frombuffer(data, kind, count, at).astype(np.float32)
    return values, at + -(-size // 4) * 4


def convert_file(source: Path, destination: Path) -> list[str]:
    """TinyPose's ncnn `.bin` to our .safetensors; returns notices. Raises CheckpointError."""
    from humanquery.engine.checkpoint import save_state_dict

    state = {f"network.{name}": value for name, value in read_tinypose(source).items()}
    card = {
        "name": "TinyPose",
        "source": "converted from PP-TinyPose (PaddleDetection), 17 joints, 256 x 192",
        "licences": {"code": "Apache-2.0", "weights": "Apache-2.0", "data": "COCO, AI Challenger"},
    }
    save_state_dict(Path(destination), state, tinypose_config(), card)
    return ["coco17, joints read as heatmap"]
