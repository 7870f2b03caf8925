"""One person, one track: what becomes of doubles, and of people who only look like some."""

import pytest
import torch

from humanquery.core.persons import Persons
from humanquery.tracking import TrackBook, TrackConfig
from tests.tracking.people import ids, walkers

BOTH = pytest.mark.parametrize("appearance", [True, False], ids=["queries", "motion only"])
ASIDE = 5.0
"""px between the boxes of a person and its double: IoU 0.78"""


def seen_double(x: float, looks: list[int], **fields) -> Persons:
    """Somebody at `x` found twice: another box, the same joints."""
    people = walkers([(x, 200), (x + ASIDE, 200)], looks, **fields)
    return people.replace(keypoints=people.keypoints[[0, 0]])


def without_joints(people: Persons) -> Persons:
    return people.replace(keypoints=None, keypoint_scores=None)


def posed_otherwise(people: Persons, row: int) -> Persons:
    """The same with the joints of one person turned upside down in its box."""
    joints, middle = people.keypoints.clone(), people.boxes[row, 1::2].mean()
    joints[row, :, 1] = 2 * middle - joints[row, :, 1]
    return people.replace(keypoints=joints)


@BOTH
def test_two_detections_of_somebody_new_start_one_track_the_surer_one(appearance):
    book = TrackBook(TrackConfig(confirm_hits=1, appearance=appearance))
    found = book.update(seen_double(200, [0, 1], scores=[0.6, 0.9]))
    assert ids(found) == [1] and found.scores.tolist() == pytest.approx([0.9])
    for _ in range(5):
        assert ids(book.update(seen_double(200, [0, 1], scores=[0.6, 0.9]))) == [1]


@BOTH
def test_two_boxes_that_differ_are_one_person_if_the_joints_are_the_same(appearance):
    """A detector keeps no two boxes of an IoU above its own limit; what is left of a double has the
    same joints."""
    people = walkers([(200, 200), (200, 200)], [0, 0])
    boxes = people.boxes.clone()
    boxes[1, 3] -= 35  # IoU 0.65
    book = TrackBook(TrackConfig(confirm_hits=1, appearance=appearance))
    assert ids(book.update(people.replace(boxes=boxes))) == [1]
    apart = TrackBook(TrackConfig(confirm_hits=1, appearance=appearance))
    assert ids(apart.update(posed_otherwise(people.replace(boxes=boxes), 1))) == [1, 2]


def lost_and_back(config: TrackConfig, double_look: int) -> tuple[list[int], list[int]]:
    """Somebody is lost and comes out elsewhere under a new id; then a double of it lies where the
    lost one is looked for."""
    book = TrackBook(config)
    for _ in range(6):
        start = ids(book.update(walkers([(100, 200)], [0])))
    for _ in range(6):
        book.update(walkers([], []))
    for x in (160, 150, 140, 130, 120):
        middle = ids(book.update(walkers([(x, 200)], [1])))
    assert (start, middle) == ([1], [2])
    last = ids(book.update(seen_double(112, [1, double_look])))
    return last, ids(book.update(walkers([(110, 200)], [1])))


def test_who_comes_back_on_a_double_of_a_younger_track_gives_it_the_old_id_and_no_second_track():
    assert lost_and_back(TrackConfig(), 0) == ([1], [1])


def test_a_double_that_looks_like_nobody_lost_changes_no_id():
    assert lost_and_back(TrackConfig(), 2) == ([2], [2])


def test_somebody_lost_behind_an_older_track_comes_back_beside_it_and_not_on_it():
    book = TrackBook(TrackConfig())
    for x in range(160, 196, 3):
        book.update(walkers([(200, 200), (x, 200)], [0, 1]))
    for _ in range(4):
        assert ids(book.update(walkers([(200, 200)], [0]))) == [1]
    assert ids(book.update(seen_double(200, [0, 1]))) == [1]
    assert ids(book.update(walkers([(200, 200), (216, 200)], [0, 1]))) == [1, 2]


def met(config: TrackConfig, frames: int) -> TrackBook:
    """Two people who were two draw together, and from then on there are two boxes on one place."""
    book = TrackBook(config)
    for x in (260, 250, 240, 230, 222, 216):
        book.update(walkers([(200, 200), (x, 200)], [0, 1]))
    for _ in range(frames):
        book.update(seen_double(200, [0, 1]))
    return book


@BOTH
def test_two_tracks_that_stay_on_one_person_become_one_and_the_older_keeps_its_id(appearance):
    config = TrackConfig(twin_frames=4, appearance=appearance)
    assert met(config, 3).confirmed_ids == [1, 2]
    book = met(config, 4)
    assert book.confirmed_ids == [1]
    for _ in range(8):
        assert ids(book.update(seen_double(200, [0, 1]))) == [1]


@BOTH
def test_people_who_cross_are_never_one(appearance):
    for speed in (3, 6, 12):
        book = TrackBook(TrackConfig(appearance=appearance))
        for x in range(100, 300, speed):
            found = book.update(posed_otherwise(walkers([(x, 200), (400 - x, 202)], [0, 1]), 1))
        assert sorted(ids(found)) == [1, 2], speed


@BOTH
def test_people_who_walk_one_behind_the_other_stay_two_by_their_joints(appearance):
    book = TrackBook(TrackConfig(appearance=appearance))
    for x in range(100, 300, 3):
        found = book.update(posed_otherwise(walkers([(x, 200), (x + ASIDE, 200)], [0, 1]), 1))
    assert ids(found) == [1, 2]


def test_the_frames_have_to_be_in_a_row():
    config = TrackConfig(twin_frames=4)
    book = met(config, 3)
    book.update(walkers([(200, 200), (225, 200)], [0, 1]))
    book.update(seen_double(200, [0, 1]))
    assert book.confirmed_ids == [1, 2]


def test_without_joints_the_boxes_decide():
    book = TrackBook(TrackConfig(confirm_hits=1))
    near = without_joints(walkers([(200, 200), (200 + ASIDE, 200)], [0, 1]))
    assert ids(book.update(near)) == [1]
    apart = without_joints(walkers([(200, 200), (212, 200)], [0, 1]))
    assert ids(book.update(apart)) == [1, 2]


def test_a_book_goes_on_counting_after_it_was_resumed():
    config = TrackConfig(twin_frames=4)
    first = met(config, 3)
    second = TrackBook.resumed(first.state(), config)
    second.update(seen_double(200, [0, 1]))
    assert second.confirmed_ids == [1] and torch.equal(second.state()["born"], torch.tensor([1]))
