"""Whole networks that were trained on people before, as backbones that also answer questions
about people."""

from collections.abc import Callable
from dataclasses import dataclass

from humanquery import backbones
from humanquery.backbones import Backbone, TimmBackbone, VitBackbone
from humanquery.experts.attribute_network import AttributesBackbone, AttributesFeatures
from humanquery.experts.movenet import MoveNetBackbone, MoveNetFeatures
from humanquery.experts.rtmdet import RtmdetBackbone, RtmdetFeatures
from humanquery.experts.stacked import StackedFeatures

SingleBackbone = TimmBackbone | MoveNetBackbone | RtmdetBackbone | VitBackbone | AttributesBackbone


@dataclass(frozen=True)
class StackedBackbone:
    """Several backbones side by side on the same picture."""

    parts: tuple[SingleBackbone, ...]


AnyBackbone = SingleBackbone | StackedBackbone

MODULES: dict[type, Callable[..., Backbone]] = {
    **backbones.MODULES,
    MoveNetBackbone: MoveNetFeatures,
    RtmdetBackbone: RtmdetFeatures,
    AttributesBackbone: AttributesFeatures,
    StackedBackbone: lambda config: StackedFeatures([build(part) for part in config.parts]),
}
"""type of a config -> what builds its module"""


def build(config: AnyBackbone) -> Backbone:
    """The module of any backbone config. Weights that cannot be had raise CheckpointError, unknown
    names ConfigError."""
    return MODULES[type(config)](config)


__all__ = [
    "AnyBackbone",
    "AttributesBackbone",
    "MoveNetBackbone",
    "RtmdetBackbone",
    "SingleBackbone",
    "StackedBackbone",
    "build",
]
