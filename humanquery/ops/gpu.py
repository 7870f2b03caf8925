"""Deformable attention on CUDA by Triton, forward and backward: fp32, bf16 and fp16 with fp32
sums.

One program takes several (picture, query, head) at once, all channels of a head beside each
other, four to a thread. The backward pass adds to the values' gradient atomically, in no fixed
order; where torch is asked for deterministic algorithms it adds whole numbers of 64 bits, for
which the order does not matter. Importing this module needs Triton. Held against the reference
in Triton's interpreter and compiled for sm_75, sm_80 and sm_90; not yet run on a real GPU.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from humanquery.core.transfer import constants

FORWARD_WARPS, BACKWARD_WARPS = (
    4,
    1,
)  # of 32 threads, in a program; one warp adds up its rows without barriers


@triton.jit
@no_type_check  # a type checker's wrapper would hide the source from Triton
def _corner(x, y, corner: tl.constexpr, width, height):
    """Index of the cell in its map (0 where there is none), whether it exists, and its shares
    along x and y."""
    column = tl.floor(x) + corner % 2
    line = tl.floor(y) + corner // 2
    inside = (column >= 0) & (column < width) & (line >= 0) & (line < height)
    cell = tl.where(inside, line, 0.0).to(tl.int32) * width + tl.where(inside, column, 0.0).to(
        tl.int32
    )
    return cell, inside, 1 - tl.abs(x - column), 1 - tl.abs(y - line)


@triton.jit
@no_type_check  # a type checker's wrapper would hide the source from Triton
def _forward(
    value, maps, locations, weights, out, rows, cells, queries,
    HEADS: tl.constexpr, D: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    R: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    there = row < rows
    channel = tl.arange(0, WIDE)
    exists = there[:, None] & (channel < D)[None, :]
    first = (
        value
        + ((row // (HEADS * queries) * cells * HEADS + row % HEADS) * D)[:, None]
        + channel[None, :]
    )
    total = tl.zeros([R, WIDE], tl.float32)
    for level in range(LEVELS):
        height = tl.load(maps + 3 * level)
        width = tl.load(maps + 3 * level + 1)
        start = tl.load(maps + 3 * level + 2)
        for point in range(POINTS):
            sample = (row * LEVELS + level) * POINTS + point
            x = tl.load(locations + 2 * sample, mask=there, other=-9.0) * width - 0.5
            y = tl.load(locations + 2 * sample + 1, mask=there, other=-9.0) * height - 0.5
            weight = tl.load(weights + sample, mask=there, other=0.0)
            for corner in tl.static_range(4):
                cell, inside, share_x, share_y = _corner(x, y, corner, width, height)
                at = ((start + cell) * (HEADS * D))[:, None]
                seen = tl.load(first + at, mask=exists & inside[:, None], other=0.0)
                share = tl.where(inside, weight * share_x * share_y, 0.0)
                total += share[:, None] * seen.to(tl.float32)
    tl.store(out + row[:, None] * D + channel[None, :], total.to(out.dtype.element_ty), mask=exists)


@triton.jit
@no_type_check  # a type checker's wrapper would hide the source from Triton
def _backward(
    grad, value, maps, locations, weights, scale, grad_value, grad_locations, grad_weights,
    rows, cells, queries,
    HEADS: tl.constexpr, D: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    R: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    there = row < rows
    channel = tl.arange(0, WIDE)
    exists = there[:, None] & (channel < D)[None, :]
    first = ((row // (HEADS * queries) * cells * HEADS + row % HEADS) * D)[:, None] + channel[
        None, :
    ]
    slope = tl.load(grad + row[:, None] * D + channel[None, :], mask=exists, other=0.0).to(
        tl.float32
    )
    units = tl.load(scale)
    for level in range(LEVELS):
        height = tl.load(maps + 3 * level)
        width = tl.load(maps + 3 * level + 1)
        start = tl.load(maps + 3 * level + 2)
        for point in range(POINTS):
            sample = (row * LEVELS + level) * POINTS + point
            x = tl.load(locations + 2 * sample, mask=there, other=-9.0) * width - 0.5
            y = tl.load(locations + 2 * sample + 1, mask=there, other=-9.0) * height - 0.5
            weight = tl.load(weights + sample, mask=there, other=0.0)
            along_x = tl.zeros([R], tl.float32)
            along_y = tl.zeros([R], tl.float32)
            along_weight = tl.zeros([R], tl.float32)
            for corner in tl.static_range(4):
                cell, inside, share_x, share_y = _corner(x, y, corner, width, height)
                at = first + ((start + cell) * (HEADS * D))[:, None]
                here = exists & inside[:, None]
                seen = tl.load(value + at, mask=here, other=0.0).to(tl.float32)
                product = tl.sum(slope * seen, 1)
                share = tl.where(inside, weight * share_x * share_y, 0.0)
                part = (share[:, None] * slope * units).to(grad_value.dtype.element_ty)
                tl.atomic_add(grad_value + at, part, mask=here, sem="relaxed")
                along_weight += tl.where(inside, share_x * share_y * product, 0.0)
                along_x += tl.where(inside, (2 * (corner % 2) - 1) * share_y * product, 0.0)
                along_y += tl.where(inside, (2 * (corner // 2) - 1) * share_x * product, 0.0)
            tl.store(grad_weights + sample, along_weight, mask=there)
            tl.store(grad_locations + 2 * sample, along_x * weight * width, mask=there)
            tl.store(grad_locations + 2 * sample + 1, along_y * weight * height, mask=there)


def forward(value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    """b q c in the values' dtype; `shapes` flat, float32 places and weights."""
    out = value.new_zeros(*locations.shape[:2], value.shape[2] * value.shape[3])
    if out.numel() and weights.numel():
        inputs = (
            value.contiguous(),
            _maps(shapes, value),
            locations.contiguous(),
            weights.contiguous(),
        )
        grid, sizes = _sizes(value, weights, FORWARD_WARPS)
        with torch.cuda.device_of(value):
            _forward[grid](*inputs, out, *sizes, num_warps=FORWARD_WARPS)
    return out


