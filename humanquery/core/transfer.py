"""From the host to a device without the host waiting for it."""

import functools
from typing import Any

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: Any) -> Tensor:
    """The tensor on `device`. On CUDA a plain copy from the host would first wait for all work that
    is queued there; this one takes its place in the queue, from pinned memory."""
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def constants(values: list | tuple, like: Tensor, dtype: Any = None) -> Tensor:
    """A few numbers of the host as a tensor beside `like`, of its type or of `dtype`; do not write
    to it.

    In a trace they may be sides of an array: `torch.tensor` keeps them open, `Tensor.new_tensor`
    would write the example's. On another device than the CPU equal numbers are sent once and kept,
    also because a CUDA graph that reads the host's memory would find something else there when it
    is repeated.
    """
    if like.device.type == "cpu" or torch.compiler.is_compiling():
        return to_device(torch.tensor(values, dtype=dtype or like.dtype), like.device)
    kept = _kept(_frozen(values), dtype or like.dtype, like.device)
    if _capturing(like.device):
        _captured.append(kept)
    return kept


def _capturing(device: Any) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


_captured: list[Tensor] = []
"""what CUDA graphs read: it must stay where it is when `_kept` forgets it"""


@functools.lru_cache(maxsize=4096)
def _kept(values: tuple, dtype: Any, device: Any) -> Tensor:
    with torch.inference_mode(False):  # a training step may be the next to ask
        return to_device(torch.tensor(values, dtype=dtype), device)


def _frozen(values: Any) -> Any:
    return tuple(_frozen(v) for v in values) if isinstance(values, list | tuple) else values
