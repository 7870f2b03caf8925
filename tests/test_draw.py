"""Drawing: what must hold for any picture and any people."""

import numpy as np
import pytest
import torch

from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.draw import FINGERS, draw, draw_attention, label_of, person_color
from tests.predict.fake import people


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def test_the_picture_itself_is_not_changed():
    image = grey(80, 120)
    painted = draw(image, people((80, 120)))
    assert (image == 128).all() and (painted != 128).any() and painted.shape == image.shape


def test_nobody_leaves_the_picture_as_it_is():
    assert (draw(grey(40, 40), Persons.empty((40, 40), COCO17)) == 128).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (128, 96), (2160, 3840)])
def test_any_size_can_be_painted(size):
    assert draw(grey(*size), people(size)).shape == (*size, 3)


def test_boxes_outside_the_picture_do_no_harm():
    outside = people((50, 50)).replace(
        boxes=torch.tensor([[-90.0, -90, -20, -20], [60, 60, 900, 900]])
    )
    assert draw(grey(50, 50), outside).shape == (50, 50, 3)


def test_a_crowd_of_sixty_is_painted_with_labels_that_do_not_overlap():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(60, 2, generator=generator) * 400
    crowd = Persons(
        image_size=(480, 480),
        boxes=torch.cat([corner, corner + 20 + torch.rand(60, 2, generator=generator) * 60], 1),
        scores=torch.rand(60, generator=generator),
    )
    assert draw(grey(480, 480), crowd).shape == (480, 480, 3)


def test_labels_tell_apparent_gender_age_and_score_unless_switched_off():
    two = people((40, 40))
    assert label_of(two, 0) == "woman 34 · 0.90" and label_of(two, 1) == "man 8 · 0.20"
    assert label_of(two, 0, attributes=False) == "0.90"
    assert label_of(two.replace(track_ids=torch.tensor([5, 6])), 1) == "#6 man 8 · 0.20"


def test_parts_can_be_left_out():
    nothing = draw(
        grey(60, 60), people((60, 60)), masks=False, boxes=False, keypoints=False, labels=False
    )
    assert (nothing == 128).all()


def test_joints_below_the_threshold_are_left_out():
    options = {"masks": False, "boxes": False, "labels": False}
    assert (draw(grey(60, 60), people((60, 60)), keypoint_threshold=0.9, **options) == 128).all()
    assert (draw(grey(60, 60), people((60, 60)), keypoint_threshold=0.5, **options) != 128).any()


def test_joints_that_nobody_vouches_for_are_left_out():
    unknown = people((60, 60)).replace(keypoint_scores=torch.zeros(len(people((60, 60))), 17))
    assert (draw(grey(60, 60), unknown, masks=False, boxes=False, labels=False) == 128).all()


def test_a_label_never_hides_more_than_its_person():
    known = {"scores": torch.tensor([0.9]), "gender": torch.ones(1), "age": torch.tensor([44.0])}
    small = Persons(image_size=(90, 200), boxes=torch.tensor([[50.0, 40.0, 60.0, 65.0]]), **known)
    options = {"boxes": False, "masks": False}
    assert (draw(grey(90, 200), small, **options) == 128).all()
    wide = small.replace(boxes=torch.tensor([[20.0, 20.0, 180.0, 85.0]]))
    assert (draw(grey(90, 200), wide, **options) != 128).any()


def test_colours_follow_the_identity_and_differ_between_neighbours():
    assert person_color(3) == person_color(3)
    apart = [
        sum(abs(a - b) for a, b in zip(person_color(i), person_color(i + 1), strict=True))
        for i in range(20)
    ]
    assert min(apart) > 80


def test_attention_is_drawn_where_the_weights_are():
    one = people((60, 60))[:1].replace(boxes=torch.tensor([[0.0, 0, 5, 5]]))
    painted = draw_attention(grey(60, 60), one, torch.tensor([[[40.0, 30.0]]]), torch.ones(1, 1))
    assert tuple(painted[30, 40]) == (255, 30, 30) and tuple(painted[10, 40]) == (128, 128, 128)


def test_attention_outside_the_picture_does_no_harm():
    one = people((60, 60))[:1].replace(boxes=torch.tensor([[0.0, 0, 5, 5]]))
    places = torch.tensor([[[-500.0, 30.0], [900.0, 900.0], [-1.0, -1.0], [60.5, 30.0]]])
    assert draw_attention(grey(60, 60), one, places, torch.ones(1, 4)).shape == (60, 60, 3)


def whole_body(scale: float, shown: float = 0.9) -> Persons:
    """One person whose hand is a fan of `scale` px and whose face is a disc of points."""
    skeleton = Skeleton.named("coco_wholebody133")
    joints = torch.full((1, 133, 2), 100.0)  # the root of the hand
    angles = torch.linspace(0, 6, 68)
    face = torch.stack([angles.cos(), angles.sin()], -1)
    joints[0, 23:91] = 50 + scale / 2 * face
    for finger in range(5):
        for k in range(4):
            joints[0, 92 + 4 * finger + k] += torch.tensor([finger, -(k + 1)]) * scale / 5
    scores = torch.zeros(1, 133)
    scores[0, 23:112] = shown
    return Persons(
        image_size=(200, 200),
        boxes=torch.tensor([[0.0, 0.0, 199.0, 199.0]]),
        scores=torch.ones(1),
        keypoints=joints,
        keypoint_scores=scores,
        skeleton=skeleton,
    )


def painted(people: Persons) -> np.ndarray:
    blank = np.zeros((200, 200, 3), np.uint8)
    return draw(blank, people, boxes=False, labels=False)


def test_each_finger_has_its_own_colour_and_a_small_hand_has_dots_alone():
    picture = painted(whole_body(60.0)).reshape(-1, 3).astype(int)
    for color in FINGERS:
        assert (np.abs(picture - color).max(1) < 12).any(), color
    assert not painted(whole_body(3.0)).any()
    assert painted(whole_body(10.0)).any()


def test_joints_below_the_threshold_and_half_a_face_are_not_painted():
    assert not painted(whole_body(60.0, shown=0.1)).any()
    people = whole_body(60.0)
    people.keypoint_scores[0, 40:112] = 0  # 17 points of the face are left
    assert not painted(people).any()


def test_joints_that_are_more_likely_hidden_than_seen_are_not_drawn():
    options = dict(masks=False, boxes=False, labels=False)
    unsure, sure = (
        people((60, 60)).replace(keypoint_scores=torch.full((2, 17), score)) for score in (0.3, 0.4)
    )
    assert (draw(grey(60, 60), unsure, **options) == 128).all()
    assert (draw(grey(60, 60), sure, **options) != 128).any()
