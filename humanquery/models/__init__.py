"""Systems by their configuration."""

import dataclasses
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from humanquery.core.config import from_plain, override
from humanquery.core.system import System
from humanquery.models.attributes.config import AttributesConfig
from humanquery.models.hqnet.config import HQNetConfig
from humanquery.models.path.config import PathConfig
from humanquery.models.pixelwise.config import PixelWiseConfig
from humanquery.models.topdown.config import TopDownConfig

SYSTEMS: dict[type, str] = {
    HQNetConfig: "hqnet.hqnet.HQNet",
    AttributesConfig: "attributes.system.Attributes",
    TopDownConfig: "topdown.system.TopDown",
    PixelWiseConfig: "pixelwise.system.PixelWise",
    PathConfig: "path.system.Path",
}
"""type of a config -> the system that is built from it, imported when it is: timm alone takes
seconds. A new system needs a line here and a place in `SystemConfig`"""

SystemConfig = HQNetConfig | AttributesConfig | TopDownConfig | PixelWiseConfig | PathConfig


def build(config: SystemConfig) -> System:
    """The system of a config, with fresh weights (the backbone's as its config says)."""
    module, name = SYSTEMS[type(config)].rsplit(".", 1)
    return getattr(import_module(f"humanquery.models.{module}"), name)(config)


def rebuild(plain: dict[str, Any], settings: Sequence[str] = ()) -> System:
    """The system that a weights file describes, to be filled from the file: nothing else is read or
    fetched.

    `settings` change fields of its config (`core.config.override`).
    """
    return build(without_sources(override(from_plain(SystemConfig, plain), list(settings))))


SOURCES = {"weights": "", "pretrained": False}
"""fields, of whatever config, that fetch weights from elsewhere, and what they are without"""


def without_sources(config: Any) -> Any:
    """The same config, in which nothing (a backbone, a part of one) asks for a local file or for
    downloaded weights."""
    if isinstance(config, tuple):
        return tuple(without_sources(part) for part in config)
    if not dataclasses.is_dataclass(config):
        return config
    fields = {one.name: getattr(config, one.name) for one in dataclasses.fields(config) if one.init}
    return dataclasses.replace(
        config, **{n: SOURCES.get(n, without_sources(value)) for n, value in fields.items()}
    )
