import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from humanquery.core.config import from_plain, override, to_plain
from humanquery.core.errors import ConfigError


@dataclass(frozen=True)
class Small:
    name: str = "resnet18"
    frozen: bool = False


@dataclass(frozen=True)
class Large:
    name: str = "swin"
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Optim:
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = 0.1
    kind: Literal["adamw", "sgd"] = "adamw"


@dataclass(frozen=True)
class Model:
    queries: int
    backbone: Small | Large = Small()
    optim: Optim = Optim()
    heads: tuple[Small | Large, ...] = (Small(), Large())
    seed: int | None = None
    weights: dict[str, float] = field(default_factory=dict)
    extra: Any = None


CHANGED = Model(
    300, Large(sizes=()), Optim(clip=None), (Large("a", (3,)),), 5, {"box": 5.0}, [1, "x"]
)


@pytest.mark.parametrize("config", [Model(1), CHANGED])
def test_plain_data_and_back_through_json(config):
    assert from_plain(Model, json.loads(json.dumps(to_plain(config)))) == config


def test_fields_left_out_take_their_defaults():
    assert from_plain(Model, {"queries": 7, "backbone": {"is": "Large"}}) == Model(7, Large())
    assert from_plain(Model, {"queries": 7, "backbone": "Large"}) == Model(7, Large())


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (
            {"queries": 1, "quieries": 2},
            "config: Model has no field 'quieries'. Did you mean 'queries'",
        ),
        (
            {"queries": 1, "optim": {"lrr": 1}},
            "config.optim: Optim has no field 'lrr'. Did you mean 'lr'",
        ),
        ({"queries": "many"}, r"config.queries: got 'many' \(str\), expected int"),
        ({"queries": 1.5}, r"config.queries: got 1.5 \(float\), expected int"),
        ({"queries": True}, r"config.queries: got True \(bool\), expected int"),
        (
            {"queries": 1, "optim": {"lr": "fast"}},
            r"config.optim.lr: got 'fast' \(str\), expected float",
        ),
        ({"queries": 1, "optim": {"betas": [0.9]}}, "config.optim.betas: got 1 values, expected 2"),
        (
            {"queries": 1, "optim": {"betas": "ab"}},
            "config.optim.betas: got 'ab' .*expected a list",
        ),
        ({"queries": 1, "optim": {"kind": "adam"}}, "got 'adam', expected one of 'adamw', 'sgd'"),
        ({"queries": 1, "optim": 3}, "config.optim: got 3, expected the fields of Optim"),
        ({"queries": 1, "backbone": {"is": "Larg"}}, "unknown kind 'Larg'. Did you mean 'Large'"),
        ({"queries": 1, "backbone": {}}, "unknown kind ''"),
        ({"queries": 1, "seed": "x"}, r"config.seed: got 'x' \(str\), expected int or None"),
        (
            {"queries": 1, "heads": [{"is": "Small", "name": 3}]},
            r"config.heads\[0\].name: got 3 \(int\), expected str",
        ),
        ({"is": "Optim", "queries": 1}, "config: got a Optim, expected a Model"),
        ({}, "config: Model needs a value for queries"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(plain, message):
    with pytest.raises(ConfigError, match=message):
        from_plain(Model, plain)


def test_only_plain_data_can_be_stored():
    with pytest.raises(
        ConfigError, match="config.extra holds a set; a config holds plain data only"
    ):
        to_plain(Model(1, extra={1}))


def test_override_changes_one_field_by_its_path():
    changed = override(
        Model(1),
        [
            "queries=30",
            "optim.lr=1",
            "optim.betas=(0.5, 0.6)",
            "optim.clip=none",
            "backbone=Large",
            "backbone.name=123",
        ],
    )
    assert changed == Model(30, Large("123"), Optim(1.0, (0.5, 0.6), None))
    assert override(Model(1), ["backbone.frozen=true", "seed=4"]) == Model(
        1, Small(frozen=True), seed=4
    )
    assert override(Model(1), []) == Model(1)


@dataclass(frozen=True)
class Row:
    models: tuple[Model, ...] = (Model(1), Model(2))


def test_override_reaches_parts_of_a_tuple_by_their_number():
    changed = override(Row(), ["models.1.queries=30", "models.0.optim.lr=1"])
    assert changed.models == (Model(1, optim=Optim(1.0)), Model(30))
    for assignment in ("models.2.queries=3", "models.last.queries=3", "models.1=3"):
        with pytest.raises(ConfigError, match="--set models"):
            override(Row(), [assignment])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("queries", "--set queries: expected field=value, e.g. optim.lr=1e-4"),
        ("optim.lrr=1", "--set optim.lrr: Optim has no field 'lrr'. Did you mean 'lr'"),
        ("optim.lr.x=1", r"--set optim.lr.x: 0.0001 \(float\) has no fields, so no 'x'"),
        ("queries=many", r"--set queries: got 'many' \(str\), expected int"),
    ],
)
def test_an_override_that_cannot_be_says_why(assignment, message):
    with pytest.raises(ConfigError, match=message):
        override(Model(1), [assignment])
