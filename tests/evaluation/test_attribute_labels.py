"""Attribute scores against numbers done by hand."""

import numpy as np
import pytest

from humanquery.core.errors import AnnotationError
from humanquery.evaluation.attribute_labels import attribute_scores

TRUE = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 1]])
FOUND = np.array([[0.9, 0.1, 0.4], [0.8, 0.2, 0.1], [0.6, 0.3, 0.9]])
"""yes/no: 100, 100, 101"""


def test_mean_accuracy_weighs_both_answers_of_every_attribute_alike():
    # attribute 0: 2/2 and 0/1; 1: 0/1 and 2/2; 2: 1/2 and 1/1
    assert attribute_scores(FOUND, TRUE).mean_accuracy == pytest.approx(
        ((1 + 0) / 2 + (0 + 1) / 2 + (1 / 2 + 1) / 2) / 3
    )


def test_people_are_scored_one_by_one():
    scores = attribute_scores(FOUND, TRUE)
    assert scores.accuracy == pytest.approx((1 / 2 + 1 / 2 + 1 / 2) / 3)
    assert scores.precision == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert scores.recall == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)


def test_both_conventions_of_f1_are_given():
    scores = attribute_scores(FOUND, TRUE)
    p, r = 5 / 6, 2 / 3
    assert scores.f1_of_means == pytest.approx(2 * p * r / (p + r))
    assert scores.mean_f1 == pytest.approx(2 / 3)
    assert scores.f1_of_means != pytest.approx(scores.mean_f1)


def test_perfect_answers_score_one():
    scores = attribute_scores(TRUE.astype(float), TRUE)
    assert set(scores.numbers().values()) == {1.0}


def test_unknown_labels_count_as_no():
    unknown = np.where(TRUE == 0, -1, TRUE)
    assert attribute_scores(FOUND, unknown) == attribute_scores(FOUND, TRUE)


def test_an_attribute_that_nobody_has_counts_half_at_most():
    scores = attribute_scores(np.array([[0.0]]), np.array([[0]]))
    assert scores.mean_accuracy == 0.5


def test_nobody_and_wrong_shapes_are_refused():
    with pytest.raises(AnnotationError, match="at least one person"):
        attribute_scores(np.zeros((0, 2)), np.zeros((0, 2), int))
    with pytest.raises(AnnotationError, match=r"\(1, 2\) for labels of \(2, 2\)"):
        attribute_scores(np.zeros((1, 2)), np.zeros((2, 2), int))


def test_a_label_that_is_none_is_named():
    with pytest.raises(AnnotationError, match=r"labels \[.*2.*\], expected 1, 0 or -1"):
        attribute_scores(np.zeros((1, 1)), np.array([[2]]))
