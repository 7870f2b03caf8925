"""What a person is over time: joints that do not shiver, gender and age that settle."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True)
class SmoothConfig:
    """One-Euro filter of joints (Casiez et al. 2012) and running means of gender and age;
    `frame_rate` in frames per second."""

    joints: bool = True
    attributes: bool = True
    frame_rate: float = 30.0
    min_cutoff: float = 1.5
    """Hz; lower is calmer when a person stands still"""
    beta: float = 4.0
    """Hz per body height per second; higher follows quick moves more closely"""
    speed_cutoff: float = 1.0


def smooth(
    places: Float[np.ndarray, "n k 2"],
    speeds: Float[np.ndarray, "n k 2"],
    joints: Float[np.ndarray, "n k 2"],
    heights: Float[np.ndarray, " n"],
    known: Bool[np.ndarray, " n"],
    config: SmoothConfig,
) -> tuple[Float[np.ndarray, "n k 2"], Float[np.ndarray, "n k 2"]]:
    """Smoothed places (px) and speeds (body heights per second) one frame later, when the joints
    were seen at `joints`.

    Tracks that are not `known` (lost a while ago) start anew, at rest. `heights` of the boxes, px.
    """
    step = 1 / config.frame_rate
    scale = np.maximum(heights, 1.0)[:, None, None]
    now = (joints - places) / scale / step
    now = speeds + _share(config.speed_cutoff, step) * (now - speeds)
    pace = np.sqrt((now**2).sum(-1, keepdims=True))
    moved = places + _share(config.min_cutoff + config.beta * pace, step) * (joints - places)
    known = known[:, None, None]
    return np.where(known, moved, joints), np.where(known, now, np.float32(0))


def _share(cutoff, step: float):
    """How much of the newest value a low pass of `cutoff` Hz takes."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * step))
