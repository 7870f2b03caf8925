import math

import pytest
import torch
from torch import nn

from humanquery.core.config import override
from humanquery.core.errors import ConfigError
from humanquery.engine.optim import (
    OptimConfig,
    WeightAverage,
    build_optimizer,
    clip_gradients,
    freeze_others,
    lr_factor,
    param_groups,
    set_lr,
)
from tests.engine.toy import Toy, ToyConfig


def test_the_papers_schedule_drops_tenfold_after_four_fifths():
    config = OptimConfig()
    assert [lr_factor(config, step, 100) for step in (0, 79)] == [1.0, 1.0]
    assert [lr_factor(config, step, 100) for step in (80, 99)] == pytest.approx([0.1, 0.1])


def test_a_milestone_above_one_is_a_step():
    config = OptimConfig(milestones=(0.5, 80.0))
    assert [lr_factor(config, s, 100) for s in (49, 50, 80)] == pytest.approx([1, 0.1, 0.01])


def test_cosine_falls_from_one_through_a_half_after_the_warm_up():
    config = OptimConfig(schedule="cosine", warmup_steps=10)
    assert lr_factor(config, 0, 110) == pytest.approx(0.1)
    assert lr_factor(config, 9, 110) == pytest.approx(1.0)
    assert lr_factor(config, 60, 110) == pytest.approx(0.5)
    assert 0 < lr_factor(config, 109, 110) < 0.001


def test_constant_stays_and_a_run_of_one_step_has_a_rate():
    assert lr_factor(OptimConfig(schedule="constant"), 99, 100) == 1.0
    assert lr_factor(OptimConfig(schedule="cosine"), 0, 1) == 1.0


def test_the_backbone_learns_slower_and_frozen_parameters_are_left_out():
    toy = Toy()
    toy.head.bias.requires_grad_(False)
    optimizer = build_optimizer(toy, OptimConfig(lr=1.0))
    assert set_lr(optimizer, OptimConfig(lr=1.0), 0, 10) == 1.0
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in toy.named_parameters():
        expected = None if name == "head.bias" else (0.1 if name.startswith("backbone.") else 1.0)
        assert rates.get(id(parameter)) == expected, name


def test_norms_and_biases_are_decayed_unless_exempt():
    toy = Toy(ToyConfig(norm=True))
    assert {g["weight_decay"] for g in param_groups(toy, OptimConfig())} == {1e-4}
    undecayed = [
        p
        for g in param_groups(toy, OptimConfig(exempt_norms_and_biases=True))
        if g["weight_decay"] == 0
        for p in g["params"]
    ]
    assert {p.ndim for p in undecayed} == {1}
    assert len(undecayed) == sum(p.ndim == 1 for p in toy.parameters())


def test_a_wholly_frozen_module_is_refused():
    with pytest.raises(ConfigError, match="Linear has no trainable parameter"):
        param_groups(nn.Linear(1, 1).requires_grad_(False), OptimConfig())


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"ema": 1.0}, "optim.ema: got 1.0"),
        ({"lr": -1.0}, "optim.lr: got -1.0, expected 0 or more"),
        ({"lr": math.nan}, "optim.lr: got nan"),
        ({"betas": (0.9,)}, "expected two numbers"),
    ],
)
def test_impossible_values_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        OptimConfig(**fields)


def test_an_unknown_schedule_is_refused_with_the_known_ones():
    with pytest.raises(
        ConfigError, match="got 'linear', expected one of 'step', 'cosine', 'constant'"
    ):
        override(OptimConfig(), ["schedule=linear"])


def test_clipping_keeps_the_direction_and_gives_the_norm_before():
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert clip_gradients([parameter], 0.0).item() == 5.0
    assert parameter.grad.tolist() == [3.0, 4.0]
    assert clip_gradients([parameter], 1.0).item() == 5.0
    assert parameter.grad.tolist() == pytest.approx([0.6, 0.8])


def test_the_average_is_free_of_bias_from_the_first_update():
    module = nn.Linear(1, 1, bias=False)
    average = WeightAverage(module, 0.5)
    for weight in (8.0, 2.0, 4.0):
        nn.init.constant_(module.weight, weight)
        average.update(module)
        if weight == 8.0:
            assert average.state["weight"].item() == 8.0
    # (0.25·8 + 0.5·2 + 4) / (0.25 + 0.5 + 1)
    assert average.state["weight"].item() == pytest.approx(4.0)


def test_the_average_copies_counters_and_averages_norm_statistics():
    norm = nn.BatchNorm1d(1)
    average = WeightAverage(norm, 0.5)
    for mean, count in ((1.0, 1), (4.0, 2)):
        norm.running_mean.fill_(mean)
        norm.num_batches_tracked.fill_(count)
        average.update(norm)
    assert average.state["running_mean"].item() == pytest.approx((0.5 * 1 + 4) / 1.5)
    assert average.state["num_batches_tracked"].item() == 2


def test_only_the_named_parameters_learn_and_a_name_that_none_has_is_refused():
    module = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    freeze_others(module, ())
    assert all(p.requires_grad for p in module.parameters())
    with pytest.raises(ConfigError, match="optim.only: no parameter's name begins with 'c'"):
        freeze_others(module, ("a", "c"))
    freeze_others(module, ("a.weight",))
    assert [name for name, p in module.named_parameters() if p.requires_grad] == ["a.weight"]
