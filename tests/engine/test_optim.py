import math

import pytest
import timm
import torch
from torch import nn

from humanquery.core.config import override
from humanquery.core.errors import ConfigError
from humanquery.engine.optim import (
    OptimConfig,
    ParamRule,
    SharedBy,
    WeightAverage,
    build_optimizer,
    clip_gradients,
    freeze_others,
    layer_rates,
    lr_factor,
    param_groups,
    set_lr,
    timm_depths,
)
from humanquery.engine.train_config import EngineConfig
from humanquery.engine.trainer import Trainer
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


def rates_of(module: nn.Module, config: OptimConfig) -> dict[str, tuple[float, float]]:
    """Name of a parameter -> its rate and decay in the first step."""
    optimizer = build_optimizer(module, config)
    set_lr(optimizer, config, 0, 10)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_the_first_rule_that_matches_sets_rate_and_decay():
    rules = (ParamRule("layers.0.*", lr=0.5, weight_decay=0.0), ParamRule("layers.*", lr=2.0))
    config = OptimConfig(lr=1.0, weight_decay=0.4, groups=rules, schedule="constant")
    rates = rates_of(Toy(), config)
    assert rates["layers.0.weight"] == rates["layers.0.bias"] == (0.5, 0.0)
    assert rates["layers.1.weight"] == (2.0, 0.4)
    assert rates["head.weight"] == (1.0, 0.4)
    assert rates["backbone.1.weight"] == (0.1, 0.4)


def test_a_rule_about_the_backbone_stands_in_place_of_its_multiplier():
    config = OptimConfig(lr=1.0, groups=(ParamRule("backbone.*", lr=0.3),))
    assert rates_of(Toy(), config)["backbone.1.weight"][0] == 0.3


def test_every_parameter_is_in_one_group_whatever_the_rules():
    rules = (ParamRule("*.bias", weight_decay=0.0), ParamRule("layers.*", lr=3.0))
    toy = Toy(ToyConfig(norm=True))
    rates = rates_of(toy, OptimConfig(groups=rules, exempt_norms_and_biases=True))
    assert rates.keys() == dict(toy.named_parameters()).keys()


@pytest.mark.parametrize(
    "field, make",
    [
        ("optim.groups", lambda pattern: {"groups": (ParamRule(pattern, lr=2.0),)}),
        ("optim.shared", lambda pattern: {"shared": (SharedBy(pattern, ("a",)),)}),
    ],
)
def test_a_rule_that_matches_nothing_is_refused_with_names_that_there_are(field, make):
    config = OptimConfig(**make("decoder.*"))
    trainer = Trainer(Toy(), EngineConfig(optim=config), torch.device("cpu"))
    with pytest.raises(ConfigError, match=f"{field}: no parameter is called 'decoder.\\*'; there"):
        trainer.begin()


@pytest.mark.parametrize("factors", [{"lr": -1.0}, {"weight_decay": math.nan}])
def test_impossible_factors_of_a_rule_are_refused(factors):
    name = next(iter(factors))
    with pytest.raises(ConfigError, match=f"'head.*': {name} is .*, expected a factor of 0 or mor"):
        ParamRule("head.*", **factors)


@pytest.mark.parametrize("data_sets, weights", [((), ()), (("a", "b"), (1.0,))])
def test_a_shared_group_needs_data_sets_and_a_weight_for_each(data_sets, weights):
    with pytest.raises(ConfigError, match="expected at least one data set, and a weight for each"):
        SharedBy("head.*", data_sets, weights)


