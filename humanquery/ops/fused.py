"""Deformable attention as one operator of torch, `torch.ops.humanquery.deformable_attention`, and
its backward pass as another.

Their kernels do not appear in graphs: autograd and `torch.compile` see two opaque nodes. The kernel
of the CPU is in C (`native`), that of CUDA in Triton (`gpu`, imported when it is used). Under
autocast the operators run in the dtypes they are given.
"""

import torch
from torch import Tensor

from humanquery.ops import native


@torch.library.custom_op("humanquery::deformable_attention", mutates_args=(), device_types="cpu")
def attend(value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    """See `deformable.deformable_attention`; `shapes` flat: height, width, height, width ..."""
    if native.missing():
        raise RuntimeError(
            f"humanquery::deformable_attention has no kernel for the CPU here: {native.missing()}"
        )
    return native.forward(value, shapes, locations.float(), weights.float())


@attend.register_fake
def _(value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty(locations.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


@torch.library.custom_op(
    "humanquery::deformable_attention_backward", mutates_args=(), device_types="cpu"
)
def attend_backward(
    grad: Tensor, value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights, contiguous, in their dtypes."""
    found = native.backward(grad, value, shapes, locations.float(), weights.float())
    return found[0], found[1].to(locations.dtype), found[2].to(weights.dtype)


@attend_backward.register_fake
def _(
    grad: Tensor, value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(
        torch.empty_like(x, memory_format=torch.contiguous_format)
        for x in (value, locations, weights)
    )


@attend.register_kernel("cuda")
def _(value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    from humanquery.ops import gpu

    return gpu.forward(value, shapes, locations.float(), weights.float())


@attend_backward.register_kernel("cuda")
def _(
    grad: Tensor, value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    from humanquery.ops import gpu

    found = gpu.backward(grad, value, shapes, locations.float(), weights.float())
    return found[0], found[1].to(locations.dtype), found[2].to(weights.dtype)


def _keep(ctx, inputs: tuple, output: Tensor) -> None:
    value, ctx.shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    value, locations, weights = ctx.saved_tensors
    found = attend_backward(grad.to(value.dtype), value, ctx.shapes, locations, weights)
    return found[0], None, found[1], found[2]


attend.register_autograd(_backward, setup_context=_keep)
