"""Convolutions with TensorFlow's padding "same", for networks that come from there."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class SameConv2d(nn.Conv2d):
    """A convolution whose map is as large as the input's, over the stride, rounded up. The padding
    is wider on the right and below where it is odd."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _p _q"]:
        axes = zip(x.shape[2:], self.kernel_size, self.stride, self.dilation, strict=True)
        if torch.compiler.is_compiling():  # in a trace sizes are symbols, which cannot be compared
            (above, below), (left, right) = (_around(*axis) for axis in axes)
            return self._conv_forward(F.pad(x, (left, right, above, below)), self.weight, self.bias)
        # without a padded copy of the maps: the convolution pads more on both sides, and what it
        # gives for places before the first is left out
        (tall, above, top), (wide, beside, left) = (_symmetric(*axis) for axis in axes)
        out = F.conv2d(
            x, self.weight, self.bias, self.stride, (above, beside), self.dilation, self.groups
        )
        return out[:, :, top : top + tall, left : left + wide]


def _around(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """The padding before and after."""
    wanted = (size + stride - 1) // stride
    total = torch.sym_max((wanted - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def _symmetric(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int, int]:
    """Outputs that are wanted, the padding on both sides, and how many outputs come before them."""
    before, after = _around(size, kernel, stride, dilation)
    skipped = -(-(after - before) // stride)
    return -(-size // stride), before + skipped * stride, skipped
