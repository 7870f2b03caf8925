"""Several processes that train one system: `torchrun --nproc_per_node N -m humanquery train ...`.

What a system promises so that N processes learn exactly what one would from the N-fold batch:

* Every loss is normalised so that the SUM over ranks is the loss of the joint batch: local sum
  divided by `core.ranks.sum_over_ranks(local count)`, with the joint count clamped to at least 1
  after the sum. That holds for means over pictures too (`sum_over_ranks` of their number).
* It returns the same loss names for every batch, also where nobody stands in it (a sum over nobody,
  so that the graph stays), or declares all of them as `loss_names`; ranks where a loss is missing
  then need `EngineConfig.find_unused_parameters`.

DDP and FSDP average gradients over ranks, so the engine multiplies each loss by the world size
before `backward`; the applied gradient is then the sum of all ranks' gradients. Logged losses
are summed over ranks as well.
"""

import contextlib
import fnmatch
import os
import time
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from humanquery.core.errors import ConfigError
from humanquery.core.ranks import world_size

PATIENCE = timedelta(hours=3)  # ranks other than 0 wait while rank 0 evaluates


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; under torchrun each process takes the card of its
    LOCAL_RANK."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            f"engine.device: got {name!r}, expected auto, cpu, cuda or cuda:N"
        ) from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                f"engine.device: got {name!r}, but torch {torch.__version__} finds no CUDA device "
                f"here"
            )
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    return device


@contextlib.contextmanager
def joined_ranks(device: str = "auto") -> Iterator[torch.device]:
    """Joins the processes that torchrun started, yields this one's device, leaves them after.

    Without torchrun, with one process, or where they are joined already it only yields the
    device. gloo on the CPU, NCCL on CUDA. Build loaders inside it: they need `core.ranks`.
    """
    own = pick_device(device)
    if int(os.environ.get("WORLD_SIZE", 1)) < 2 or dist.is_initialized():
        yield own
        return
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo", timeout=PATIENCE
    )
    try:
        yield own
    finally:
        # gloo's threads still drop the tensors of the last exchange and need the interpreter for
        # it; a process that ends meanwhile aborts. Sleeping lets go of the interpreter's lock.
        time.sleep(0.2)
        dist.destroy_process_group()


def share(
    system: nn.Module,
    parallel: str,
    device: torch.device,
    *,
    units: tuple[str, ...] = (),
    unused: bool = False,
) -> nn.Module:
    """The module to call in training: `system` itself in one process, else DDP around it, or
    `system` sharded in place.

    Every rank begins with the weights of rank 0. `units` as in `EngineConfig.fsdp_units`.
    """
    if world_size() == 1:
        return system
    if parallel == "ddp":
        device_ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(system, device_ids=device_ids, find_unused_parameters=unused)
    return _shard(system, device, units)


def _shard(system: nn.Module, device: torch.device, units: tuple[str, ...]) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for tensor in [*system.parameters(), *system.buffers()]:
        dist.broadcast(tensor.detach(), src=0)
    mesh = init_device_mesh(device.type, (world_size(),))
    names = [name for name, _ in system.named_modules() if name]
    for pattern in units:
        found = fnmatch.filter(names, pattern)
        if not found:
            raise ConfigError(
                f"engine.fsdp_units: no module of {type(system).__name__} is called {pattern!r}"
            )
        for name in found:
            if any(True for _ in system.get_submodule(name).parameters()):
                fully_shard(system.get_submodule(name), mesh=mesh)
    return fully_shard(system, mesh=mesh)


@contextlib.contextmanager
def gradient_sync(module: nn.Module, last: bool) -> Iterator[None]:
    """Around forward and backward of one micro-batch: ranks exchange gradients only in the
    `last` of a step."""
    if isinstance(module, DistributedDataParallel) and not last:
        with module.no_sync():
            yield
        return
    if hasattr(module, "set_requires_gradient_sync"):  # FSDP2
        module.set_requires_gradient_sync(last)
    yield


def placed_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor cut and placed as `like` is (FSDP), or simply moved to its device."""
    value = value.to(like.device)
    if not hasattr(like, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, like.device_mesh, like.placements)


def gathered(mine: object) -> list:
    """One small object of each rank, in rank order, on every rank."""
    if world_size() == 1:
        return [mine]
    everyones: list = [None] * world_size()
    dist.all_gather_object(everyones, mine)
    return everyones


def any_rank(flags: list[bool], bad: Tensor, device: torch.device) -> list[bool]:
    """[bad, *flags], each true if it is on any rank. One host sync: whether to step needs the
    answer."""
    if world_size() == 1:
        return [bool(bad.item()), *flags]
    together = torch.cat(
        [bad.reshape(1).float(), torch.tensor(flags, dtype=torch.float32, device=device)]
    )
    dist.all_reduce(together, op=dist.ReduceOp.MAX)
    return [value > 0 for value in together.tolist()]
