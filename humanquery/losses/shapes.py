"""Losses and matching costs of boxes and of masks that are compared at sampled points."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from humanquery.core.boxes import giou
from humanquery.nn.sampling import sample_points


def giou_loss(boxes: Float[Tensor, "n 4"], true: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    """1 - GIoU of every pair of xyxy boxes, 0..2."""
    return 1 - giou(boxes, true)


def l1(found: Float[Tensor, "*#n"], true: Float[Tensor, "*#n"]) -> Float[Tensor, "*m"]:
    """Absolute difference, not reduced."""
    return (found - true).abs()


def dice(logits: Float[Tensor, "n p"], targets: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
    """1 - Dice of each mask at its points, smoothed by 1."""
    probability = logits.sigmoid()
    return 1 - (2 * (probability * targets).sum(-1) + 1) / (
        probability.sum(-1) + targets.sum(-1) + 1
    )


def mask_bce(logits: Float[Tensor, "n p"], targets: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
    """Mean binary cross-entropy of each mask over its points."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)


def pairwise_dice_cost(
    logits: Float[Tensor, "*b q p"], targets: Float[Tensor, "*b g p"]
) -> Float[Tensor, "*b q g"]:
    """`dice` of every query against every person at shared points."""
    probability = logits.sigmoid()
    sums = probability.sum(-1)[..., None] + targets.sum(-1)[..., None, :]
    return 1 - (2 * probability @ targets.mT + 1) / (sums + 1)


def pairwise_bce_cost(
    logits: Float[Tensor, "*b q p"], targets: Float[Tensor, "*b g p"]
) -> Float[Tensor, "*b q g"]:
    """`mask_bce` of every query against every person at shared points, as two matrix products."""
    inside, outside = F.softplus(-logits), F.softplus(logits)
    return (inside @ targets.mT + outside @ (1 - targets).mT) / logits.shape[-1]


@torch.no_grad()
def uncertain_points(
    logits: Float[Tensor, "k h w"],
    num_points: int,
    candidates: Float[Tensor, "n c 2"],
    random: Float[Tensor, "n r 2"],
    rows: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, "n p 2"]:
    """Where to compare masks (PointRend): of the candidates the 75 % of `num_points` nearest to
    logit 0, then `random`.

    Both sets of points are drawn by the caller, uniform in 0..1; `rows` as in `sample_points`.
    """
    certainty = sample_points(logits, candidates, rows).abs()
    chosen = certainty.topk(int(0.75 * num_points), dim=1, largest=False).indices
    return torch.cat([candidates.gather(1, chosen[..., None].expand(-1, -1, 2)), random], 1)
