"""Each person as a picture of its own: crops, and cut-outs on transparent ground."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons

MARGIN = 0.05
"""of a crop, in longer sides of the box"""


def crop(
    image: UInt8[np.ndarray, "h w 3"], persons: Persons, i: int, margin: float = MARGIN
) -> UInt8[np.ndarray, "ch cw 3"]:
    """The part of the picture in person i's box, `margin` wider on each side, never empty."""
    top, bottom, left, right = _span(persons.boxes[i].tolist(), image.shape[:2], margin)
    return np.ascontiguousarray(image[top:bottom, left:right])


def cut_out(
    image: UInt8[np.ndarray, "h w 3"], persons: Persons, i: int
) -> UInt8[np.ndarray, "ch cw 4"]:
    """Person i in RGBA, transparent outside of its mask, as large as the mask (one transparent
    pixel where it is empty). ConfigError without masks."""
    if persons.masks is None:
        raise ConfigError("cut-outs need masks; use a model that gives them, or do not ask for box")
    mask = persons.masks[i].cpu().numpy()
    lines, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(lines):
        return np.zeros((1, 1, 4), np.uint8)
    window = np.s_[lines[0] : lines[-1] + 1, columns[0] : columns[-1] + 1]
    inside = mask[window]
    # what lies outside is black, not hidden: a viewer that drops transparency must not show it
    colour = np.where(inside[..., None], image[window], 0)
    return np.dstack([colour, np.where(inside, 255, 0)]).astype(np.uint8)


def write_rgba(path: Path, image: UInt8[np.ndarray, "h w 4"]) -> None:
    """Writes a transparent PNG."""
    Image.fromarray(image).save(path)


def _span(box: list[float], size: tuple[int, int], margin: float) -> tuple[int, int, int, int]:
    """Top, bottom, left, right in whole px, inside the picture, at least one px apart."""
    x1, y1, x2, y2 = box
    more = margin * max(x2 - x1, y2 - y1)
    bounds = []
    for low, high, side in ((y1, y2, size[0]), (x1, x2, size[1])):
        begin = int(min(max(np.floor(low - more), 0), side - 1))
        bounds += [begin, int(min(max(np.ceil(high + more), begin + 1), side))]
    return bounds[0], bounds[1], bounds[2], bounds[3]
