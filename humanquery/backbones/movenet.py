"""The backbone of MoveNet MultiPose: a MobileNetV2 1.5x that has seen many people."""

from dataclasses import dataclass

from jaxtyping import Float
from timm.layers import create_conv2d
from timm.models.efficientnet import _gen_mobilenet_v2
from torch import Tensor, nn

from humanquery.backbones.parts import Backbone, fill, freeze, read_tensors


@dataclass(frozen=True)
class MoveNetBackbone:
    """`weights`: a local file with MoveNet's parameters under `backbone.` (its batch norms are folded into biases)."""

    weights: str = ""
    frozen_blocks: int = 2
    """the stem and so many of the seven block groups stay fixed; 0 trains all, 7 fixes the head convolution too"""
    width: float = 1.5


class MoveNetFeatures(Backbone):
    """C2..C5 are the maps that MoveNet's own pyramid reads: block groups 1, 2, 3 and the head convolution (1280 channels).

    TensorFlow's padding: sides should be multiples of 32. Norms are always frozen, since the file holds them folded.
    """

    mean = std = (0.5, 0.5, 0.5)

    def __init__(self, config: MoveNetBackbone):
        super().__init__()
        body = _gen_mobilenet_v2("mobilenetv2_100", config.width, pad_type="same", num_classes=0)
        last = body.conv_head.in_channels
        body.conv_head = create_conv2d(last, 1280, 1, padding="same")
        self.stem = nn.Sequential(body.conv_stem, body.bn1)
        self.blocks = body.blocks
        self.head = nn.Sequential(body.conv_head, _norm_like(body.bn2, 1280))
        widths = [group[-1].conv_pwl.out_channels for group in body.blocks[1:4]]
        self.channels = (*widths, 1280)
        if config.weights:
            tensors = {_own_name(n): t for n, t in read_tensors(config.weights).items() if n.startswith("backbone.")}
            fill(self, tensors, config.weights)
        self.freeze_norms()
        if config.frozen_blocks:
            freeze([self.stem, *self.blocks[: config.frozen_blocks]])
        if config.frozen_blocks >= len(self.blocks):
            freeze([self.head])

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _c _h _w"]]:
        x, features = self.stem(images), []
        for i, group in enumerate(self.blocks):
            x = group(x)
            if i in (1, 2, 3):
                features.append(x)
        return [*features, self.head(x)]


def _norm_like(norm: nn.Module, channels: int) -> nn.Module:
    """The same norm-and-activation layer for another width."""
    return type(norm)(channels, act_layer=nn.ReLU6)


def _own_name(name: str) -> str:
    name = name.removeprefix("backbone.")
    for theirs, ours in (
        ("conv_stem.", "stem.0."),
        ("bn1.", "stem.1."),
        ("conv_head.", "head.0."),
        ("bn2.", "head.1."),
    ):
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return name
