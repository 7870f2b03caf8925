"""Systems by their configuration."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from humanquery.core.config import from_plain, override
from humanquery.core.system import System
from humanquery.experts import AnyBackbone, AttributesBackbone, StackedBackbone
from humanquery.models.attributes.config import AttributesConfig
from humanquery.models.attributes.system import Attributes
from humanquery.models.hqnet.config import HQNetConfig
from humanquery.models.hqnet.hqnet import HQNet

SystemConfig = HQNetConfig | AttributesConfig


def build(config: SystemConfig) -> System:
    """The system of a config, with fresh weights (the backbone's as its config says)."""
    return Attributes(config) if isinstance(config, AttributesConfig) else HQNet(config)


def rebuild(plain: dict[str, Any], settings: Sequence[str] = ()) -> System:
    """The system that a weights file describes, to be filled from the file: nothing else is read or
    fetched.

    `settings` change fields of its config (`core.config.override`).
    """
    return build(without_sources(override(from_plain(SystemConfig, plain), list(settings))))


def without_sources(config: SystemConfig) -> SystemConfig:
    """The same system, whose backbone asks neither for a local file nor for downloaded weights."""
    return replace(config, backbone=_without_source(config.backbone))


def _without_source(backbone: AnyBackbone) -> AnyBackbone:
    if isinstance(backbone, StackedBackbone):
        return StackedBackbone(tuple(_without_source(part) for part in backbone.parts))
    if isinstance(backbone, AttributesBackbone):
        return replace(backbone, weights="", backbone=_without_source(backbone.backbone))
    pretrained = {"pretrained": False} if hasattr(backbone, "pretrained") else {}
    return replace(backbone, weights="", **pretrained)
