"""Numbers that belong to all ranks of a distributed run."""

import torch.distributed as dist
from torch import Tensor


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum over all processes; the value itself where nothing is distributed. Not differentiable."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value
