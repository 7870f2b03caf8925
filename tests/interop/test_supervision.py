"""People as supervision's structures and back."""

import numpy as np
import pytest
import torch

from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.interop.supervision import from_supervision, to_detections, to_key_points
from tests.core.people import SIZE, assert_same, three_persons

supervision = pytest.importorskip("supervision")


def test_every_field_comes_back():
    people = three_persons()
    again = from_supervision(to_detections(people), SIZE, to_key_points(people), COCO17)
    assert_same(again, people)


def test_supervision_takes_and_cuts_what_we_give():
    found = to_detections(three_persons())
    good = found[found.confidence > 0.4]
    assert good.tracker_id.tolist() == [7, 8] and good.data["age"].tolist() == [3.0, 30.0]
    assert good.data["class_name"].tolist() == ["person", "person"]
    picture = np.zeros((*SIZE, 3), np.uint8)
    painted = supervision.BoxAnnotator().annotate(picture.copy(), found)
    assert painted.any()
    joints = supervision.VertexAnnotator(radius=1).annotate(
        picture.copy(), to_key_points(three_persons())
    )
    assert joints.any()


def test_nobody_stays_nobody():
    nobody = three_persons()[[]]
    again = from_supervision(to_detections(nobody), SIZE, to_key_points(nobody))
    assert len(again) == 0 and again.image_size == SIZE
    assert len(from_supervision(supervision.Detections.empty(), SIZE)) == 0


def test_detections_of_another_model_become_people():
    found = supervision.Detections(xyxy=np.array([[1.0, 2.0, 5.0, 9.0]]))
    people = from_supervision(found, SIZE)
    assert people.scores.tolist() == [1.0] and people.masks is None and people.track_ids is None
    torch.testing.assert_close(people.boxes, torch.tensor([[1.0, 2.0, 5.0, 9.0]]))


def test_joints_that_do_not_fit_are_refused():
    people = three_persons()
    with pytest.raises(AnnotationError, match="3 people with 17 joints, expected 2 people"):
        from_supervision(to_detections(people[:2]), SIZE, to_key_points(people))
    two = Skeleton("two", ("a", "b"), (), ())
    with pytest.raises(AnnotationError, match="expected 3 people with the 2 joints of two"):
        from_supervision(to_detections(people), SIZE, to_key_points(people), two)
    with pytest.raises(AnnotationError, match="ask the model for keypoints"):
        to_key_points(Persons.empty(SIZE))


def test_without_the_package_the_command_is_named(monkeypatch):
    def missing(name):
        raise ImportError("nothing", name=name)

    monkeypatch.setattr("humanquery.interop.packages.import_module", missing)
    with pytest.raises(
        ConfigError, match=r"needs supervision: pip install 'humanquery\[interop\]'"
    ):
        to_detections(three_persons())
