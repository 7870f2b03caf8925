"""Contrastive denoising queries (DINO): noised true boxes, near ones to be put right, far ones
to be refused."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from humanquery.core.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from humanquery.core.transfer import to_device
from humanquery.models.hqnet.config import DenoisingConfig
from humanquery.nn.encodings import inverse_sigmoid
from humanquery.tasks.base import Draws, Matches, Truth


@dataclass(frozen=True, eq=False)
class NoisedQueries:
    """Queries that stand in front of the others. Inside a group: all near boxes, then all far
    ones."""

    content: Float[Tensor, "b p c"]
    boxes_logit: Float[Tensor, "b p 4"]
    blocked: Bool[Tensor, "t t"]
    """self-attention mask of noised and ordinary queries together, True = may not see"""
    positives: Matches
    groups: int
    num_people: int

    def __len__(self) -> int:
        return self.content.shape[1]


def noised_queries(
    truths: list[Truth],
    label: Float[Tensor, " c"],
    config: DenoisingConfig,
    num_queries: int,
    draws: Draws,
) -> NoisedQueries:
    """Denoising queries of a batch; none, as an empty structure, where no picture has
    people."""
    people = [len(t) for t in truths]
    widest = max(people)
    if widest == 0:
        return _empty(len(truths), label, num_queries)
    groups = max(1, config.pairs // widest)
    boxes = to_device(torch.cat([t.boxes_unit for t in truths]), label.device)
    total, count = len(boxes), 2 * groups * widest

    # one row per (repetition, person): even repetitions are near, odd ones far
    signs = draws.uniform("denoising/sign", (2 * groups * total, 4), boxes)
    parts = draws.uniform("denoising/part", (2 * groups * total, 4), boxes)
    near, far = _noised(boxes, signs, parts, groups, config.box_noise)

    picture = torch.cat([torch.full((n,), i, device=boxes.device) for i, n in enumerate(people)])
    person = torch.cat([torch.arange(n, device=boxes.device) for n in people])
    group = torch.arange(groups, device=boxes.device)[:, None]
    slot = (group * 2 * widest + person).flatten()
    pictures = picture.repeat(groups)

    logits = boxes.new_zeros(len(truths), count, 4)
    content = label.new_zeros(len(truths), count, len(label))
    for at, noised in ((slot, near), (slot + widest, far)):
        logits[pictures, at] = inverse_sigmoid(noised)
        content[pictures, at] = label.expand(len(at), -1)

    order = torch.argsort(pictures * count + slot)
    positives = Matches(pictures[order], slot[order], person.repeat(groups)[order])
    blocked = _blocked(groups, 2 * widest, num_queries, boxes.device)
    return NoisedQueries(content, logits, blocked, positives, groups, total)


def _empty(pictures: int, label: Float[Tensor, " c"], num_queries: int) -> NoisedQueries:
    """No queries, but the same loss names and the same parameters as in any other batch."""
    none = torch.zeros(0, dtype=torch.long, device=label.device)
    content = label.expand(pictures, 0, -1)
    blocked = torch.zeros(num_queries, num_queries, dtype=torch.bool, device=label.device)
    return NoisedQueries(
        content, label.new_zeros(pictures, 0, 4), blocked, Matches(none, none, none), 1, 0
    )


def _noised(
    boxes: Tensor, signs: Tensor, parts: Tensor, groups: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Every corner moves by up to half a side (near), or by half to a whole side (far), in
    cxcywh of the unit canvas."""
    signs = torch.where(signs >= 0.5, 1.0, -1.0).unflatten(0, (groups, 2, -1))
    parts = parts.unflatten(0, (groups, 2, -1))
    half = (boxes[:, 2:] / 2).repeat(1, 2)
    out = []
    for kind in (0, 1):
        moved = cxcywh_to_xyxy(boxes) + signs[:, kind] * (parts[:, kind] + kind) * half * scale
        out.append(xyxy_to_cxcywh(moved.clamp(0, 1)).flatten(0, 1))
    return out[0], out[1]


def _blocked(groups: int, group_size: int, num_queries: int, device) -> Tensor:
    """Ordinary queries never see noised ones; groups never see each other."""
    noised = groups * group_size
    group = torch.arange(noised + num_queries, device=device) // group_size
    group[noised:] = -1
    apart = group[:, None] != group[None]
    return apart & (group[None] >= 0)
