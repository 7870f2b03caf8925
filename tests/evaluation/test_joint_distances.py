"""PCKh, PCK and end-point error by hand."""

import numpy as np
import pytest

from humanquery.core.errors import AnnotationError
from humanquery.evaluation.joint_distances import end_point_error, head_sizes, mpii_pckh, pck


def test_the_size_of_a_head_is_sixty_percent_of_its_diagonal():
    assert head_sizes(np.array([[0.0, 0.0, 30.0, 40.0]])).tolist() == [30.0]


def one_person(*distances):
    true = np.zeros((1, len(distances), 2))
    found = true.copy()
    found[0, :, 0] = distances
    return found, true, np.ones((1, len(distances)), bool)


def test_a_joint_at_the_threshold_is_right():
    scores = pck(*one_person(5.0, 5.1), np.array([10.0]))
    assert scores.by_joint == (1.0, 0.0) and scores.mean == 0.5


def test_the_mean_weighs_joints_by_how_often_they_are_labelled():
    found, true, labelled = (np.concatenate([x, x]) for x in one_person(0.0, 9.0))
    labelled[1, 1] = False
    scores = pck(found, true, labelled, np.array([10.0, 10.0]))
    assert scores.mean == pytest.approx(2 / 3)


def test_pelvis_and_thorax_have_no_part_in_the_mean_of_mpii():
    distances = [0.0] * 16
    distances[6] = distances[7] = distances[10] = 99.0
    scores = mpii_pckh(*one_person(*distances), np.array([[0.0, 0.0, 30.0, 40.0]]))
    assert scores.mean == pytest.approx(13 / 14)
    assert scores.by_group["wrist"] == 0.5 and scores.by_joint[6] == 0.0
    assert scores.numbers()["joints"] == 14


def test_a_joint_that_nobody_labelled_has_no_rate():
    found, true, labelled = one_person(0.0, 0.0)
    labelled[0, 1] = False
    assert pck(found, true, labelled, np.array([1.0])).by_joint == (1.0, None)


def test_nobody_has_no_score():
    nobody = np.zeros((0, 3, 2))
    assert pck(nobody, nobody, np.zeros((0, 3), bool), np.zeros(0)).mean is None
    assert end_point_error(nobody, nobody, np.zeros((0, 3), bool)) is None


def test_a_person_without_a_head_box_is_named():
    with pytest.raises(AnnotationError, match="person 0: size 0 px.*head box missing"):
        pck(*one_person(0.0), np.array([0.0]))


def test_the_end_point_error_is_the_mean_distance_in_pixels():
    assert end_point_error(*one_person(3.0, 5.0)) == 4.0
