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
    """A few numbers of the host as a tensor beside `like`, of its type."""
    if like.device.type == "cpu":
        return like.new_tensor(values)
    return sent(torch.tensor(values, dtype=like.dtype), like.device)
