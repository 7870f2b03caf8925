"""Systems by their configuration."""

from typing import Any

from humanquery.core.config import from_plain
from humanquery.core.system import System
from humanquery.models.hqnet.config import HQNetConfig
from humanquery.models.hqnet.hqnet import HQNet

SystemConfig = HQNetConfig


def build(config: Any) -> System:
    """The system of a config dataclass, or of its plain form as weights files carry it; fresh weights."""
    if isinstance(config, dict):
        config = from_plain(SystemConfig, config)
    return HQNet(config)
