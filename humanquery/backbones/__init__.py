"""Pictures to feature maps of strides 4, 8, 16, 32."""

from collections.abc import Callable

from humanquery.backbones.mobilenet import WHOLE, MobileNetFeatures
from humanquery.backbones.parts import Backbone
from humanquery.backbones.timm_features import TimmBackbone, TimmFeatures
from humanquery.backbones.vit import VitBackbone, VitFeatures

BackboneConfig = TimmBackbone | VitBackbone


def _timm(config: TimmBackbone) -> Backbone:
    ours = config.name == WHOLE and not config.pretrained and not config.options
    return MobileNetFeatures(config) if ours else TimmFeatures(config)


MODULES: dict[type, Callable[..., Backbone]] = {TimmBackbone: _timm, VitBackbone: VitFeatures}
"""type of a config -> what builds its module"""


def build(config: BackboneConfig) -> Backbone:
    """The module of a backbone config. Weights that cannot be had raise CheckpointError, unknown
    names ConfigError."""
    return MODULES[type(config)](config)


__all__ = ["Backbone", "BackboneConfig", "TimmBackbone", "VitBackbone", "build"]
