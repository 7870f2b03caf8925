"""Re-identification scores against rankings done by hand."""

import numpy as np
import pytest

from humanquery.core.errors import AnnotationError
from humanquery.evaluation.retrieval import JUNK, retrieval_scores


def ranked(*ids: int) -> np.ndarray:
    """Distances of one query to a gallery in this very order."""
    return np.arange(len(ids), dtype=float)[None]


def score(gallery, cameras=None, query=(7, 1), **options):
    sides = () if cameras is None else (np.array([query[1]]), np.array(cameras))
    return retrieval_scores(
        ranked(*gallery), np.array([query[0]]), np.array(gallery), *sides, **options
    )


def test_precision_is_averaged_over_the_pictures_to_find():
    scores = score([7, 3, 7, 7], cameras=[2, 2, 2, 2])
    assert scores.mean_ap == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 3)
    assert scores.cmc[1] == 1.0 and scores.queries == 1


def test_the_first_code_of_market_1501_takes_the_trapezoid():
    scores = score([7, 3, 7], cameras=[2, 2, 2], trapezoid=True)
    assert scores.mean_ap == pytest.approx(((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2)


def test_the_same_person_on_the_same_camera_is_not_looked_for():
    scores = score([7, 3, 7], cameras=[1, 2, 2])
    assert scores.mean_ap == pytest.approx(1 / 2)
    assert scores.cmc[1] == 0.0 and scores.cmc[5] == 1.0


def test_other_people_on_the_same_camera_stay_in_the_gallery():
    assert score([3, 7], cameras=[1, 2]).mean_ap == pytest.approx(1 / 2)


def test_junk_is_removed_and_distractors_are_wrong():
    assert score([JUNK, 0, 7], cameras=[2, 2, 2]).mean_ap == pytest.approx(1 / 2)


def test_without_cameras_every_picture_of_the_person_counts():
    assert score([7, 3]).mean_ap == 1.0


def test_a_query_with_nobody_to_find_is_left_out_and_counted():
    scores = score([7, 3], cameras=[1, 2])
    assert (scores.queries, scores.without_match, scores.mean_ap) == (0, 1, None)
    assert scores.cmc == {}


def test_mean_ap_is_the_mean_over_queries():
    distances = np.array([[0.1, 0.9], [0.1, 0.9]])
    scores = retrieval_scores(distances, np.array([1, 2]), np.array([1, 2]))
    assert scores.mean_ap == pytest.approx((1 + 1 / 2) / 2)
    assert scores.numbers() == {
        "mAP": scores.mean_ap, "rank_1": 0.5, "rank_5": 1.0, "rank_10": 1.0, "rank_20": 1.0,
        "queries": 2,
    }  # fmt: skip


def test_wrong_numbers_of_rows_are_named():
    with pytest.raises(AnnotationError, match=r"gallery has 2 identities and no cameras.*3"):
        retrieval_scores(np.zeros((1, 3)), np.array([1]), np.array([1, 2]))


def test_cameras_of_one_side_alone_are_refused():
    with pytest.raises(AnnotationError, match="give both or none"):
        retrieval_scores(np.zeros((1, 1)), np.array([1]), np.array([1]), np.array([1]))


def test_a_distance_that_is_no_number_is_refused():
    with pytest.raises(AnnotationError, match="NaN"):
        retrieval_scores(np.full((1, 1), np.nan), np.array([1]), np.array([1]))
