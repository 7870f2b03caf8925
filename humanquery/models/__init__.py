"""Systems by their configuration."""

from dataclasses import replace
from typing import Any

from humanquery.core.config import from_plain
from humanquery.core.system import System
from humanquery.models.attributes.attributes import Attributes
from humanquery.models.attributes.config import AttributesConfig
from humanquery.models.hqnet.config import HQNetConfig
from humanquery.models.hqnet.hqnet import HQNet

SystemConfig = HQNetConfig | AttributesConfig


def build(config: SystemConfig) -> System:
    """The system of a config, with fresh weights (the backbone's as its config says)."""
    return Attributes(config) if isinstance(config, AttributesConfig) else HQNet(config)


def rebuild(plain: dict[str, Any]) -> System:
    """The system that a weights file describes, to be filled from the file: nothing else is read or fetched."""
    return build(without_sources(from_plain(SystemConfig, plain)))


def without_sources(config: SystemConfig) -> SystemConfig:
    """The same system, whose backbone asks neither for a local file nor for downloaded weights."""
    pretrained = {"pretrained": False} if hasattr(config.backbone, "pretrained") else {}
    return replace(config, backbone=replace(config.backbone, weights="", **pretrained))
