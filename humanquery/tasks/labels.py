"""What the attribute tasks share: their head."""

from torch import nn

from humanquery.nn.transformer import MLP
from humanquery.tasks.base import prior_bias, zero_init


def attribute_head(dim: int, outputs: int, hidden_layers: int, *, zeros: bool = False) -> nn.Module:
    """A linear layer, or an MLP with `hidden_layers` of width `dim`, that starts at probability
    0.01, or with `zeros` at 0."""
    head = nn.Sequential(*MLP(dim, *[dim] * hidden_layers, outputs))
    (zero_init if zeros else prior_bias)(head[-1])
    return head