def test_layers_of_timm_count_up_from_the_picture():
    names = ["cls_token", "patch_embed.w", "blocks.0.w", "blocks.1.attn.w", "norm.w"]
    assert list(timm_depths(names).values()) == [0, 0, 1, 2, 3]
    resnet = ["conv1.w", "bn1.w", "layer1.0.w", "layer1.1.w", "layer2.0.w", "fc.w"]
    assert list(timm_depths(resnet).values()) == [0, 0, 1, 2, 3, 4]
    # a stage's own parts (a down-sampling) lie before its blocks; ten comes after nine
    stages = ["stages.1.blocks.10.w", "stages.1.blocks.9.w", "stages.1.down.w", "stages.0.w"]
    assert list(timm_depths(stages).values()) == [4, 3, 2, 1]
    between = ["conv1.w", "layer1.0.w", "transition1.w", "stage2.0.branches.0.1.w", "head.w"]
    assert list(timm_depths(between).values()) == [0, 1, 1, 2, 3]
    assert len(set(timm_depths(["fc.w", "fc.b"]).values())) == 1 and timm_depths([]) == {}


@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "hrnet_w18_small"]
)
def test_depths_of_timms_networks_rise_in_the_order_of_the_forward_pass(name):
    """With the order in which the parameters were registered as the reference."""
    with torch.device("meta"):
        names = [name for name, _ in timm.create_model(name).named_parameters()]
    depths = list(timm_depths(names).values())
    assert depths[0] == 0 and len(set(depths)) > 3
    assert depths == sorted(depths)


def test_each_layer_of_the_backbone_learns_slower_than_the_one_above():
    toy = Toy()
    toy.layer_depths = lambda names: {name: 0 if ".1." in name else 2 for name in names}
    toy.backbone.append(nn.Conv2d(8, 8, 1))
    config = OptimConfig(lr=1.0, layer_decay=0.5, backbone_multiplier=0.1)
    assert layer_rates(toy, 0.5)["backbone.1.bias"] == (2, 0.25)
    rates = rates_of(toy, config)
    assert rates["backbone.1.weight"][0] == pytest.approx(0.1 * 0.25)
    assert rates["backbone.3.weight"][0] == pytest.approx(0.1)
    assert rates["head.weight"][0] == 1.0


def test_layer_decay_applies_to_a_rule_about_the_backbone_too():
    toy = Toy()
    toy.layer_depths = lambda names: {name: int(name.endswith("bias")) for name in names}
    rules = (ParamRule("backbone.*", lr=2.0), ParamRule("head.*", lr=3.0))
    rates = rates_of(toy, OptimConfig(lr=1.0, layer_decay=0.5, groups=rules))
    assert (rates["backbone.1.weight"][0], rates["backbone.1.bias"][0]) == (1.0, 2.0)
    assert rates["head.weight"][0] == 3.0


def test_a_backbone_without_layers_cannot_decay_by_layer():
    with pytest.raises(ConfigError, match="the backbone of Toy has no layers to tell apart"):
        build_optimizer(Toy(), OptimConfig(layer_decay=0.5))
    with pytest.raises(ConfigError, match="backbone of Linear has no layers .*no parameters"):
        build_optimizer(nn.Linear(1, 1), OptimConfig(layer_decay=0.5))
    with pytest.raises(ConfigError, match="optim.layer_decay: got 1.5"):
        OptimConfig(layer_decay=1.5)


def test_adafactor_has_the_groups_and_rates_of_adamw():
    config = OptimConfig(lr=1e-2, optimizer="adafactor", update_clip=1.0)
    toy = Toy()
    factored, plain = build_optimizer(toy, config), build_optimizer(toy, OptimConfig(lr=1e-2))
    set_lr(factored, config, 0, 10)
    assert [g["multiplier"] for g in factored.param_groups] == [
        g["multiplier"] for g in plain.param_groups
    ]
    toy.head.weight.grad = torch.ones_like(toy.head.weight)
    before = toy.head.weight.detach().clone()
    factored.step()
    # a first step of equal gradients is the rate, times 1 - beta 1, less the decay
    moved = before * (1 - 1e-2 * 1e-4) - toy.head.weight
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-2 * (1 - 0.9)), rtol=1e-3, atol=0)


def test_an_optimizer_that_there_is_not_is_told():
    with pytest.raises(ConfigError, match="got 'sgd', expected one of 'adamw', 'adafactor'"):
        override(OptimConfig(), ["optimizer=sgd"])
