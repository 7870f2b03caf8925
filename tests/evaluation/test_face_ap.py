"""AP of faces by hand."""

import pytest
import torch

from humanquery.core.errors import AnnotationError
from humanquery.core.persons import Persons
from humanquery.core.rows import Labelled
from humanquery.core.target import Target
from humanquery.evaluation.face_ap import face_scores

FACE, OTHER = [10.0, 10.0, 50.0, 60.0], [100.0, 10.0, 140.0, 60.0]


def pair(true, known, found, scores):
    n = len(true)
    boxes = torch.tensor([[0.0, 0.0, 200.0, 200.0]])
    target = Target(
        image_size=(200, 200),
        boxes=boxes.repeat(n, 1),
        ignore=torch.zeros(n, dtype=torch.bool),
        areas=torch.ones(n),
        face_boxes=Labelled(torch.tensor(true).reshape(-1, 4), torch.tensor(known)),
    )
    people = Persons(
        image_size=(200, 200),
        boxes=boxes.repeat(len(found), 1),
        scores=torch.tensor(scores),
        face_boxes=torch.tensor(found).reshape(-1, 4),
    )
    return target, people


def test_faces_in_their_place_score_one():
    scores = face_scores([pair([FACE, OTHER], [True, True], [FACE, OTHER], [0.9, 0.8])])
    assert scores.ap == pytest.approx(1.0) and scores["all"].ar == pytest.approx(1.0)


def test_a_face_that_nobody_annotated_forgives_nothing():
    scores = face_scores([pair([FACE, OTHER], [True, False], [OTHER, FACE], [0.9, 0.8])])
    assert scores.ap == pytest.approx(0.5, abs=0.01) and scores["all"].ar == pytest.approx(1.0)


def test_no_face_at_all_and_people_without_faces_are_told():
    with pytest.raises(AnnotationError, match="none is annotated in 1 pictures"):
        face_scores([pair([FACE], [False], [FACE], [0.9])])
    target, people = pair([FACE], [True], [FACE], [0.9])
    with pytest.raises(AnnotationError, match="picture 1: the found people have no face boxes"):
        face_scores([(target, people.replace(face_boxes=None))])