def backward(
    grad: Tensor, value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of values (summed up in float32, or see `_scale`), places and weights, each in
    its own dtype."""
    fixed = torch.are_deterministic_algorithms_enabled()
    kinds = (torch.int64 if fixed else torch.float32, torch.float32, torch.float32)
    found = [torch.zeros(x.shape, dtype=kind, device=x.device)
             for x, kind in zip((value, locations, weights), kinds, strict=True)]  # fmt: skip
    scale = _scale(grad, weights) if fixed else torch.ones((), device=grad.device)
    if grad.numel() and weights.numel():
        maps = _maps(shapes, value)
        inputs = (
            grad.contiguous(),
            value.contiguous(),
            maps,
            locations.contiguous(),
            weights.contiguous(),
            scale,
        )
        grid, sizes = _sizes(value, weights, BACKWARD_WARPS)
        with torch.cuda.device_of(value):
            _backward[grid](*inputs, *found, *sizes, num_warps=BACKWARD_WARPS)
    values = found[0].float() / scale if fixed else found[0]
    return values.to(value.dtype), found[1], found[2]


def _scale(grad: Tensor, weights: Tensor) -> Tensor:
    """What the values' gradient is multiplied by before it is summed up in whole numbers of 64
    bits, whose sum no order changes: as much as they can hold where all samples of a head meet
    in one cell. NaN or 0 where a number is not finite, and so is then the whole gradient.
    """
    if not grad.numel() or not weights.numel():
        return torch.ones((), device=grad.device)
    samples = weights.shape[1] * weights.shape[3] * weights.shape[4]
    most = grad.abs().amax().float() * weights.abs().amax() * samples
    return torch.exp2((61 - most.log2().ceil()).clamp(max=126))


def _sizes(value: Tensor, weights: Tensor, warps: int) -> tuple[tuple[int], tuple[int, ...]]:
    """The grid of programs, and the kernels' numbers from `rows` on."""
    _, cells, heads, d = value.shape
    rows = weights.shape[0] * weights.shape[1] * heads
    wide = triton.next_power_of_2(d)
    together = max(1, 4 * 32 * warps // wide)  # so that a thread reads four channels at once
    return (triton.cdiv(rows, together),), (
        rows,
        cells,
        weights.shape[1],
        heads,
        d,
        *weights.shape[3:],
        together,
        wide,
    )


def _maps(shapes: list[int], like: Tensor) -> Tensor:
    """Height, width and first cell of every level."""
    rows, start = [], 0
    for height, width in zip(shapes[::2], shapes[1::2], strict=True):
        rows += [height, width, start]
        start += height * width
    return constants(rows, like, torch.int32)
