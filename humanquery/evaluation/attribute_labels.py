"""Pedestrian attributes: label-based mA, instance-based accuracy, precision, recall and F1 in both
of its conventions."""

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float, Int

from humanquery.core.errors import AnnotationError

THRESHOLD = 0.5
_TINY = 1e-20


@dataclass(frozen=True)
class AttributeScores:
    """Shares, 0..1."""

    mean_accuracy: float
    """mA: mean over attributes of (true positive rate + true negative rate) / 2"""
    accuracy: float
    """mean over people of |true and found| / |true or found|"""
    precision: float
    recall: float
    f1_of_means: float
    """2PR / (P + R) of the two means above: the convention of the attribute literature"""
    mean_f1: float
    """mean over people of each one's F1: the convention of HumanBench's code; differs by tenths"""

    def numbers(self) -> dict[str, float]:
        return asdict(self)


def attribute_scores(
    probabilities: Float[np.ndarray, "n a"], labels: Int[np.ndarray, "_n _a"]
) -> AttributeScores:
    """Scores of found probabilities against labels 1 (has it), 0, and -1 (nobody knows).

    Found means at least `THRESHOLD`. Unknown labels count as 0, as in HumanBench's evaluation. An
    attribute that nobody has gets a true positive rate of 0 (the reference's tiny denominator).
    Other labels, other shapes or nobody at all raise AnnotationError.
    """
    if probabilities.shape != labels.shape or not len(labels):
        raise AnnotationError(
            f"attributes: probabilities of shape {probabilities.shape} for labels of "
            f"{labels.shape}; expected the same, people × attributes, and at least one person"
        )
    strange = set(np.unique(labels)) - {-1, 0, 1}
    if strange:
        raise AnnotationError(f"attributes: labels {sorted(strange)}, expected 1, 0 or -1")
    found, true = probabilities >= THRESHOLD, labels == 1
    positive = (found & true).sum(0) / (true.sum(0) + _TINY)
    negative = (~found & ~true).sum(0) / ((~true).sum(0) + _TINY)
    both, either = (found & true).sum(1), (found | true).sum(1)
    precision = both / (found.sum(1) + _TINY)
    recall = both / (true.sum(1) + _TINY)
    each = 2 * precision * recall / (precision + recall + _TINY)
    p, r = float(precision.mean()), float(recall.mean())
    return AttributeScores(
        mean_accuracy=float(((positive + negative) / 2).mean()),
        accuracy=float((both / (either + _TINY)).mean()),
        precision=p,
        recall=r,
        f1_of_means=2 * p * r / (p + r + _TINY),
        mean_f1=float(each.mean()),
    )
