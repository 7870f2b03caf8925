"""Optimizer, learning-rate schedules, moving average of the weights."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class OptimConfig:
    """Defaults are the paper's: AdamW 1e-4, a tenth of it for the backbone, gradients clipped at norm 0.1."""

    lr: float = 1e-4
    weight_decay: float = 1e-4
    backbone_multiplier: float = 0.1
    betas: tuple[float, ...] = (0.9, 0.999)
    clip_norm: float = 0.1
    """0 leaves gradients as they are"""
    schedule: Literal["constant", "step", "cosine"] = "step"
    milestones: tuple[float, ...] = (0.8,)
    """shares of the run after which "step" divides the rate by ten"""
    final_rate: float = 0.01
    """share of the rate at which "cosine" ends"""
    warmup_steps: int = 0
    ema_decay: float = 0.0
    """moving average of the weights, per step; 0 keeps none"""


def optimizer_of(system: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW with two groups: parameters under `backbone.`, and the others."""
    trained = [(n, p) for n, p in system.named_parameters() if p.requires_grad]
    backbone = [p for n, p in trained if n.startswith("backbone.")]
    others = [p for n, p in trained if not n.startswith("backbone.")]
    groups = [
        {"params": others, "multiplier": 1.0},
        {"params": backbone, "multiplier": config.backbone_multiplier},
    ]
    groups = [{**g, "lr": config.lr * g["multiplier"]} for g in groups if g["params"]]
    return torch.optim.AdamW(groups, lr=config.lr, betas=tuple(config.betas), weight_decay=config.weight_decay)


def rate(step: int, steps: int, config: OptimConfig) -> float:
    """Learning rate as a share of `config.lr`, at `step` of `steps` (from 0)."""
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    done = step / max(steps, 1)
    if config.schedule == "constant":
        return warmup
    if config.schedule == "step":
        return warmup * 0.1 ** sum(done >= milestone for milestone in config.milestones)
    wave = (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return warmup * (config.final_rate + (1 - config.final_rate) * wave)


def set_rate(optimizer: torch.optim.Optimizer, share: float, config: OptimConfig) -> None:
    for group in optimizer.param_groups:
        group["lr"] = config.lr * group["multiplier"] * share


class MovingAverage:
    """Exponential moving average of all floating-point weights and buffers; early steps weigh more, so that the first
    average is not the initial weights."""

    def __init__(self, system: nn.Module, decay: float):
        self.decay = decay
        self.steps = 0
        self.state = {n: t.detach().clone() for n, t in system.state_dict().items()}

    @torch.no_grad()
    def update(self, system: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in system.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value.detach(), 1 - decay)
            else:
                self.state[name].copy_(value)

    def state_dict(self) -> dict[str, Tensor | int]:
        return {"steps": self.steps, "state": self.state}

    def load_state_dict(self, stored: dict) -> None:
        self.steps = stored["steps"]
        for name, value in self.state.items():
            value.copy_(stored["state"][name])
