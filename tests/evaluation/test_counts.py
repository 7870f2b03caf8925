"""Counting errors by hand."""

import pytest

from humanquery.core.errors import AnnotationError
from humanquery.evaluation.counts import count_scores


def test_errors_done_by_hand():
    scores = count_scores([12.0, 6.0], [10, 10])
    assert scores.mae == 3.0
    assert scores.rmse == pytest.approx((20 / 2) ** 0.5)
    assert scores.people == 10.0


def test_right_counts_have_no_error():
    assert count_scores([4.0], [4]).numbers() == {
        "pictures": 1, "mae": 0.0, "rmse": 0.0, "people": 4.0,
    }  # fmt: skip


def test_nothing_and_broken_counts_are_refused():
    with pytest.raises(AnnotationError, match="at least one picture"):
        count_scores([], [])
    with pytest.raises(AnnotationError, match="1 found counts for 2 pictures"):
        count_scores([1], [1, 2])
    with pytest.raises(AnnotationError, match="not a finite number"):
        count_scores([float("nan")], [1])
