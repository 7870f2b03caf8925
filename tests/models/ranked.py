"""One of two processes that each look at their own half of a batch: python -m tests.models.ranked
OUT."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from humanquery.engine.distributed import joined_ranks
from humanquery.tasks.base import Draws
from tests.models.small import batch, crowd, nobody, small_config, small_model

PICTURES = [crowd(), crowd(), nobody(), crowd()[[0]]]
"""five people: four before the first rank, one before the second"""


def losses_and_gradients(targets, images) -> dict[str, torch.Tensor]:
    """Of a model without random draws: neither denoising nor masks, whose numbers would differ
    between the ranks."""
    model = small_model(
        replace(small_config(mask=None), denoising=None)
    ).eval()  # batch norms see their rank only
    pictures = batch(targets)
    pictures = replace(pictures, images=images)
    losses = model(pictures, Draws())
    sum(losses.values()).backward()
    gradients = {f"grad {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()} | gradients


def main() -> None:
    torch.set_num_threads(1)
    images = batch(PICTURES).images
    with joined_ranks("cpu"):
        from humanquery.core.ranks import rank

        mine = slice(2 * rank(), 2 * rank() + 2)
        found = losses_and_gradients(PICTURES[mine], images[mine])
        torch.save(found, Path(sys.argv[1]) / f"{rank()}.pt")


if __name__ == "__main__":
    main()
