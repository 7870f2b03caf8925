"""What the attribute tasks share: the matched people for whom somebody gave a label, and their head."""

import torch
from torch import Tensor, nn

from humanquery.nn.transformer import MLP
from humanquery.tasks.base import Matches, Truth, prior_bias
from humanquery.tasks.base import silent as make_silent


def labelled_matches(matches: Matches, truths: list[Truth], field: str) -> tuple[Matches, Tensor]:
    """The matches whose person has `field` annotated, and its values in the same order; no match where nobody has it."""
    pictures = [i for i, t in enumerate(truths) if getattr(t.target, field) is not None]
    known = torch.zeros(len(matches), dtype=torch.bool, device=matches.pictures.device)
    values = []
    for i in pictures:
        label = getattr(truths[i].target, field)
        here = (matches.pictures == i).nonzero().squeeze(1)  # host sync: the labelled people are few and listed
        people = matches.people[here]
        chosen = label.valid[people]
        known[here[chosen]] = True
        values.append(label.value[people[chosen]])
    if not values:
        return matches[known], torch.zeros(0, device=matches.pictures.device)
    return matches[known], torch.cat(values)


def attribute_head(dim: int, outputs: int, hidden_layers: int, *, silent: bool = False) -> nn.Module:
    """A linear layer, or an MLP with `hidden_layers` of width `dim`, that starts at probability 0.01, or with `silent` at 0."""
    head = nn.Sequential(*MLP(dim, *[dim] * hidden_layers, outputs))
    (make_silent if silent else prior_bias)(head[-1])
    return head
