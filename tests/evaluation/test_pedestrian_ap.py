"""CrowdHuman's and Caltech's numbers by hand."""

import numpy as np
import pytest

from humanquery.core.errors import AnnotationError
from humanquery.evaluation.pedestrian_ap import (
    CALTECH_SUBSETS,
    SMALLEST_MISS,
    CrowdPicture,
    caltech_picture,
    crowd_scores,
)

A, B, C = (0, 0, 10, 20), (100, 0, 110, 20), (200, 0, 210, 20)


def picture(found, true, ignored=(), scores=None):
    scores = scores or [0.9 - 0.1 * i for i in range(len(found))]
    return CrowdPicture(
        np.array(found, float).reshape(-1, 4),
        np.array(scores, float),
        np.array([*true, *ignored], float).reshape(-1, 4),
        np.array([False] * len(true) + [True] * len(ignored), bool),
    )


def test_perfect_boxes_score_one_at_the_floor_of_the_miss_rate():
    scores = crowd_scores([picture([A, B], [A, B])])
    # the curve begins at its first point, recall 1/2: half of the area is before it
    assert scores.ap == pytest.approx(0.5)
    assert scores.miss_rate == pytest.approx(SMALLEST_MISS)
    assert scores.jaccard == pytest.approx(1.0, abs=1e-5)


def test_two_pictures_with_a_duplicate_and_an_ignore_region():
    pictures = [picture([A, A], [A, B], scores=[0.9, 0.8]), picture([C], [], [C], scores=[0.7])]
    scores = crowd_scores(pictures)
    # points: (recall 1/2, precision 1), (1/2, 1/2): no area; the box in the region is forgiven
    assert scores.ap == 0.0
    # false per picture 0, 1/2: miss rate 1/2 at every reference
    assert scores.miss_rate == pytest.approx(0.5)
    # thresholds above 0.8 see one box of two people: 1 of 2; picture two has nobody and is left out
    assert scores.jaccard == pytest.approx(0.5, abs=1e-5)
    assert scores.jaccard_at == 0.9


def test_area_under_the_curve_is_that_of_trapezoids():
    scores = crowd_scores([picture([A, C, B], [A, B])])
    # points (1/2, 1), (1/2, 1/2), (1, 2/3)
    assert scores.ap == pytest.approx((1 - 1 / 2) * (1 / 2 + 2 / 3) / 2)


def test_an_overlap_of_exactly_one_half_is_too_little():
    assert crowd_scores([picture([(0, 0, 10, 10)], [A])]).miss_rate == 1.0


def test_a_found_person_takes_the_best_free_one():
    shifted = (1, 0, 11, 20)
    scores = crowd_scores([picture([shifted, A], [A, shifted])])
    assert scores.miss_rate == pytest.approx(SMALLEST_MISS)


def test_pictures_where_nothing_was_found_count():
    scores = crowd_scores([picture([A], [A]), picture([], [A])])
    assert scores.people == 2 and scores.miss_rate == pytest.approx(0.5)
    assert crowd_scores([picture([], [A])]).miss_rate == 1.0


def test_without_people_there_is_no_score():
    assert crowd_scores([picture([A], [], [B])]).ap is None


def test_scores_without_boxes_are_refused():
    with pytest.raises(AnnotationError, match="1 boxes with 2 scores"):
        picture([A], [A], scores=[0.5, 0.6])


def test_caltech_leaves_out_small_boxes_and_ignores_people_outside_of_the_subset():
    tall, small = (0, 0, 30, 100), (50, 0, 60, 39)
    reasonable = CALTECH_SUBSETS[0]
    seen = caltech_picture(picture([tall, small], [tall, tall]), np.array([0.9, 0.3]), reasonable)
    assert len(seen.found) == 1 and seen.ignored.tolist() == [False, True]
    assert seen.found[0].tolist() == pytest.approx([15 - 20.5, 0, 15 + 20.5, 100])
    heavy = caltech_picture(picture([tall], [tall, tall]), np.array([0.9, 0.3]), CALTECH_SUBSETS[1])
    assert heavy.ignored.tolist() == [True, False]
