"""Parsing scores against maps small enough to count."""

import numpy as np
import pytest

from humanquery.core.errors import AnnotationError
from humanquery.evaluation.pixel_classes import IGNORED, PixelConfusion

CLASSES = ("background", "hair", "shoe")


def scored(found, true):
    confusion = PixelConfusion(CLASSES)
    confusion.add(np.array(found), np.array(true))
    return confusion.scores()


def test_counts_done_by_hand():
    scores = scored([[0, 0, 1, 1]], [[0, 1, 1, 1]])
    assert scores.pixel_accuracy == 3 / 4
    assert scores.mean_accuracy == pytest.approx((1 + 2 / 3) / 2)
    assert scores.iou == {"background": 1 / 2, "hair": 2 / 3}
    assert scores.mean_iou == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_class_only_found_lowers_the_iou_but_not_the_accuracy():
    scores = scored([[0, 2]], [[0, 0]])
    assert scores.iou == {"background": 0.5, "shoe": 0.0}
    assert scores.mean_accuracy == 0.5


def test_pixels_that_nobody_judged_do_not_count():
    assert scored([[2, 0]], [[IGNORED, 0]]).numbers() == {
        "mIoU": 1.0, "pixel_accuracy": 1.0, "mean_accuracy": 1.0, "pixels": 1,
    }  # fmt: skip


def test_pictures_add_up():
    confusion = PixelConfusion(CLASSES)
    for found, true in (([[0]], [[0]]), ([[1]], [[0]])):
        confusion.add(np.array(found), np.array(true))
    assert confusion.scores().pixel_accuracy == 0.5


def test_without_labels_there_is_no_score():
    assert scored([[0]], [[IGNORED]]).mean_iou is None


def test_sizes_and_classes_that_do_not_fit_are_named():
    with pytest.raises(AnnotationError, match=r"map of \(1, 2\) for labels of \(1, 1\)"):
        scored([[0, 0]], [[0]])
    with pytest.raises(AnnotationError, match="found class 3, expected 0 to 2"):
        scored([[3]], [[0]])
