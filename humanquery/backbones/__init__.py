"""Pictures to feature maps of strides 4, 8, 16, 32."""

from dataclasses import dataclass

from humanquery.backbones.attributes import AttributesBackbone, AttributesFeatures
from humanquery.backbones.movenet import MoveNetBackbone, MoveNetFeatures
from humanquery.backbones.parts import Backbone
from humanquery.backbones.rtmdet import RtmdetBackbone, RtmdetFeatures
from humanquery.backbones.stacked import StackedFeatures
from humanquery.backbones.timm_features import TimmBackbone, TimmFeatures
from humanquery.backbones.vit import VitBackbone, VitFeatures

SingleBackbone = TimmBackbone | MoveNetBackbone | RtmdetBackbone | VitBackbone | AttributesBackbone


@dataclass(frozen=True)
class StackedBackbone:
    """Several backbones side by side on the same picture."""

    parts: tuple[SingleBackbone, ...]


BackboneConfig = SingleBackbone | StackedBackbone

_MODULES = {
    TimmBackbone: TimmFeatures,
    MoveNetBackbone: MoveNetFeatures,
    RtmdetBackbone: RtmdetFeatures,
    VitBackbone: VitFeatures,
    AttributesBackbone: AttributesFeatures,
}


def build(config: BackboneConfig) -> Backbone:
    """The module of a backbone config. Weights that cannot be had raise CheckpointError, unknown names ConfigError."""
    if isinstance(config, StackedBackbone):
        return StackedFeatures([build(part) for part in config.parts])
    return _MODULES[type(config)](config)


__all__ = [
    "AttributesBackbone",
    "Backbone",
    "BackboneConfig",
    "MoveNetBackbone",
    "RtmdetBackbone",
    "SingleBackbone",
    "StackedBackbone",
    "TimmBackbone",
    "VitBackbone",
    "build",
]
