"""AdamW or Adafactor with a rate and a decay for each group of parameters, learning-rate schedules
as functions of the step, and the average of the weights."""

import fnmatch
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from humanquery.core.errors import ConfigError


@dataclass(frozen=True)
class ParamRule:
    """How the parameters learn whose name matches `pattern` (`*` and `?` as in file names)."""

    pattern: str
    lr: float = 1.0
    """factor on `OptimConfig.lr`; 0 leaves them at their first values"""
    weight_decay: float = 1.0
    """factor on `OptimConfig.weight_decay`"""

    def __post_init__(self):
        for name in ("lr", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ConfigError(
                    f"optim.groups: {self.pattern!r}: {name} is {getattr(self, name)}, expected a "
                    f"factor of 0 or more"
                )


@dataclass(frozen=True)
class SharedBy:
    """Parameters that learn from some data sets alone (a head of two of five, say).

    Their gradient is the sum over a step's micro-batches of weight times gradient; a data set that
    is not named has weight 0. Parameters in no such group have weight 1 / (micro-batches of the
    step) for every data set.
    """

    pattern: str
    """of parameter names, `*` and `?` as in file names; the first group that matches counts"""
    data_sets: tuple[str, ...]
    weights: tuple[float, ...] = ()
    """one per data set; empty: 1 / (micro-batches of the step) for each of them"""

    def __post_init__(self):
        if not self.data_sets or len(self.weights) not in (0, len(self.data_sets)):
            raise ConfigError(
                f"optim.shared: {self.pattern!r} has {len(self.data_sets)} data sets and "
                f"{len(self.weights)} weights; expected at least one data set, and a weight for "
                f"each or none at all"
            )


@dataclass(frozen=True)
class OptimConfig:
    """Defaults are the paper's (HQNet, released configuration): no warm-up, no averaging, decay on
    every parameter."""

    lr: float = 1e-4
    weight_decay: float = 1e-4
    groups: tuple[ParamRule, ...] = ()
    """rates and decays by name; the first rule that matches a parameter counts"""
    backbone_multiplier: float = 0.1
    """short for a last rule `ParamRule("backbone.*", lr=...)`; 0 freezes the backbone at its first
    values"""
    layer_decay: float = 1.0
    """each layer of the backbone learns so many times as fast as the one above it (BEiT, Bao et
    al. 2022, uses 0.65 to 0.9); 1: all alike. Layers as the system's `layer_depths` says, or
    `timm_depths`"""
    shared: tuple[SharedBy, ...] = ()
    """parameters that learn from some data sets alone; for steps of (data set, batch) pairs"""
    only: tuple[str, ...] = ()
    """if given, only parameters whose name begins with one of these learn, e.g.
    ("tasks.mask.refinement",)"""
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """adafactor: timm's, with the first beta, without scaling by the parameters' size (HumanBench's
    without its cap of the second moment's decay at 0.999, which begins after 5,600 steps)"""
    update_clip: float = 0.5
    """adafactor: largest root mean square of an update, before the rate"""
    betas: tuple[float, ...] = (0.9, 0.999)
    clip: float = 0.1
    """largest L2 norm of all gradients together; 0: no clipping"""
    exempt_norms_and_biases: bool = False
    """no weight decay on parameters with fewer than two dimensions"""
    schedule: Literal["step", "cosine", "constant"] = "step"
    milestones: tuple[float, ...] = (0.8,)
    """schedule step: where `lr` is multiplied by `gamma`; up to 1.0 a fraction of all steps, above
    it a step"""
    gamma: float = 0.1
    warmup_steps: int = 0
    """linear rise from lr / warmup_steps"""
    ema: float = 0.0
    """decay per step of the average of the weights, e.g. 0.999; 0: no averaging"""

    def __post_init__(self):
        if self.schedule not in ("step", "cosine", "constant"):
            raise ConfigError(
                f"optim.schedule: got {self.schedule!r}, expected one of step, cosine, constant"
            )
        if self.optimizer not in ("adamw", "adafactor"):
            raise ConfigError(
                f"optim.optimizer: got {self.optimizer!r}, expected adamw or adafactor"
            )
        if not 0 <= self.ema < 1:
            raise ConfigError(
                f"optim.ema: got {self.ema}, expected 0 (off) or a decay below 1, e.g. 0.999"
            )
        if len(self.betas) != 2:
            raise ConfigError(
                f"optim.betas: got {self.betas}, expected two numbers, e.g. (0.9, 0.999)"
            )
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(
                f"optim.layer_decay: got {self.layer_decay}, expected above 0 and at most 1 (off)"
            )
        for name in ("lr", "weight_decay", "backbone_multiplier", "clip", "warmup_steps"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"optim.{name}: got {getattr(self, name)}, expected 0 or more")


def lr_factor(config: OptimConfig, step: int, steps: int) -> float:
    """What `lr` is multiplied by in the optimizer step number `step` (0 .. steps - 1); warm-up
    times schedule, 0..1."""
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant":
        return warmup
    if config.schedule == "cosine":
        begun = max(0, step - config.warmup_steps) / max(1, steps - config.warmup_steps)
        return warmup * 0.5 * (1 + math.cos(math.pi * begun))
    passed = sum(step >= (m * steps if m <= 1 else m) for m in config.milestones)
    return warmup * config.gamma**passed


def depends_on_length(config: OptimConfig) -> bool:
    """Whether the schedule of a run's first steps changes with the number of all its steps."""
    if config.schedule == "step":
        return any(milestone <= 1 for milestone in config.milestones)
    return config.schedule == "cosine"


def freeze_others(module: nn.Module, only: tuple[str, ...]) -> None:
    """Only parameters whose name begins with one of `only` learn on; an empty `only` changes
    nothing. A name that none has raises ConfigError."""
    if not only:
        return
    names = [name for name, _ in module.named_parameters()]
    for start in only:
        if not any(name.startswith(start) for name in names):
            raise ConfigError(
                f"optim.only: no parameter's name begins with {start!r}; there are {names[0]}, "
                f"{names[-1]} ..."
            )
    for name, parameter in module.named_parameters():
        if not name.startswith(tuple(only)):
            parameter.requires_grad_(False)


def matching(names: Iterable[str], patterns: Iterable[str], field: str) -> dict[str, int]:
    """Number of the first pattern that matches each name; names that none matches are left out.

    A pattern that matches no name raises ConfigError, which calls it `field`: a rule that changes
    nothing is a typing error.
    """
    names, found = list(names), {}
    for number, pattern in enumerate(patterns):
        fitting = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not fitting:
            raise ConfigError(
                f"{field}: no parameter is called {pattern!r}; there are {names[0]}, {names[-1]} "
                f"..."
            )
        for name in fitting:
            found.setdefault(name, number)
    return found


# of a block within a stage both numbers count: stages.1.blocks.0, layer2.0, blocks.3.1
_LAYER = re.compile(r"(?:^|\.)(?:block|layer|stage)s?[._]?(\d+)(?:\.(\d+))?(?=\.)")


def timm_depths(names: Iterable[str]) -> dict[str, int]:
    """Layer of every parameter of a network in the manner of timm, 0 nearest the picture; `names`
    in the order of `named_parameters`.

    Numbered blocks (`blocks.3`, `stages.1.blocks.0`, `layer2.0` ...) count up in their order from
    1. What has no number is 0 before the first block (embeddings, stems), stands above all blocks
    after the last (norms, heads), and elsewhere belongs to the block before it.
    """
    keys = {
        name: tuple(int(number) for pair in _LAYER.findall(name) for number in pair if number)
        for name in names
    }
    depth_of = {key: depth for depth, key in enumerate(sorted({k for k in keys.values() if k}), 1)}
    depths, depth, left = {}, 0, sum(map(bool, keys.values()))
    for name, key in keys.items():
        depth = depth_of[key] if key else depth if left else len(depth_of) + 1
        depths[name] = depth
        left -= bool(key)
    return depths


def layer_rates(module: nn.Module, decay: float) -> dict[str, tuple[int, float]]:
    """Name of a backbone's parameter -> (layers above it, decay to that power).

    `module.layer_depths(names) -> {name: depth}`, where there is one, names the layers, else
    `timm_depths`. ConfigError for a backbone without layers.
    """
    names = [name for name, _ in module.named_parameters() if name.startswith("backbone.")]
    depths = getattr(module, "layer_depths", timm_depths)(names)
    if len(set(depths.values())) < 2:
        raise ConfigError(
            f"optim.layer_decay: the backbone of {type(module).__name__} has no layers to tell "
            f"apart ({', '.join(names[:2]) or 'it has no parameters'} ...); set it to 1"
        )
    above = max(depths.values())
    return {name: (above - depth, decay ** (above - depth)) for name, depth in depths.items()}


def param_groups(module: nn.Module, config: OptimConfig) -> list[dict]:
    """AdamW groups of the trainable parameters, one for each rate and decay; `multiplier`, the
    factor on the rate, is kept in each group.

    A rule that matches no parameter, and no trainable parameter at all, raise ConfigError.
    """
    names = [name for name, _ in module.named_parameters()]
    rule_of = matching(names, [rule.pattern for rule in config.groups], "optim.groups")
    layers = layer_rates(module, config.layer_decay) if config.layer_decay < 1 else {}
    groups: dict[tuple, dict] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        in_backbone = name.startswith("backbone.")
        rule = ParamRule("backbone.*", config.backbone_multiplier if in_backbone else 1.0)
        if name in rule_of:
            rule = config.groups[rule_of[name]]
        above, slower = layers.get(name, (0, 1.0))
        decayed = parameter.ndim >= 2 or not config.exempt_norms_and_biases
        group = {
            "params": [],
            "multiplier": rule.lr * slower,
            "weight_decay": config.weight_decay * rule.weight_decay if decayed else 0.0,
        }
        # the order of groups is the order of moments in saved states: it must not change
        key = (rule_of.get(name, -1), in_backbone, above, decayed)
        groups.setdefault(key, group)["params"].append(parameter)
    if not groups:
        raise ConfigError(
            f"{type(module).__name__} has no trainable parameter; is everything frozen?"
        )
    return [groups[key] for key in sorted(groups)]


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW or Adafactor over `param_groups`; rates are set by `set_lr` before each step."""
    if config.optimizer == "adafactor":
        from timm.optim import Adafactor  # here: whoever only predicts need not wait for it

        return Adafactor(
            param_groups(module, config),
            lr=config.lr,
            betas=tuple(config.betas),
            clip_threshold=config.update_clip,
            scale_parameter=False,
        )
    return torch.optim.AdamW(param_groups(module, config), lr=config.lr, betas=tuple(config.betas))


def set_lr(optimizer: torch.optim.Optimizer, config: OptimConfig, step: int, steps: int) -> float:
    """Sets every group's rate for the optimizer step number `step`; returns the rate of parameters
    that no rule slows down."""
    lr = config.lr * lr_factor(config, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["multiplier"]
    return lr


def clip_gradients(parameters: list[nn.Parameter], limit: float) -> Float[Tensor, ""]:
    """Scales all gradients together to an L2 norm of at most `limit` (0: leaves them); returns the
    norm before."""
    norm = nn.utils.clip_grad_norm_(parameters, limit or math.inf)
    return whole(norm).detach().float()


def whole(tensor: Tensor) -> Tensor:
    """A tensor that FSDP sharded, gathered from all ranks (all must call); any other tensor as it
    is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


class WeightAverage:
    """Exponential moving average of a module's weights, free of bias from the first step on.

    After t updates the average is sum_i decay^(t-i) w_i / sum_i decay^(t-i): the first update gives
    the weights themselves (Adam's bias correction, done in place). Batch-norm statistics are
    averaged too; every other buffer is copied from the module.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self.state = {name: value.detach().clone() for name, value in module.state_dict().items()}
        parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        self._averaged = [
            name
            for name, value in self.state.items()
            if value.is_floating_point()
            and (name in parameters or name.endswith(("running_mean", "running_var")))
        ]

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes in the weights as they are now."""
        self.updates += 1
        share = (1 - self.decay) / (1 - self.decay**self.updates)
        now = module.state_dict()
        own = [_local(self.state[name]) for name in self._averaged]
        torch._foreach_lerp_(own, [_local(now[name].detach()) for name in self._averaged], share)
        for name in now.keys() - set(self._averaged):
            self.state[name].copy_(now[name])


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
