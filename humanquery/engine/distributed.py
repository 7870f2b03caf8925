"""Several processes as one run, under torchrun: DDP or FSDP."""

import os
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn

from humanquery.core.errors import ConfigError

Parallel = Literal["ddp", "fsdp"]


def start() -> bool:
    """Joins the process group that torchrun's environment describes; False in a run of one process."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return False
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    return True


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def spread(system: nn.Module, parallel: Parallel) -> nn.Module:
    """The system as every rank runs it.

    Losses add up over ranks (a System divides by counts that are summed over ranks), while both wrappers average
    gradients; the loop therefore multiplies the loss by `world_size()`.
    """
    if world_size() == 1:
        return system
    if parallel == "ddp":
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else None
        return nn.parallel.DistributedDataParallel(system, device_ids=devices, find_unused_parameters=True)
    if parallel == "fsdp":
        from torch.distributed.fsdp import fully_shard

        fully_shard(system)
        return system
    raise ConfigError(f"engine.parallel={parallel!r}: expected 'ddp' or 'fsdp'")


def full_state(system: nn.Module) -> dict[str, torch.Tensor]:
    """The whole state dict on every rank, whether sharded or not."""
    state = system.state_dict()
    return {n: t.full_tensor() if hasattr(t, "full_tensor") else t for n, t in state.items()}
