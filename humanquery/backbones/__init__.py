"""Pictures to feature maps of strides 4, 8, 16, 32."""

from humanquery.backbones.parts import Backbone
from humanquery.backbones.timm_features import TimmBackbone, TimmFeatures
from humanquery.backbones.vit import VitBackbone, VitFeatures

BackboneConfig = TimmBackbone | VitBackbone

MODULES = {TimmBackbone: TimmFeatures, VitBackbone: VitFeatures}
"""type of a config -> its module"""


def build(config: BackboneConfig) -> Backbone:
    """The module of a backbone config. Weights that cannot be had raise CheckpointError, unknown
    names ConfigError."""
    return MODULES[type(config)](config)


__all__ = ["Backbone", "BackboneConfig", "TimmBackbone", "VitBackbone", "build"]
