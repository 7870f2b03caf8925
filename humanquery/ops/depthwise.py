"""Depthwise convolutions with strides, whose backward in bf16 oneDNN computes without vector
code on CPUs with AVX-512."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import conv2d


class StridedDepthwise(nn.Conv2d):
    """A depthwise `Conv2d` with a stride, with the same values and gradients.

    With bf16 maps on the CPU the gradient is that of the convolution without stride whose output
    lies apart, with zeros in between: four times the sums, in vector code, some 50 times as fast
    as oneDNN's (docs/performance.md).
    """

    def forward(self, maps: Float[Tensor, "b c _h _w"]) -> Float[Tensor, "b c _p _q"]:
        reduced = (
            torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else maps.dtype
        )
        slow = maps.device.type == "cpu" and reduced == torch.bfloat16 and torch.is_grad_enabled()
        if not slow or torch.compiler.is_compiling():
            return super().forward(maps)
        bias = None if self.bias is None else self.bias.to(reduced)
        padding = tuple(int(side) for side in self.padding)
        return _Strided.apply(maps.to(reduced), self.weight.to(reduced), bias, self.stride, padding)


def pays_off() -> bool:
    """Whether `StridedDepthwise` is the faster one here: with AVX-512. With AVX2 alone oneDNN's
    bf16 is emulated, and four times the sums take twice the time (docs/performance.md)."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def use_fast_depthwise(module: nn.Module) -> int:
    """Turns every depthwise convolution with strides in `module` into a `StridedDepthwise`, in
    place; returns their number.

    Parameters, names and hooks stay. Subclasses of Conv2d, dilated ones and padding that is not
    zeros are left alone.
    """
    meant = [m for m in module.modules() if type(m) is nn.Conv2d and _fits(m)]
    for convolution in meant:
        convolution.__class__ = StridedDepthwise
    return len(meant)


def _fits(convolution: nn.Conv2d) -> bool:
    c = convolution
    return (
        max(c.stride) > 1
        and c.groups == c.in_channels == c.out_channels
        and set(c.dilation) == {1}
        and not isinstance(c.padding, str)
        and c.padding_mode == "zeros"
    )


class _Strided(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        maps: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
    ) -> Tensor:
        ctx.save_for_backward(maps, weight)  # type: ignore[attr-defined]
        ctx.settings = (stride, padding, bias is not None)  # type: ignore[attr-defined]
        return conv2d(maps, weight, bias, stride, padding, 1, weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        maps, weight = ctx.saved_tensors
        stride, padding, biased = ctx.settings
        sides = [
            n + 2 * p - k + 1
            for n, p, k in zip(maps.shape[2:], padding, weight.shape[2:], strict=True)
        ]
        layout = (
            torch.channels_last
            if maps.is_contiguous(memory_format=torch.channels_last)
            else torch.contiguous_format
        )
        apart = torch.zeros(*maps.shape[:2], *sides, dtype=grad.dtype).contiguous(
            memory_format=layout
        )
        apart[:, :, :: stride[0], :: stride[1]] = grad
        of_maps, of_weight, _ = torch.ops.aten.convolution_backward(
            apart, maps, weight, None, [1, 1], list(padding), [1, 1], False, [0, 0],
            weight.shape[0],
            [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False],
        )  # fmt: skip
        of_bias = grad.sum((0, 2, 3)) if biased and ctx.needs_input_grad[2] else None
        return of_maps, of_weight, of_bias, None, None
