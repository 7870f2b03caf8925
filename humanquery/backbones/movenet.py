"""The backbone of MoveNet MultiPose: a MobileNetV2 1.5x that has seen many people."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
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
    heads: bool = False
    """add what MoveNet's own pyramid and heads say about people (centres, boxes, joints) as further channels"""


HEADS = {"center": 1, "box_scale": 2, "box_offset": 2, "kpt_heatmap": 17, "kpt_regress": 34, "kpt_offset": 34}
"""MoveNet's output maps of stride 4 and their channels: logits of the maps of places, lengths in cells of the others"""
PYRAMID = {5: 64, 4: 64, 3: 32, 2: 24}


class MoveNetFeatures(Backbone):
    """C2..C5 are the maps that MoveNet's own pyramid reads: block groups 1, 2, 3 and the head convolution (1280 channels);
    with `heads`, what the pyramid and the heads make of them too (`MoveNetPeople`).

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
        self.people = MoveNetPeople(self.channels) if config.heads else None
        if self.people is not None:
            self.channels = tuple(c + more for c, more in zip(self.channels, self.people.channels, strict=True))
        if config.weights:
            fill(self, {_own_name(n): t for n, t in self._wanted(read_tensors(config.weights))}, config.weights)
        self.freeze_norms()
        if config.frozen_blocks:
            freeze([self.stem, *self.blocks[: config.frozen_blocks]])
        if config.frozen_blocks >= len(self.blocks):
            freeze([self.head, *([self.people] if self.people is not None else [])])

    def _wanted(self, tensors: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
        return [(n, t) for n, t in tensors.items() if n.startswith("backbone.") or self.people is not None]

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _c _h _w"]]:
        x, features = self.stem(images), []
        for i, group in enumerate(self.blocks):
            x = group(x)
            if i in (1, 2, 3):
                features.append(x)
        features.append(self.head(x))
        if self.people is None:
            return features
        return [torch.cat(pair, 1) for pair in zip(features, self.people(features), strict=True)]


class MoveNetPeople(nn.Module):
    """MoveNet's pyramid and heads, as channels for another network: one map per stride 4, 8, 16, 32.

    The heads' maps have stride 4. At stride 8 each cell holds its four, so nothing is lost; the coarser strides hold
    means. Lengths are squeezed by asinh, so that small and large people are of like size.
    """

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        lateral = {f"lateral{i}": nn.Conv2d(c, PYRAMID[i], 1) for i, c in enumerate(widths, 2)}
        merged = {f"dw{i}": _depthwise(PYRAMID[i]) for i in (4, 3, 2)}
        merged |= {f"pw{i}": nn.Conv2d(PYRAMID[i], PYRAMID[max(i - 1, 2)], 1) for i in (4, 3, 2)}
        self.fpn = nn.ModuleDict(lateral | merged)
        self.heads = nn.ModuleDict({name: _head(PYRAMID[2], count) for name, count in HEADS.items()})
        told = sum(HEADS.values())
        self.channels = (PYRAMID[2] + told, PYRAMID[2] + 4 * told, PYRAMID[3] + told, told)

    def forward(self, features: list[Float[Tensor, "b _c _h _w"]]) -> list[Float[Tensor, "b _c _h _w"]]:
        maps = self._pyramid(features)
        told = {name: head(maps[2]) for name, head in self.heads.items()}
        places = [told.pop(name).clamp(min=-8) for name in ("center", "kpt_heatmap")]
        cells = torch.cat([*places, *(torch.asinh(lengths / 4) for lengths in told.values())], 1)
        height, width = cells.shape[-2:]
        even = F.pad(cells, (0, width % 2, 0, height % 2), mode="replicate")
        return [
            torch.cat([maps[2], cells], 1),
            torch.cat([maps[3], F.pixel_unshuffle(even, 2)], 1),
            torch.cat([maps[4], F.avg_pool2d(cells, 4, ceil_mode=True)], 1),
            F.avg_pool2d(cells, 8, ceil_mode=True),
        ]

    def _pyramid(self, features: list[Tensor]) -> dict[int, Tensor]:
        """Maps by the power of two of their stride."""
        sides = {i: self.fpn[f"lateral{i}"](f) for i, f in enumerate(features, 2)}
        maps, x = {}, sides[5]
        for i in (4, 3, 2):
            x = F.interpolate(x, size=sides[i].shape[-2:], mode="bilinear", align_corners=False) + sides[i]
            x = maps[i] = self.fpn[f"pw{i}"](self.fpn[f"dw{i}"](x)).relu()
        return maps


def _depthwise(width: int) -> nn.Conv2d:
    return nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)


def _head(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(_depthwise(width), nn.Conv2d(width, 96, 1), nn.ReLU(), nn.Conv2d(96, count, 1))


def _norm_like(norm: nn.Module, channels: int) -> nn.Module:
    """The same norm-and-activation layer for another width."""
    return type(norm)(channels, act_layer=nn.ReLU6)


def _own_name(name: str) -> str:
    if not name.startswith("backbone."):
        return f"people.{name}"
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
