"""Where people are heading: a Kalman filter for all boxes at once. Places are (cx, cy, w, h) in
px."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class MotionConfig:
    """Standard deviations in sides of the box (width for cx and w, height for cy and h), per
    frame; DeepSORT's values."""

    place_noise: float = 1 / 20
    speed_noise: float = 1 / 160
    gate: float = 9.4877
    """largest squared Mahalanobis distance of a box that may be the track's: 95 % of chi-square
    with four degrees"""


@dataclass(frozen=True, eq=False)
class Motion:
    """n tracks that move with constant speed.

    Noise and motion never mix two of the four numbers of a place, so each has a 2×2 covariance
    of its own, held as three numbers (variance of the place, covariance, variance of the speed):
    the same filter as DeepSORT's 8×8 one.
    """

    place: Float[np.ndarray, "n 4"]
    speed: Float[np.ndarray, "n 4"]
    spread: Float[np.ndarray, "n 3 4"]

    def __getitem__(self, rows: np.ndarray) -> "Motion":
        return Motion(self.place[rows], self.speed[rows], self.spread[rows])


def start(places: Float[np.ndarray, "n 4"], config: MotionConfig) -> Motion:
    """Tracks at rest at these places, of whose speed little is known."""
    sides = _sides(places)
    place_variance = (2 * config.place_noise * sides) ** 2
    speed_variance = (10 * config.speed_noise * sides) ** 2
    spread = np.stack([place_variance, np.zeros_like(places), speed_variance], 1)
    return Motion(places, np.zeros_like(places), spread)


def predict(motion: Motion, config: MotionConfig) -> Motion:
    """One frame later."""
    squared = _sides(motion.place) ** 2
    a, b, c = motion.spread.swapaxes(0, 1)
    spread = np.empty_like(motion.spread)
    spread[:, 0] = a + 2 * b + c + config.place_noise**2 * squared
    spread[:, 1] = b + c
    spread[:, 2] = c + config.speed_noise**2 * squared
    place = motion.place + motion.speed
    np.maximum(place[:, 2:], 1.0, out=place[:, 2:])  # a box never shrinks to nothing
    return Motion(place, motion.speed, spread)


def correct(motion: Motion, places: Float[np.ndarray, "n 4"], config: MotionConfig) -> Motion:
    """After track i was seen at place i."""
    a, b, c = motion.spread.swapaxes(0, 1)
    missed = places - motion.place
    total = a + (config.place_noise * _sides(motion.place)) ** 2
    gain, speed_gain = a / total, b / total
    spread = np.stack([(1 - gain) * a, (1 - gain) * b, c - speed_gain * b], 1)
    return Motion(motion.place + gain * missed, motion.speed + speed_gain * missed, spread)


def distances(
    motion: Motion, places: Float[np.ndarray, "m 4"], config: MotionConfig
) -> Float[np.ndarray, "n m"]:
    """Squared Mahalanobis distance of every place from every track; compare with
    `MotionConfig.gate`."""
    total = motion.spread[:, 0] + (config.place_noise * _sides(motion.place)) ** 2
    missed = places[None] - motion.place[:, None]
    return np.einsum("nmc,nc->nm", missed * missed, 1 / total)


def _sides(places: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    """w, h, w, h: the lengths that noise is measured in, at least 1 px."""
    return np.maximum(places[:, [2, 3, 2, 3]], 1.0)
