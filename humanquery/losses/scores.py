"""Losses and matching costs of logits that say yes or no."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def focal(
    logits: Float[Tensor, "*n"],
    positive: Bool[Tensor, "*n"],
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Float[Tensor, "*n"]:
    """Sigmoid focal loss of every logit (Lin et al. 2017, eq. 5), not reduced."""
    target = positive.to(logits.dtype)
    probability = logits.sigmoid()
    wrong = torch.where(positive, 1 - probability, probability)
    weight = torch.where(positive, alpha, 1 - alpha) * wrong**gamma
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight


def focal_cost(
    logits: Float[Tensor, "*n"], alpha: float = 0.25, gamma: float = 2.0
) -> Float[Tensor, "*n"]:
    """What it costs to call each query a person: focal loss as positive minus focal loss as
    negative."""
    probability = logits.sigmoid()
    eps = 1e-12  # the release's; keeps the logarithm finite
    as_person = -(probability + eps).log() * alpha * (1 - probability) ** gamma
    as_background = -(1 - probability + eps).log() * (1 - alpha) * probability**gamma
    return as_person - as_background


def binary(logits: Float[Tensor, "*n"], targets: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Binary cross-entropy of every logit, not reduced; targets in 0..1."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
