"""Deformable attention on CUDA by Triton, forward and backward: fp32, bf16 and fp16 with fp32 sums.

One program takes `ROWS` (picture, query, head) at once, all channels of a head beside each other. The backward pass adds to the
values' gradient atomically, in no fixed order; where torch is asked for deterministic algorithms, `deformable.provider_for`
takes `gather`. Importing this module needs Triton. Held against the reference in Triton's interpreter and
compiled for sm_75, sm_80 and sm_90; not yet run on a real GPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 8


@triton.jit
def _corner(x, y, column, line, width, height):
    """Whether a cell exists, and its shares along x and y, which hold only where it does."""
    inside = (column >= 0) & (column < width) & (line >= 0) & (line < height)
    return inside, 1 - tl.abs(x - column), 1 - tl.abs(y - line)


@triton.jit
def _forward(
    value, maps, locations, weights, out, rows, cells, queries,
    HEADS: tl.constexpr, D: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr, R: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    there = row < rows
    channel = tl.arange(0, WIDE)
    exists = there[:, None] & (channel < D)[None, :]
    picture = row // (HEADS * queries)
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
                column = tl.floor(x) + corner % 2
                line = tl.floor(y) + corner // 2
                inside, share_x, share_y = _corner(x, y, column, line, width, height)
                cell = (
                    start
                    + tl.where(inside, line, 0.0).to(tl.int64) * width
                    + tl.where(inside, column, 0.0).to(tl.int64)
                )
                at = ((picture * cells + cell) * HEADS + row % HEADS) * D
                seen = tl.load(value + at[:, None] + channel[None, :], mask=exists & inside[:, None], other=0.0)
                share = tl.where(inside, weight * share_x * share_y, 0.0)
                total += share[:, None] * seen.to(tl.float32)
    tl.store(out + row[:, None] * D + channel[None, :], total.to(out.dtype.element_ty), mask=exists)


@triton.jit
def _backward(
    grad, value, maps, locations, weights, grad_value, grad_locations, grad_weights, rows, cells, queries,
    HEADS: tl.constexpr, D: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr, R: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    there = row < rows
    channel = tl.arange(0, WIDE)
    exists = there[:, None] & (channel < D)[None, :]
    picture = row // (HEADS * queries)
    slope = tl.load(grad + row[:, None] * D + channel[None, :], mask=exists, other=0.0).to(tl.float32)
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
                column = tl.floor(x) + corner % 2
                line = tl.floor(y) + corner // 2
                inside, share_x, share_y = _corner(x, y, column, line, width, height)
                cell = (
                    start
                    + tl.where(inside, line, 0.0).to(tl.int64) * width
                    + tl.where(inside, column, 0.0).to(tl.int64)
                )
                at = ((picture * cells + cell) * HEADS + row % HEADS) * D
                here = exists & inside[:, None]
                seen = tl.load(value + at[:, None] + channel[None, :], mask=here, other=0.0).to(tl.float32)
                product = tl.sum(slope * seen, 1)
                share = tl.where(inside, weight * share_x * share_y, 0.0)
                tl.atomic_add(grad_value + at[:, None] + channel[None, :], share[:, None] * slope, mask=here)
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
        inputs = (value.contiguous(), _maps(shapes, value.device), locations.contiguous(), weights.contiguous())
        grid, sizes = _sizes(value, weights)
        with torch.cuda.device_of(value):
            _forward[grid](*inputs, out, *sizes)
    return out


def backward(
    grad: Tensor, value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of values (summed up in float32), places and weights, each in its own dtype."""
    found = [torch.zeros_like(x, dtype=torch.float32, memory_format=torch.contiguous_format)
             for x in (value, locations, weights)]  # fmt: skip
    if grad.numel() and weights.numel():
        maps = _maps(shapes, value.device)
        inputs = (grad.contiguous(), value.contiguous(), maps, locations.contiguous(), weights.contiguous())
        grid, sizes = _sizes(value, weights)
        with torch.cuda.device_of(value):
            _backward[grid](*inputs, *found, *sizes)
    return found[0].to(value.dtype), found[1], found[2]


def _sizes(value: Tensor, weights: Tensor) -> tuple[tuple[int], tuple[int, ...]]:
    """The grid of programs, and the kernels' numbers from `rows` on."""
    _, cells, heads, d = value.shape
    rows = weights.shape[0] * weights.shape[1] * heads
    wide = triton.next_power_of_2(d)
    return (triton.cdiv(rows, ROWS),), (rows, cells, weights.shape[1], heads, d, *weights.shape[3:], ROWS, wide)


def _maps(shapes: list[int], device: torch.device) -> Tensor:
    """Height, width and first cell of every level."""
    rows, start = [], 0
    for height, width in zip(shapes[::2], shapes[1::2], strict=True):
        rows += [height, width, start]
        start += height * width
    return torch.tensor(rows, dtype=torch.int32, device=device)
