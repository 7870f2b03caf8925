"""Faces are covered where they are, and everybody who is not is counted."""

import numpy as np
import pytest
import torch

from humanquery.blur import FACE, blur_faces, face_ellipses
from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17

SIZE = (100, 80)


def head(scores: float | list = 0.9) -> Persons:
    """One person whose eyes are 10 px apart and whose ears 20, nose at (40, 30)."""
    points, confidence = torch.zeros(1, 17, 2), torch.zeros(1, 17)
    places = ((40, 30), (45, 26), (35, 26), (50, 28), (30, 28))
    for name, place in zip(FACE, places, strict=True):
        points[0, COCO17.index(name)] = torch.tensor(place, dtype=torch.float32)
    confidence[0, :5] = torch.tensor(scores)
    return Persons(
        image_size=SIZE,
        boxes=torch.tensor([[10.0, 5.0, 70.0, 95.0]]),
        scores=torch.tensor([0.9]),
        keypoints=points,
        keypoint_scores=confidence,
        skeleton=COCO17,
    )


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*SIZE, 3)).astype(np.uint8)


def test_the_ellipse_covers_the_face_and_nothing_far_from_it():
    image = picture()
    covered, left = blur_faces(image, head())
    ((x, y, a, b),) = face_ellipses(head())
    assert (x, y) == pytest.approx((40, 27.6)) and (a, b) == pytest.approx((16, 21.6))
    changed = (covered != image).any(-1)
    for place in ((30, 40), (26, 45), (28, 50), (28, 30), (45, 40)):  # nose, eyes, ears, chin
        assert changed[place[0] - 1 : place[0] + 2, place[1] - 1 : place[1] + 2].all()
    lines, columns = np.nonzero(changed)
    inside = ((columns + 0.5 - x) / a) ** 2 + ((lines + 0.5 - y) / b) ** 2
    assert inside.max() <= 1 and left == 0
    assert (picture() == image).all(), "the picture that came in stays as it was"


def test_a_mosaic_keeps_too_few_colours_to_know_anybody():
    covered, _ = blur_faces(picture(), head())
    face = covered[24:36, 34:46].reshape(-1, 3)
    assert len(np.unique(face, axis=0)) <= 16


def test_one_joint_is_enough_and_none_is_counted():
    assert face_ellipses(head([0.9, 0, 0, 0, 0]))[0][:2] == (40.0, 30.0)
    image = picture()
    covered, left = blur_faces(image, head(0.0))
    assert left == 1 and (covered == image).all()


def test_face_boxes_are_covered_whole():
    people = head(0.0).replace(face_boxes=torch.tensor([[20.0, 20.0, 40.0, 50.0]]))
    covered, left = blur_faces(picture(), people)
    assert left == 0
    same = (covered == picture()).all(-1)[21:49, 21:39]
    assert same.mean() < 0.01  # a cell may happen to have a pixel's own colour


def test_nobody_and_faces_beyond_the_edge_are_fine():
    image = picture()
    assert (blur_faces(image, head()[[]])[0] == image).all()
    away = head().replace(keypoints=head().keypoints + 500)
    assert (blur_faces(image, away)[0] == image).all()


def test_people_without_joints_of_a_head_are_refused():
    people = Persons(image_size=SIZE, boxes=torch.zeros(1, 4), scores=torch.ones(1))
    with pytest.raises(ConfigError, match="gives no such joints; ask for keypoints"):
        blur_faces(picture(), people)
