"""Small people: a picture is also looked at slice by slice, and what is found is put together."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from humanquery.core.affine import Affine2D, Size
from humanquery.core.boxes import iou
from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons
from humanquery.media.pictures import path_of
from humanquery.predict.base import BasePredictor, Picture, as_array

Window = tuple[int, int, int, int]
"""x1, y1, x2, y2 px of the picture"""


@dataclass(frozen=True)
class SliceConfig:
    """Slicing aided inference (Akyon et al. 2022), with the whole picture among the looks."""

    slices: int = 2
    """along the longer side; along the shorter one so many that no slice is longer there"""
    overlap: float = 0.25
    """of a slice's side that the next one sees too: more than the people it is made for are wide"""
    largest: float = 0.5
    """whoever's longer side is more of a slice's is left to the whole picture, which sees them
    as the model was trained to"""
    same: float = 0.5
    """IoU from which two finds are one person; the surer one stays"""
    border: float = 2.0
    """px: a box that comes nearer to an inner edge of a slice is of somebody who is cut off"""

    def __post_init__(self):
        if self.slices < 2:
            raise ConfigError(f"SliceConfig.slices: {self.slices}; expected at least 2")
        for name, high in (("overlap", 0.9), ("largest", 1.0), ("same", 1.0)):
            if not 0 <= getattr(self, name) <= high:
                raise ConfigError(
                    f"SliceConfig.{name}: {getattr(self, name)}; expected 0 to {high:g}"
                )


class Sliced(BasePredictor):
    """A predictor that looks at the whole of each picture and at slices of it: so many times the
    time, for people who are too small on the model's canvas."""

    def __init__(self, predictor: BasePredictor, config: SliceConfig | None = None):
        self.config = config or SliceConfig()
        self._predictor = predictor
        self.card, self.path, self.outputs = predictor.card, predictor.path, predictor.outputs

    def identity(self) -> dict[str, Any]:
        """The model's, with the number of slices."""
        return self._predictor.identity() | {"slices": self.config.slices}

    def predict_many(
        self,
        pictures: Iterable[Picture],
        *,
        score: float | None = None,
        tasks: Iterable[str] | None = None,
        attributes: bool = True,
        batch_size: int = 4,
    ) -> Iterator[Persons]:
        """See `BasePredictor.predict_many`; the slices of a picture are a batch."""
        wanted = {"score": score, "tasks": None if tasks is None else list(tasks)}
        wanted |= {"attributes": attributes, "batch_size": batch_size}
        for picture in pictures:
            image = as_array(picture)
            size = (image.shape[0], image.shape[1])
            windows = slice_windows(size, self.config)
            looks = [image, *(np.ascontiguousarray(cut(image, window)) for window in windows)]
            whole, *parts = self._predictor.predict_many(looks, **wanted)
            people = merged(whole, parts, windows, self.config)
            path = path_of(picture)
            yield people if path is None else people.replace(path=str(path))


def slice_windows(size: Size, config: SliceConfig) -> list[Window]:
    """Where the slices of a picture of `size` (height, width) are, row by row."""
    height, width = size
    longer, shorter = max(size), min(size)
    side = _side(longer, config.slices, config.overlap)
    few = max(1, math.ceil(1 + (shorter - side) / (side * (1 - config.overlap))))
    rows, columns = (few, config.slices) if width >= height else (config.slices, few)
    ys, xs = (_spans(n, count, config.overlap) for n, count in ((height, rows), (width, columns)))
    return [(x1, y1, x2, y2) for y1, y2 in ys for x1, x2 in xs]


def _side(length: int, count: int, overlap: float) -> float:
    """Of `count` slices that cover a length, each overlapping the next."""
    return length / (count - (count - 1) * overlap)


def _spans(length: int, count: int, overlap: float) -> list[tuple[int, int]]:
    side = min(math.ceil(_side(length, count, overlap)), length)
    steps = max(count - 1, 1)
    starts = [round(i * (length - side) / steps) for i in range(count)]
    return [(start, start + side) for start in starts]


def cut(image: UInt8[np.ndarray, "h w 3"], window: Window) -> UInt8[np.ndarray, "H W 3"]:
    x1, y1, x2, y2 = window
    return image[y1:y2, x1:x2]


def merged(
    whole: Persons, parts: list[Persons], windows: list[Window], config: SliceConfig
) -> Persons:
    """People of the whole picture, and those of its slices who are small and not cut off, each
    once, best score first."""
    found = [whole]
    for part, window in zip(parts, windows, strict=True):
        kept = part[_belongs(part, window, whole.image_size, config)]
        if len(kept):
            move = Affine2D.translation(float(window[0]), float(window[1]))
            found.append(kept.warp(move, whole.image_size))
    people = Persons.cat(found) if len(found) > 1 else whole
    people = people[people.scores.argsort(descending=True, stable=True)]
    return people[_distinct(people, config.same)]


def _belongs(
    part: Persons, window: Window, size: Size, config: SliceConfig
) -> Bool[torch.Tensor, " n"]:
    """Who of a slice's people is small, and not cut by an edge inside the picture."""
    width, height = window[2] - window[0], window[3] - window[1]
    x1, y1, x2, y2 = part.boxes.unbind(1)
    small = torch.maximum(x2 - x1, y2 - y1) <= config.largest * max(width, height)
    cut_off = torch.zeros_like(small)
    for inside, near in (
        (window[0] > 0, x1 < config.border),
        (window[1] > 0, y1 < config.border),
        (window[2] < size[1], x2 > width - config.border),
        (window[3] < size[0], y2 > height - config.border),
    ):
        if inside:
            cut_off |= near
    return small & ~cut_off


def _distinct(people: Persons, same: float) -> list[int]:
    """Rows that overlap no earlier row that stays by `same` or more."""
    overlaps = iou(people.boxes, people.boxes)
    kept: list[int] = []
    for row in range(len(people)):
        if not kept or float(overlaps[row, kept].max()) < same:
            kept.append(row)
    return kept
