"""MobileNetV2 without timm, which takes longer to import than this network to load."""

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from humanquery.backbones.parts import Backbone, fill, freeze, read_tensors
from humanquery.backbones.timm_features import TimmBackbone, timm_names
from humanquery.nn.same_padding import SameConv2d

STEM = 32
GROUPS = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
"""(channels, blocks, stride of the first block) of the seven groups of blocks (Sandler et al. 2018,
table 2)"""
EXPANSION = 6
LAST_OF_STRIDE = (1, 2, 4, 6)
"""the group that gives the map of stride 4, 8, 16, 32"""
WHOLE = "mobilenetv2_100"
"""timm's name of the network that `MobileNetFeatures` builds"""


class MobileNetV2(nn.Module):
    """Stem and groups of blocks, with the names that timm gives to parameters. `width` multiplies
    all channels; `conv` is the class of convolutions that see more than one pixel."""

    def __init__(self, width: float = 1.0, conv: type[nn.Conv2d] = nn.Conv2d):
        super().__init__()
        channels = round_channels(STEM * width)
        self.conv_stem = _wide(conv, 3, channels, 2)
        self.bn1 = nn.BatchNorm2d(channels)
        groups = []
        for index, (base, count, stride) in enumerate(GROUPS):
            outputs, blocks = round_channels(base * width), []
            for i in range(count):
                kind = InvertedResidual if index else SeparableConv
                blocks.append(kind(channels, outputs, 1 if i else stride, conv))
                channels = outputs
            groups.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*groups)
        self.widths = [group[-1].outputs for group in groups]
        """channels after each group"""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _start(module)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _c _h _w"]]:
        """The map after each group."""
        x, maps = F.relu6(self.bn1(self.conv_stem(images)), inplace=True), []
        for group in self.blocks:
            x = group(x)
            maps.append(x)
        return maps


class SeparableConv(nn.Module):
    """A depthwise convolution and one to `outputs` channels, which is not followed by ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, conv: type[nn.Conv2d]):
        super().__init__()
        self.outputs = outputs
        self.conv_dw = _wide(conv, inputs, inputs, stride, groups=inputs)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv_pw = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _h _w"]:
        return self.bn2(self.conv_pw(F.relu6(self.bn1(self.conv_dw(x)), inplace=True)))


class InvertedResidual(nn.Module):
    """Out to `EXPANSION` times the channels, depthwise there, back without ReLU, and the input
    added where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, conv: type[nn.Conv2d]):
        super().__init__()
        self.outputs, inner = outputs, round_channels(inputs * EXPANSION)
        self.adds_input = stride == 1 and inputs == outputs
        self.conv_pw = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv_dw = _wide(conv, inner, inner, stride, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv_pwl = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _h _w"]:
        inner = F.relu6(self.bn1(self.conv_pw(x)), inplace=True)
        out = self.bn3(self.conv_pwl(F.relu6(self.bn2(self.conv_dw(inner)), inplace=True)))
        return x + out if self.adds_input else out


class MobileNetFeatures(Backbone):
    """`TimmBackbone("mobilenetv2_100")` as a module with the parameters of `TimmFeatures`."""

    def __init__(self, config: TimmBackbone):
        super().__init__()
        self.body = MobileNetV2()
        self.channels = tuple(self.body.widths[i] for i in LAST_OF_STRIDE)
        if config.weights:
            fill(self.body, timm_names(read_tensors(config.weights), self.body), config.weights)
        if config.frozen_stages:
            last = LAST_OF_STRIDE[config.frozen_stages - 1]
            freeze([self.body.conv_stem, self.body.bn1, *self.body.blocks[: last + 1]])
        if config.frozen_norm:
            self.freeze_norms()

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _c _h _w"]]:
        maps = self.body(images)
        return [maps[i] for i in LAST_OF_STRIDE]


def round_channels(channels: float | int) -> int:
    """The multiple of 8 nearest to a number of channels, but never less than nine tenths of it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _wide(conv: type[nn.Conv2d], inputs: int, outputs: int, stride: int, groups: int = 1):
    """3×3 without bias; a convolution that pads by itself (`SameConv2d`) gets no padding."""
    padding = 0 if issubclass(conv, SameConv2d) else 1
    return conv(inputs, outputs, 3, stride, padding, groups=groups, bias=False)


def _start(conv: nn.Conv2d) -> None:
    """Normal with the variance 2 over the inputs that each input reaches (as EfficientNet)."""
    fan_out = math.prod(conv.kernel_size) * conv.out_channels // conv.groups
    nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_out))
