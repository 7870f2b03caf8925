import numpy as np
import pytest
import torch

from humanquery.core.errors import TrackingError
from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17
from humanquery.tracking import Tracker
from humanquery.tracking.msim import MSIMConfig, MSIMTracker, pose_distances, unit_poses


def _frame(corners, embeddings=None, poses=None, scores=None) -> Persons:
    corners = torch.tensor(corners).float().reshape(-1, 2)
    boxes = torch.cat([corners, corners + torch.tensor([20.0, 40.0])], 1)
    keypoints = None
    if poses is not None:
        keypoints = corners[:, None] + torch.from_numpy(np.array(poses)).float() * torch.tensor(
            [20.0, 40.0]
        )
    return Persons(
        image_size=(200, 300),
        boxes=boxes,
        scores=torch.full((len(corners),), 0.9) if scores is None else torch.tensor(scores),
        embeddings=None if embeddings is None else torch.tensor(embeddings).float(),
        keypoints=keypoints,
        skeleton=COCO17,
    )


def _ids(tracker: MSIMTracker, *frame, **fields) -> list[int]:
    return tracker.update(_frame(*frame, **fields)).track_ids.tolist()


def test_people_keep_their_ids_whatever_their_order():
    tracker = MSIMTracker()
    assert _ids(tracker, [[10, 10], [100, 10]]) == [1, 2]
    assert _ids(tracker, [[102, 10], [12, 10]]) == [2, 1]


def test_appearance_decides_before_place():
    red, blue = [1.0, 0.0], [0.0, 1.0]
    tracker = MSIMTracker()
    assert _ids(tracker, [[10, 10], [18, 10]], [red, blue]) == [1, 2]
    assert _ids(tracker, [[10, 10], [18, 10]], [blue, red]) == [2, 1]


def test_poses_decide_between_boxes_that_overlap_alike():
    draw = np.random.default_rng(0)
    one, other = draw.uniform(0, 1, (2, 17, 2))
    tracker = MSIMTracker()
    assert _ids(tracker, [[10, 10], [18, 10]], poses=[one, other]) == [1, 2]
    assert _ids(tracker, [[14, 10], [14, 10]], poses=[other, one]) == [2, 1]


def test_the_relaxed_stage_catches_who_moved_far():
    strict, relaxed = MSIMTracker(MSIMConfig(relaxed=0.5)), MSIMTracker()
    for tracker in (strict, relaxed):
        _ids(tracker, [[10, 10]])
    assert _ids(strict, [[22, 10]]) == [2] and _ids(relaxed, [[22, 10]]) == [1]


def test_the_unseen_come_back_within_the_patience_and_not_after():
    tracker = MSIMTracker(MSIMConfig(patience=2))
    _ids(tracker, [[10, 10]])
    assert [_ids(tracker, []) for _ in range(2)] == [[], []]
    assert _ids(tracker, [[10, 10]]) == [1]
    assert [_ids(tracker, []) for _ in range(3)] == [[], [], []]
    assert _ids(tracker, [[10, 10]]) == [2]


def test_faint_people_start_no_track_but_go_on_with_one():
    tracker = MSIMTracker()
    assert _ids(tracker, [[10, 10]], scores=[0.3]) == []
    assert _ids(tracker, [[10, 10]]) == [1]
    assert _ids(tracker, [[10, 10]], scores=[0.3]) == [1]


def test_two_trackers_do_not_notice_each_other():
    assert _ids(MSIMTracker(), [[10, 10]]) == _ids(MSIMTracker(), [[10, 10]]) == [1]


def test_pose_distance_is_zero_for_the_same_pose_at_any_size_and_grows_to_one():
    pose = np.random.default_rng(0).uniform(0, 1, (1, 17, 2))
    small = unit_poses(pose * 20, np.array([[10.0, 10, 20, 20]]))
    large = unit_poses(pose * 80 + 100, np.array([[140.0, 140, 80, 80]]))
    assert pose_distances(small, large, 0.01)[0, 0] == pytest.approx(0, abs=1e-9)
    assert pose_distances(small, small + 5, 0.01)[0, 0] == pytest.approx(1)


def test_fields_that_come_and_go_are_refused():
    tracker = MSIMTracker()
    _ids(tracker, [[10, 10]], [[1.0, 0.0]])
    with pytest.raises(
        TrackingError, match="0 numbers of embedding and 0 joints follow people with 2 and 0"
    ):
        _ids(tracker, [[10, 10]])


def test_a_tracker_goes_on_from_its_state_as_if_nothing_had_happened():
    draw = np.random.default_rng(0)
    frames = [
        _frame(
            [[10 + 3 * t, 10], [100 - 3 * t, 60]],
            embeddings=[[1.0, 0.1 * t], [0.0, 1.0]],
            poses=draw.uniform(0, 1, (2, 17, 2)),
        )
        for t in range(6)
    ]
    whole = MSIMTracker()
    expected = [whole.update(frame).track_ids.tolist() for frame in frames]
    first = MSIMTracker()
    for frame in frames[:3]:
        first.update(frame)
    second = MSIMTracker.resumed(first.state(), first.config)
    assert [second.update(frame).track_ids.tolist() for frame in frames[3:]] == expected[3:]
    fresh = MSIMTracker.resumed(MSIMTracker().state())
    assert fresh.update(frames[0]).track_ids.tolist() == [1, 2]


def test_it_is_a_tracker_and_refuses_a_clip_whose_size_changes():
    tracker = MSIMTracker()
    assert isinstance(tracker, Tracker)
    tracker.update(_frame([[10, 10]]))
    wide = _frame([[10, 10]]).replace(image_size=(300, 400))
    with pytest.raises(TrackingError, match="frame 1: people of a picture of 300 x 400 px"):
        tracker.update(wide)
    assert tracker.update(_frame([[10, 10]])).track_ids.tolist() == [1]


def test_people_below_the_score_that_is_kept_are_nobodys():
    tracker = MSIMTracker(MSIMConfig(keep_score=0.4))
    assert _ids(tracker, [[10, 10]]) == [1]
    assert _ids(tracker, [[10, 10]], scores=[0.3]) == []


def test_it_says_which_rows_it_answered_with_and_whom_it_waits_for():
    tracker = MSIMTracker(MSIMConfig(patience=1))
    assert tracker.confirmed_ids == [] and tracker.frame == 0
    tracker.update(_frame([[10, 10], [100, 100], [60, 60]], scores=[0.9, 0.01, 0.9]))
    assert tracker.given.tolist() == [0, 2] and tracker.confirmed_ids == [1, 2]
    tracker.update(_frame([[10, 10]]))
    assert tracker.given.tolist() == [0] and tracker.confirmed_ids == [1, 2]
    tracker.update(_frame([[10, 10]]))
    assert tracker.confirmed_ids == [1] and tracker.frame == 3
