"""Losses of re-identification and of attributes."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def batch_hard_triplet(
    features: Float[Tensor, "n d"],
    people: Int[Tensor, " n"],
    anchors: Float[Tensor, "m d"] | None = None,
    anchor_people: Int[Tensor, " m"] | None = None,
) -> tuple[Float[Tensor, " m"], Bool[Tensor, " m"]]:
    """log(1 + exp(d_p - d_n)) of every anchor, d_p the Euclidean distance to its farthest picture
    of the same person, d_n to the nearest of another (Hermans et al. 2017, soft margin), and which
    anchors have both.

    `anchors` (default: all) are compared with `features`, among which they are.
    """
    if anchors is None or anchor_people is None:
        anchors, anchor_people = features, people
    # + eps: the root has no gradient at 0, the distance of an anchor to itself
    squared = (anchors[:, None] - features[None]).square().sum(-1)
    apart = (squared + 1e-12).sqrt()
    same = anchor_people[:, None] == people[None]
    farthest = torch.where(same, apart, -torch.inf).amax(1)
    nearest = torch.where(same, torch.inf, apart).amin(1)
    known = (same.sum(1) > 1) & (~same).any(1)
    margin = torch.where(known, farthest - nearest, 0.0)
    return F.softplus(margin), known


def weighted_attributes(
    logits: Float[Tensor, "n a"],
    labels: Int[Tensor, "n a"],
    positive_share: Float[Tensor, " a"],
) -> Float[Tensor, " n"]:
    """Binary cross-entropy summed over the known attributes of every person, rare answers weighed
    more: exp(1 - r) for a positive label, exp(r) for a negative one, r the share of positives.

    Label -1 (nobody knows) costs nothing.
    """
    weight = torch.where(labels == 1, (1 - positive_share).exp(), positive_share.exp())
    each = F.binary_cross_entropy_with_logits(
        logits, (labels == 1).to(logits.dtype), reduction="none"
    )
    return torch.where(labels >= 0, each * weight, 0.0).sum(1)
