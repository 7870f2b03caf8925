"""Crowd counting: mean absolute error, and the root of the mean square that its literature calls
MSE."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from humanquery.core.errors import AnnotationError


@dataclass(frozen=True)
class CountScores:
    """Errors in people per picture."""

    pictures: int
    mae: float
    rmse: float
    """"MSE" in the tables of crowd counting papers"""
    people: float
    """true mean, to see the errors against"""

    def numbers(self) -> dict[str, float | int]:
        return asdict(self)


def count_scores(found: Sequence[float | int], true: Sequence[float | int]) -> CountScores:
    """Errors of the found numbers of people. No pictures, another number of them, or a number that
    is not finite raise AnnotationError."""
    if len(found) != len(true) or not len(true):
        raise AnnotationError(
            f"counting: {len(found)} found counts for {len(true)} pictures; expected one each, and "
            f"at least one picture"
        )
    apart = np.abs(np.asarray(found, float) - np.asarray(true, float))
    if not np.isfinite(apart).all():
        raise AnnotationError("counting: a count is not a finite number")
    return CountScores(
        len(true), float(apart.mean()), float(np.sqrt((apart**2).mean())), float(np.mean(true))
    )
