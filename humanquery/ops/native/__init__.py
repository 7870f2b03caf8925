"""The CPU kernels in C, loaded through ctypes: of the wheel where it has them, else compiled at
first use, else absent.

Here deformable attention; masks are in `native.masks`.
"""

import ctypes
import functools
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from humanquery.ops.native import build

DTYPES = (torch.float32, torch.bfloat16)  # of values; places and weights are float32
MOST_NUMBERS = 2**31 - 1  # of one picture's values: the kernel counts them with 32 bits
LEAST_WORK = 1 << 15  # cells to add up by a further thread, some 10 µs


@functools.cache
def missing(capability: str = "") -> str:
    """Why there are no native kernels, "" where there are; the first call may compile it (about 2
    s).

    `capability` names an instruction set of `build.LEVELS`; by default the best that torch finds.
    """
    try:
        library(capability)
    except OSError as error:
        return str(error)
    return ""


@functools.cache
def library(capability: str = "") -> ctypes.CDLL:
    """OSError where there is none."""
    level = build.level(capability or torch.backends.cpu.get_cpu_capability())
    shipped = build.FOLDER / build.file_name(level)
    path = shipped if shipped.exists() else build.compile_library(level, build.cache_folder())
    loaded = ctypes.CDLL(str(path))
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    loaded.humanquery_forward.argtypes = [pointer] * 5 + [count] * 9
    loaded.humanquery_backward.argtypes = [pointer] * 8 + [count] * 9
    loaded.humanquery_run_lengths.argtypes = [pointer] * 2 + [count] * 6
    loaded.humanquery_free_texts.argtypes = [pointer, count]
    loaded.humanquery_free_texts.restype = None
    loaded.humanquery_paint_masks.argtypes = [pointer] * 5 + [count] * 8
    _join_team(loaded)
    return loaded


def _join_team(loaded: ctypes.CDLL) -> None:
    """Lets the kernels run in torch's own OpenMP threads; a forked process has none of these, and
    takes threads for a call."""
    torch_library = (
        Path(torch.__file__).parent
        / "lib"
        / f"libtorch_cpu.{'dylib' if sys.platform == 'darwin' else 'so'}"
    )
    try:
        entry = ctypes.cast(ctypes.CDLL(str(torch_library)).GOMP_parallel, ctypes.c_void_p)
    except (OSError, AttributeError):  # built without OpenMP
        return
    team = ctypes.c_void_p.in_dll(loaded, "humanquery_team")
    team.value = entry.value
    os.register_at_fork(after_in_child=lambda: setattr(team, "value", None))


def forward(
    value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor, *, capability: str = ""
) -> Tensor:
    """b q c in the values' dtype. `shapes`: height and width of every level, flat; float32 places
    and weights."""
    _check(value)
    out = value.new_empty(*locations.shape[:2], value.shape[2] * value.shape[3])
    if not out.numel() or not weights.numel() or not value.numel():
        return out.zero_()
    inputs = (value.contiguous(), _int32(shapes), locations.contiguous(), weights.contiguous())
    threads = _threads(weights, torch.get_num_threads())
    _call("humanquery_forward", capability, *inputs, out, *_sizes(value, locations), threads)
    return out


def backward(
    grad: Tensor,
    value: Tensor,
    shapes: list[int],
    locations: Tensor,
    weights: Tensor,
    *,
    capability: str = "",
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of values, places and weights, each in its own dtype; bitwise the same for any
    number of threads."""
    _check(value)
    inputs = (
        grad.contiguous(),
        value.contiguous(),
        _int32(shapes),
        locations.contiguous(),
        weights.contiguous(),
    )
    grads = (torch.zeros_like(inputs[1]), torch.empty_like(inputs[3]), torch.empty_like(inputs[4]))
    if not grad.numel() or not weights.numel() or not value.numel():
        return grads[0], grads[1].zero_(), grads[2].zero_()
    threads = _threads(weights, torch.get_num_threads())
    _call("humanquery_backward", capability, *inputs, *grads, *_sizes(value, locations), threads)
    return grads


def _call(name: str, capability: str, *arguments: Tensor | ctypes.Array | int) -> None:
    plain = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
    if getattr(library(capability), name)(*plain):
        raise MemoryError(f"{name}: no memory for one head's cells")


def _check(value: Tensor) -> None:
    if value.dtype not in DTYPES or value[:1].numel() > MOST_NUMBERS:
        known = f"{DTYPES}, and at most {MOST_NUMBERS:,} numbers for each picture"
        raise TypeError(
            f"humanquery's CPU kernel takes values of {known}; these are {value.dtype} "
            f"{tuple(value.shape)}"
        )


def _sizes(value: Tensor, locations: Tensor) -> tuple[int, ...]:
    _, queries, _, levels, points, _ = locations.shape
    return (*value.shape, queries, levels, points, int(value.dtype == torch.bfloat16))


def _threads(weights: Tensor, most: int) -> int:
    return max(1, min(most, 4 * weights.numel() // LEAST_WORK))


def _int32(shapes: list[int]) -> ctypes.Array:
    return (ctypes.c_int32 * len(shapes))(*shapes)
