"""AdamW with a slower backbone, learning-rate schedules as functions of the step, and the average
of the weights."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from humanquery.core.errors import ConfigError


@dataclass(frozen=True)
class OptimConfig:
    """Defaults are the paper's (HQNet, released configuration): no warm-up, no averaging, decay on
    every parameter."""

    lr: float = 1e-4
    weight_decay: float = 1e-4
    backbone_multiplier: float = 0.1
    """factor on `lr` of parameters whose name begins with `backbone.`; 0 freezes them at their
    first values"""
    only: tuple[str, ...] = ()
    """if given, only parameters whose name begins with one of these learn, e.g.
    ("tasks.mask.refinement",)"""
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
        if not 0 <= self.ema < 1:
            raise ConfigError(
                f"optim.ema: got {self.ema}, expected 0 (off) or a decay below 1, e.g. 0.999"
            )
        if len(self.betas) != 2:
            raise ConfigError(
                f"optim.betas: got {self.betas}, expected two numbers, e.g. (0.9, 0.999)"
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


def param_groups(module: nn.Module, config: OptimConfig) -> list[dict]:
    """AdamW groups of the trainable parameters: backbone or not, decayed or not; `multiplier` is
    kept in each group.

    No trainable parameter at all raises ConfigError.
    """
    groups: dict[tuple[bool, bool], dict] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        in_backbone = name.startswith("backbone.")
        decayed = parameter.ndim >= 2 or not config.exempt_norms_and_biases
        group = {
            "params": [],
            "multiplier": config.backbone_multiplier if in_backbone else 1.0,
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        groups.setdefault((in_backbone, decayed), group)["params"].append(parameter)
    if not groups:
        raise ConfigError(
            f"{type(module).__name__} has no trainable parameter; is everything frozen?"
        )
    return [groups[key] for key in sorted(groups)]


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over `param_groups`; its rates are set by `set_lr` before each step."""
    return torch.optim.AdamW(param_groups(module, config), lr=config.lr, betas=tuple(config.betas))


def set_lr(optimizer: torch.optim.Optimizer, config: OptimConfig, step: int, steps: int) -> float:
    """Sets every group's rate for the optimizer step number `step`; returns the rate of what is not
    backbone."""
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
