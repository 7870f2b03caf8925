"""Which of the processes of one training this is, and the one sum that models need over all of
them."""

import torch.distributed as dist
from torch import Tensor


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """0 .. world_size() - 1; 0 in a single process."""
    return dist.get_rank() if _joined() else 0


def world_size() -> int:
    """Number of processes that train together; 1 in a single process."""
    return dist.get_world_size() if _joined() else 1


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The element-wise sum of every process's tensor, without gradient; the tensor itself in a
    single process.

    Every process must call it, equally often and with the same shape. It is how a loss finds its
    normaliser: local sum divided by `sum_over_ranks(local count)`, see `engine.distributed`.
    """
    total = tensor.detach()
    if world_size() == 1:
        return total
    total = total.clone()
    dist.all_reduce(total)
    return total
