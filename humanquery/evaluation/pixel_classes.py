"""Parsing: pixel accuracy, mean accuracy and mean IoU from one confusion matrix."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from humanquery.core.errors import AnnotationError

IGNORED = 255
"""label of pixels that nobody judged"""


@dataclass(frozen=True)
class PixelScores:
    """Shares, 0..1; None where no pixel has a label."""

    pixels: int
    pixel_accuracy: float | None
    mean_accuracy: float | None
    """over the classes that the truth has"""
    mean_iou: float | None
    """over the classes that truth or answer have, background among them"""
    iou: dict[str, float] = field(default_factory=dict)
    """by class"""

    def numbers(self) -> dict[str, float | int | None]:
        return {
            "mIoU": self.mean_iou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "pixels": self.pixels,
        }


class PixelConfusion:
    """Counts of (true class, found class) over pictures."""

    def __init__(self, classes: tuple[str, ...]):
        self.classes = classes
        self.counts = np.zeros((len(classes), len(classes)), np.int64)

    def add(self, found: Int[np.ndarray, "h w"], true: Int[np.ndarray, "_h _w"]) -> None:
        """One picture. True labels `IGNORED` or above the last class do not count; a found class
        that there is not raises AnnotationError, as do maps of different sizes."""
        if found.shape != true.shape:
            raise AnnotationError(
                f"parsing: a map of {found.shape} for labels of {true.shape}; resize the scores, "
                f"not the classes, to the labels' size"
            )
        num = len(self.classes)
        counts = (true >= 0) & (true < num)
        seen = found[counts].astype(np.int64)
        if seen.size and (seen.min() < 0 or seen.max() >= num):
            raise AnnotationError(
                f"parsing: found class {seen.max() if seen.max() >= num else seen.min()}, expected "
                f"0 to {num - 1}"
            )
        pairs = true[counts].astype(np.int64) * num + seen
        self.counts += np.bincount(pairs, minlength=num * num).reshape(num, num)

    def scores(self) -> PixelScores:
        right = np.diag(self.counts).astype(float)
        true, found = self.counts.sum(1), self.counts.sum(0)
        total = int(true.sum())
        if not total:
            return PixelScores(0, None, None, None)
        union = true + found - right
        shown, named = union > 0, true > 0
        iou = {name: float(right[i] / union[i]) for i, name in enumerate(self.classes) if shown[i]}
        return PixelScores(
            pixels=total,
            pixel_accuracy=float(right.sum() / total),
            mean_accuracy=float((right[named] / true[named]).mean()),
            mean_iou=float((right[shown] / union[shown]).mean()),
            iou=iou,
        )
