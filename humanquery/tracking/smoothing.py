"""What a person is over time: joints that do not shiver, gender and age that settle."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class SmoothConfig:
    """One-Euro filter of joints (Casiez et al. 2012) and running means of gender and age; `frame_rate` in frames per second."""

    joints: bool = True
    attributes: bool = True
    frame_rate: float = 30.0
    min_cutoff: float = 1.5
    """Hz; lower is calmer when a person stands still"""
    beta: float = 4.0
    """Hz per body height per second; higher follows quick moves more closely"""
    speed_cutoff: float = 1.0


@dataclass(frozen=True, eq=False)
class Joints:
    """The filter of n tracks: smoothed places (px) and speeds (body heights per second)."""

    places: Float[Tensor, "n k 2"]
    speeds: Float[Tensor, "n k 2"]


def rest(joints: Float[Tensor, "n k 2"]) -> Joints:
    """Filters that start at these joints."""
    return Joints(joints, torch.zeros_like(joints))


def smooth(
    before: Joints,
    joints: Float[Tensor, "n k 2"],
    heights: Float[Tensor, " n"],
    known: Bool[Tensor, " n"],
    config: SmoothConfig,
) -> Joints:
    """One frame later; tracks that are not `known` (lost a while ago) start anew. `heights` of the boxes, px."""
    step = 1 / config.frame_rate
    scale = heights.clamp(min=1.0)[:, None, None]
    speed = (joints - before.places) / scale / step
    speed = before.speeds + _share(torch.tensor(config.speed_cutoff), step) * (speed - before.speeds)
    share = _share(config.min_cutoff + config.beta * speed.norm(dim=-1, keepdim=True), step)
    places = before.places + share * (joints - before.places)
    known = known[:, None, None]
    return Joints(torch.where(known, places, joints), torch.where(known, speed, 0.0))


def _share(cutoff: Tensor, step: float) -> Tensor:
    """How much of the newest value a low pass of `cutoff` Hz takes."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * step))


@dataclass(frozen=True, eq=False)
class Means:
    """Weighted sums of gender and age (columns) of n tracks, and the weights."""

    sums: Float[Tensor, "n 2"]
    weights: Float[Tensor, " n"]

    def adding(self, values: Float[Tensor, "n 2"], weights: Float[Tensor, " n"]) -> "Means":
        return Means(self.sums + values * weights[:, None], self.weights + weights)

    @property
    def values(self) -> Float[Tensor, "n 2"]:
        return self.sums / self.weights.clamp(min=1e-6)[:, None]
