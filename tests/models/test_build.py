"""One mapping from the type of a config to what is built from it."""

import pkgutil
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import humanquery
from humanquery import experts, models
from humanquery.backbones import TimmBackbone
from humanquery.experts import AttributesBackbone, MoveNetBackbone, StackedBackbone
from tests.models.small import small_config, small_model

PACKAGE = Path(humanquery.__file__).parent


def test_every_config_that_a_file_may_hold_can_be_built():
    assert set(get_args(models.SystemConfig)) == set(models.SYSTEMS)
    for config, name in models.SYSTEMS.items():
        built_from = pkgutil.resolve_name(name).__init__.__annotations__["config"]
        assert config in (built_from, *get_args(built_from)), name
    assert set(get_args(experts.AnyBackbone)) == set(experts.MODULES)


def test_nothing_else_in_networks_asks_for_the_type_of_a_config():
    asks = re.compile(r"isinstance\([^)]*(Config|Backbone)\)")
    files = [p for folder in ("models", "backbones", "experts", "tasks", "nn")
             for p in (PACKAGE / folder).rglob("*.py")]  # fmt: skip
    # `Backbone` and `Expert` themselves are modules, not configs
    assert not [str(p) for p in files if asks.search(p.read_text())]


def test_a_config_without_sources_asks_for_no_file_and_no_download_in_any_part():
    inner = AttributesBackbone("a", TimmBackbone("resnet10t", pretrained=True))
    parts = (TimmBackbone("resnet10t", pretrained=True, weights="w"), MoveNetBackbone("m"), inner)
    found = models.without_sources(replace(small_config(), backbone=StackedBackbone(parts)))
    assert [part.weights for part in found.backbone.parts] == ["", "", ""]
    assert not found.backbone.parts[0].pretrained
    assert not found.backbone.parts[2].backbone.pretrained
    assert replace(found, backbone=small_config().backbone) == small_config()


def test_hqnet_of_the_paper_has_no_part_that_takes_over_from_experts():
    model = small_model()
    assert model.priors is None
    assert not [name for name in model.state_dict() if name.startswith("priors")]
