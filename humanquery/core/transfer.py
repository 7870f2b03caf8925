"""From the host to a device without the host waiting for it."""

from typing import Any

from humanquery.core.arrays import Tensor, torch


def sent(tensor: Tensor, device: Any) -> Tensor:
    """The tensor on `device`. On CUDA a plain copy from the host would first wait for all work that is queued there; this one
    takes its place in the queue, from pinned memory."""
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def numbers(values: list | tuple, like: Tensor) -> Tensor:
    """A few numbers of the host as a tensor beside `like`, of its type.

    In a trace they may be sides of an array: `torch.tensor` keeps them open, `Tensor.new_tensor` would write the example's.
    """
    return sent(torch.tensor(values, dtype=like.dtype), like.device)
