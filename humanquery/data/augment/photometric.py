"""Brightness, contrast, saturation, hue: what light and cameras change."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True)
class PhotometricConfig:
    """Ranges of the distortion of SSD (Liu et al. 2016, section 2.2) as the HQNet release uses
    it."""

    chance: float = 0.5
    """of each change by itself; 0 leaves pictures as they are"""
    brightness: float = 32.0
    """added or subtracted at most, of 255"""
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18.0
    """degrees of the colour circle at most"""
    swap_channels: float = 0.5
    """chance that red, green and blue change places"""


def distort_colours(
    image: UInt8[np.ndarray, "h w 3"], config: PhotometricConfig, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """RGB with drawn changes of brightness, contrast (before or after the colours), saturation,
    hue and channel order.

    All are tables over 256 values, so a picture of any size costs a few milliseconds.
    """
    values = np.arange(256, dtype=np.float32)
    levels = values.copy()
    if rng.random() < config.chance:
        levels = levels + rng.uniform(-config.brightness, config.brightness)
    contrast = rng.uniform(*config.contrast) if rng.random() < config.chance else 1.0
    contrast_first = rng.random() < 0.5
    image = cv2.LUT(image, _table(levels * (contrast if contrast_first else 1.0)))
    saturation = rng.uniform(*config.saturation) if rng.random() < config.chance else 1.0
    hue = rng.uniform(-config.hue, config.hue) if rng.random() < config.chance else 0.0
    if saturation != 1 or hue != 0:
        image = _turn_colours(image, saturation, hue)
    if not contrast_first:
        image = cv2.LUT(image, _table(values * contrast))
    if rng.random() < config.swap_channels * (config.chance > 0):
        image = np.ascontiguousarray(image[..., rng.permutation(3)])
    return image


def _turn_colours(image: np.ndarray, saturation: float, hue: float) -> np.ndarray:
    values = np.arange(256, dtype=np.float32)
    turned = ((np.arange(256) + round(hue * 256 / 360)) % 256).astype(
        np.uint8
    )  # HSV_FULL: the circle in 256 steps
    table = np.stack([turned, _table(values * saturation), _table(values)], -1)[None]
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL), table)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _table(values: np.ndarray) -> np.ndarray:
    return (values + 0.5).clip(0, 255).astype(np.uint8)
