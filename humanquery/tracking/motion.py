"""Where people are heading: a Kalman filter for all boxes at once."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from humanquery.core.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh


@dataclass(frozen=True)
class MotionConfig:
    """Standard deviations in sides of the box (width for cx and w, height for cy and h), per frame; DeepSORT's values."""

    place_noise: float = 1 / 20
    speed_noise: float = 1 / 160
    gate: float = 9.4877
    """largest squared Mahalanobis distance of a box that may be the track's: 95 % of chi-square with four degrees"""


@dataclass(frozen=True, eq=False)
class Motion:
    """Box centre and sides (cx, cy, w, h) of n tracks, moving with constant speed.

    Noise and motion never mix two of the four numbers, so each has a 2×2 covariance of its own, held as three numbers
    (variance of the place, covariance, variance of the speed): the same filter as DeepSORT's 8×8 one.
    """

    place: Float[Tensor, "n 4"]
    speed: Float[Tensor, "n 4"]
    spread: Float[Tensor, "n 4 3"]

    @property
    def boxes(self) -> Float[Tensor, "n 4"]:
        """xyxy px"""
        return cxcywh_to_xyxy(self.place)

    def __getitem__(self, index) -> "Motion":
        return Motion(self.place[index], self.speed[index], self.spread[index])


def start(boxes: Float[Tensor, "n 4"], config: MotionConfig) -> Motion:
    """Tracks at rest at these boxes (xyxy px), of whose speed little is known."""
    place = xyxy_to_cxcywh(boxes)
    sides = _sides(place)
    place_variance = (2 * config.place_noise * sides) ** 2
    speed_variance = (10 * config.speed_noise * sides) ** 2
    spread = torch.stack([place_variance, torch.zeros_like(place), speed_variance], -1)
    return Motion(place, torch.zeros_like(place), spread)


def predict(motion: Motion, config: MotionConfig) -> Motion:
    """One frame later."""
    sides = _sides(motion.place)
    a, b, c = motion.spread.unbind(-1)
    a, b, c = a + 2 * b + c + (config.place_noise * sides) ** 2, b + c, c + (config.speed_noise * sides) ** 2
    place = motion.place + motion.speed
    place = torch.cat([place[:, :2], place[:, 2:].clamp(min=1.0)], 1)  # a box never shrinks to nothing
    return Motion(place, motion.speed, torch.stack([a, b, c], -1))


def correct(motion: Motion, boxes: Float[Tensor, "n 4"], config: MotionConfig) -> Motion:
    """After track i was seen at box i."""
    a, b, c = motion.spread.unbind(-1)
    missed = xyxy_to_cxcywh(boxes) - motion.place
    total = a + (config.place_noise * _sides(motion.place)) ** 2
    gain, speed_gain = a / total, b / total
    spread = torch.stack([(1 - gain) * a, (1 - gain) * b, c - speed_gain * b], -1)
    return Motion(motion.place + gain * missed, motion.speed + speed_gain * missed, spread)


def without_growth(motion: Motion, rows: Tensor) -> Motion:
    """Tracks `rows` keep their size from now on: nobody sees them, and a growing box would soon cover everybody."""
    speed = motion.speed.clone()
    speed[rows, 2:] = 0
    return replace(motion, speed=speed)


def distances(motion: Motion, boxes: Float[Tensor, "m 4"], config: MotionConfig) -> Float[Tensor, "n m"]:
    """Squared Mahalanobis distance of every box (xyxy px) from every track; compare with `MotionConfig.gate`."""
    total = motion.spread[..., 0] + (config.place_noise * _sides(motion.place)) ** 2
    missed = xyxy_to_cxcywh(boxes)[None] - motion.place[:, None]
    return (missed**2 / total[:, None]).sum(-1)


def _sides(place: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """w, h, w, h: the lengths that noise is measured in, at least 1 px."""
    sides = place[:, 2:].clamp(min=1.0)
    return torch.cat([sides, sides], 1)
