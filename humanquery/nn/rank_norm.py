"""Batch norm whose statistics are those of all processes, on any device."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from humanquery.core.ranks import world_size


def joined_sum(values: Tensor) -> Tensor:
    """The sum over all processes, with a gradient: each process's is the sum of all of theirs."""
    if world_size() == 1:
        return values
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(values, op=dist.ReduceOp.SUM)


def joined_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, in their order, with a gradient; each must have equally many."""
    if world_size() == 1:
        return rows
    from humanquery.core.ranks import rank

    # a sum of zeros and mine: gloo has no differentiable gather
    wide = rows.new_zeros(world_size(), *rows.shape)
    wide = wide.index_copy(0, torch.tensor([rank()], device=rows.device), rows[None])
    return joined_sum(wide).flatten(0, 1)


class RankBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d over the rows of all processes in training (torch's SyncBatchNorm needs CUDA)."""

    def forward(self, x: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        if not self.training or world_size() == 1:
            return super().forward(x)
        total = joined_sum(torch.cat([x.sum(0), x.square().sum(0), x.new_tensor([float(len(x))])]))
        count = total[-1]
        mean = total[: x.shape[1]] / count
        variance = total[x.shape[1] : -1] / count - mean.square()
        with torch.no_grad():
            self.num_batches_tracked += 1
            unbiased = variance * count / (count - 1).clamp(min=1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        return (x - mean) / (variance + self.eps).sqrt() * self.weight + self.bias
