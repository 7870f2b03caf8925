import json

import numpy as np
import pytest
import torch

from humanquery.core.errors import AnnotationError
from humanquery.core.persons import Persons
from humanquery.core.rows import Labelled
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.core.target import Target
from humanquery.data.readers.posetrack import read_pose_clip
from humanquery.evaluation.posetrack_ap import (
    JOINTS,
    PoseLabels,
    PoseRules,
    evaluate_poses,
    found_rows,
)
from tests.paths import DATA, needs_data

SKELETON = Skeleton.named("posetrack18_17")
COUNTED = torch.tensor([name not in ("left_ear", "right_ear") for name in SKELETON.joints])
SIZE = (200, 400)
KINDS = ("ap", "mota", "motp", "precision", "recall")
HEAD = (0.0, 0.0, 30.0, 40.0)  # diagonal 50, head size 30: joints within 15 px are right


def _pose(x: float) -> torch.Tensor:
    """17 joints in a column at x, 40 px from one to the next."""
    return torch.stack([torch.full((17,), x), torch.arange(17) * 40.0], 1)


def _truth(people: dict[int, float], *, regions=(), joints=COUNTED) -> PoseLabels:
    n = len(people)
    target = Target(
        image_size=SIZE,
        boxes=torch.zeros(n, 4),
        ignore=torch.zeros(n, dtype=torch.bool),
        areas=torch.ones(n),
        keypoints=Labelled(
            torch.stack([_pose(x) for x in people.values()]) if n else torch.zeros(0, 17, 2),
            torch.ones(n) > 0,
        ),
        visibility=2 * joints.long().expand(n, 17),
        track_ids=torch.tensor(list(people), dtype=torch.long),
        skeleton=SKELETON,
    )
    return PoseLabels(
        target, Labelled(torch.tensor([HEAD]).expand(n, 4), torch.ones(n) > 0), regions
    )


def _found(people: dict[int, float], scores=None, *, joints=COUNTED) -> Persons:
    n = len(people)
    points = torch.stack([_pose(x) for x in people.values()]) if n else torch.zeros(0, 17, 2)
    return Persons(
        image_size=SIZE,
        boxes=torch.zeros(n, 4),
        scores=torch.ones(n),
        keypoints=torch.where(joints[:, None], points, torch.nan),
        keypoint_scores=None if scores is None else torch.tensor(scores)[:, None].expand(n, 17),
        track_ids=torch.tensor(list(people), dtype=torch.long),
        skeleton=SKELETON,
    )


def _score(truth: list, found: list, rules: PoseRules | None = None):
    return evaluate_poses({"clip": (truth, found)}, rules)["clip"]


def _totals(scores) -> list:
    return [scores.total(kind) for kind in KINDS]


TWO = {1: 50.0, 2: 250.0}


def test_perfect_poses_score_one_everywhere():
    scores = _score([_truth(TWO)] * 4, [_found({7: 50.0, 8: 250.0}, [0.9, 0.8])] * 4)
    assert _totals(scores) == [1.0] * 5
    assert all(value == 1.0 for kind in KINDS for value in scores.groups(kind).values())
    assert (scores.switches, scores.people, scores.frames) == (0, 8, 4)


def test_joints_that_are_all_wrong_score_zero_and_below():
    scores = _score([_truth({1: 50.0})] * 3, [_found({1: 100.0}, [0.9])] * 3)
    assert _totals(scores) == [0.0, -1.0, 0.0, 0.0, 0.0]  # per joint 2 misses and 2 false of 2


def test_a_joint_counts_up_to_half_a_head_size_and_not_beyond():
    assert _score([_truth({1: 50.0})] * 2, [_found({1: 65.0})] * 2).total("ap") == 1.0
    assert _score([_truth({1: 50.0})] * 2, [_found({1: 65.1})] * 2).total("ap") == 0.0


def test_motp_is_one_minus_the_mean_distance_in_head_sizes():
    assert _score([_truth({1: 50.0})] * 3, [_found({1: 59.0})] * 3).total("motp") == pytest.approx(
        1 - 9 / 30
    )


def test_two_swapped_people_cost_one_switch_per_person_and_joint():
    swapped = _found({2: 50.0, 1: 250.0})
    scores = _score([_truth(TWO)] * 5, [_found(TWO)] * 2 + [swapped] * 3)
    assert scores.switches == 2 * 15
    assert scores.mota["nose"] == pytest.approx(
        1 - 2 / 8
    )  # two people in the four frames that count
    assert scores.total("ap") == 1.0


def test_the_last_frame_counts_for_ap_and_not_for_mota():
    wrong_at_the_end = [_found({1: 50.0})] * 2 + [_found({1: 300.0})]
    scores = _score([_truth({1: 50.0})] * 3, wrong_at_the_end)
    assert scores.total("mota") == 1.0
    assert scores.total("ap") < 1.0


def test_a_single_frame_has_ap_and_no_mota():
    scores = _score([_truth({1: 50.0})], [_found({1: 50.0})])
    assert _totals(scores) == [1.0, None, None, None, None]


def test_each_true_person_takes_one_found_person_and_the_other_is_false():
    # both found people are right about person 1; the first of equals wins, the higher ranked one is
    # false
    scores = _score([_truth({1: 50.0})], [_found({1: 50.0, 2: 52.0}, [0.4, 0.9])])
    assert scores.ap["nose"] == pytest.approx(0.5)  # precision at the only hit is 1/2
    assert _score([_truth({1: 50.0})], [_found({1: 50.0, 2: 52.0}, [0.9, 0.4])]).ap["nose"] == 1.0


def test_a_found_person_who_loses_is_not_given_another_true_one():
    # 3 is nearest to both; found 8 is within reach of 1 (x 50) and 2 (x 64) but keeps only its
    # first, which 7 takes
    truth, found = _truth({1: 50.0, 2: 64.0}), _found({7: 50.0, 8: 57.0}, [0.9, 0.8])
    assert _score([truth], [found]).ap["nose"] == pytest.approx(0.5)


def test_missing_joint_scores_rank_last():
    scores = torch.tensor([[0.1] * 17, [torch.nan] * 17])
    right_with_score = _found(TWO).replace(keypoint_scores=scores)
    truth = [_truth({1: 50.0})]
    assert _score(truth, [right_with_score]).ap["nose"] == 1.0
    assert _score(truth, [right_with_score.replace(keypoint_scores=scores.flip(0))]).ap[
        "nose"
    ] == pytest.approx(0.5)


def test_average_precision_is_the_area_under_the_envelope():
    # ranked: right, wrong, right of 3 annotated: precision 1, 1/2, 2/3 -> 1/3 * 1 + 1/3 * 2/3
    truth = [_truth({1: 50.0, 2: 150.0, 3: 250.0})]
    found = [_found({1: 50.0, 9: 350.0, 2: 150.0}, [0.9, 0.8, 0.7])]
    assert _score(truth, found).ap["left_knee"] == pytest.approx(1 / 3 + 2 / 9)


def test_frames_without_true_people_count_for_nothing():
    truth = [_truth({1: 50.0}), _truth({}), _truth({1: 50.0})]
    found = [_found({1: 50.0}), _found({1: 50.0, 2: 90.0}), _found({1: 50.0})]
    scores = _score(truth, found)
    assert _totals(scores) == [1.0] * 5 and scores.frames == 2


def test_a_frame_in_which_nobody_is_found_is_one_miss_and_one_false_as_in_poseval():
    scores = _score([_truth(TWO)] * 3, [_found({}), _found(TWO), _found(TWO)])
    assert scores.mota["nose"] == pytest.approx(1 - 2 / 3)  # objects 1 + 2, one miss, one false
    assert scores.total("ap") == pytest.approx(4 / 6)


def test_joints_in_ignore_polygons_count_neither_as_true_nor_as_found():
    around_second = torch.tensor([[200.0, -10], [390, -10], [390, 700], [200, 700]])
    truth = [_truth(TWO, regions=(around_second,))] * 2
    found = [_found({1: 50.0, 9: 300.0})] * 2
    assert _totals(_score(truth, found)) == [1.0] * 5
    assert _score([_truth(TWO)] * 2, found).total("mota") == 0.0


def test_a_point_on_the_border_of_a_polygon_is_outside():
    upper = torch.tensor([[50.0, -10], [390, -10], [390, 700], [50, 700]])
    scores = _score([_truth({1: 50.0}, regions=(upper,))] * 2, [_found({1: 50.0})] * 2)
    assert scores.people == 2


def test_where_all_true_people_are_ignored_the_found_ones_elsewhere_are_false():
    everywhere = torch.tensor([[0.0, -10], [100, -10], [100, 700], [0, 700]])
    truth = [_truth({1: 50.0}, regions=(everywhere,)), _truth({1: 50.0})]
    scores = _score(truth, [_found({5: 300.0}, [0.9]), _found({1: 50.0}, [0.5])])
    assert scores.ap["nose"] == pytest.approx(0.5)


def test_low_joints_are_left_out_of_mota_but_not_of_ap():
    truth, found = [_truth({1: 50.0})] * 3, [_found({1: 50.0, 2: 200.0}, [0.9, 0.1])] * 3
    assert _score(truth, found).total("mota") == 0.0
    scores = _score(truth, found, PoseRules(tracking_joint_score=0.2))
    assert (scores.total("mota"), scores.total("ap")) == (1.0, 1.0)


def test_a_joint_that_nobody_annotated_has_no_score_and_stays_out_of_the_means():
    no_nose = COUNTED & torch.tensor([name != "nose" for name in SKELETON.joints])
    scores = _score([_truth({1: 50.0}, joints=no_nose)] * 2, [_found({1: 50.0})] * 2)
    assert (
        scores.ap["nose"],
        scores.mota["nose"],
        scores.total("ap"),
        scores.groups()["Head"],
    ) == (None, None, 1, 1)


def test_poses_without_ids_have_ap_alone():
    people = [_found(TWO, [0.9, 0.8]).replace(track_ids=None)]
    truth = [
        PoseLabels(label.target.replace(track_ids=None), label.head_boxes)
        for label in [_truth(TWO)]
    ]
    with pytest.raises(AnnotationError, match="no track ids"):
        _score(truth, people)
    report = evaluate_poses({"clip": (truth * 3, people * 3)}, PoseRules(tracking=False))
    assert report["clip"].total("ap") == 1.0 and report["clip"].total("mota") is None
    assert "MOTA" not in report.table() and "poses/mota" not in report.numbers()


def test_an_id_is_remembered_while_a_person_is_not_found():
    gone = _found({9: 350.0})
    truth = [_truth({1: 50.0})] * 4
    same = _score(truth, [_found({4: 50.0}), gone, _found({4: 50.0}), gone])
    other = _score(truth, [_found({4: 50.0}), gone, _found({5: 50.0}), gone])
    assert (same.switches, other.switches) == (0, 15)


def test_sequences_are_counted_apart_and_added_up():
    good, bad = (
        ([_truth(TWO)] * 3, [_found(TWO)] * 3),
        ([_truth({1: 50.0})] * 2, [_found({1: 300.0})] * 2),
    )
    report = evaluate_poses({"good": good, "bad": bad})
    assert (report["good"].total("mota"), report["bad"].total("mota")) == (1.0, -1.0)
    assert report.combined.mota["nose"] == pytest.approx(1 - 2 / 5)


def test_joints_of_other_skeletons_go_by_name():
    people = Persons(
        image_size=SIZE,
        boxes=torch.zeros(1, 4),
        scores=torch.ones(1),
        keypoints=torch.arange(34.0).reshape(1, 17, 2),
        track_ids=torch.tensor([1]),
        skeleton=COCO17,
    )
    rows = found_rows(people)
    assert rows.joints[0, JOINTS.index("right_ankle")].tolist() == people.keypoints[0, 16].tolist()
    assert not rows.present[0, [JOINTS.index("neck"), JOINTS.index("head_top")]].any()
    assert rows.present.sum() == 13


def test_the_order_of_joints_is_posevals():
    assert [JOINTS.index(name) for name in ("right_ankle", "neck", "nose", "head_top")] == [
        0,
        12,
        13,
        14,
    ]


def test_the_report_is_a_table_and_plain_json(tmp_path):
    report = evaluate_poses(
        {"clip": ([_truth(TWO)] * 2, [_found(TWO)] * 2), "one": ([_truth(TWO)], [_found(TWO)])}
    )
    lines = report.table().splitlines()
    assert lines[0].split() == ["AP", "Head", "Shou", "Elb", "Wri", "Hip", "Knee", "Ankl", "Total"]
    assert lines[1].split() == ["clip", *["100.0"] * 8]
    assert "n/a" in lines[7] and lines[8].startswith("combined")
    assert "2 sequences, 3 annotated frames, 6 poses" in report.table()
    assert report.numbers()["poses/ap_head"] == report.numbers()["poses/mota"] == 1.0
    report.save(tmp_path / "scores.json")
    plain = json.loads((tmp_path / "scores.json").read_text())
    assert plain == report.to_json() and plain["sequences"]["one"]["mota"]["nose"] is None


def test_no_frames_have_no_scores():
    assert _totals(_score([], [])) == [None] * 5
    assert np.isclose(_score([], []).people, 0)


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        (
            [_truth(TWO)],
            [],
            "'clip': 1 frames of truth and 0 of found people; give one entry per frame",
        ),
        (
            [_truth(TWO)],
            [_found(TWO).replace(keypoints=None, keypoint_scores=None)],
            "frame 0 .*found: no keypoints",
        ),
        ([_truth(TWO)], [_found(TWO).replace(track_ids=None)], "frame 0 .*, found: no track ids"),
        (
            [_truth(TWO)],
            [_found(TWO).replace(track_ids=torch.tensor([3, 3]))],
            "found: id 3 comes 2 times",
        ),
        (
            [PoseLabels(_truth(TWO).target, _truth({}).head_boxes)],
            [_found(TWO)],
            "truth: 0 head boxes for 2 people",
        ),
        (
            [
                PoseLabels(
                    _truth(TWO).target, Labelled(torch.zeros(2, 4), torch.tensor([True, False]))
                )
            ],
            [_found(TWO)],
            "truth: person 1 has joints but no head box; distances are measured in head sizes",
        ),
        (
            [_truth(TWO, regions=(torch.zeros(2, 2),))],
            [_found(TWO)],
            "an ignore region has 2 points, expected at least",
        ),
    ],
)
def test_what_cannot_be_scored_is_told(truth, found, message):
    with pytest.raises(AnnotationError, match=message):
        _score(truth, found)


def test_no_sequences_are_told():
    with pytest.raises(AnnotationError, match="no sequences to evaluate"):
        evaluate_poses({})


@needs_data
def test_the_truth_of_a_real_clip_scores_one_against_itself():
    frames = read_pose_clip(DATA / "tracking/posetrack-060470979/poses.json")
    scores = _score(frames, [frame.persons() for frame in frames])
    assert (_totals(scores), scores.ap["nose"], scores.people) == ([1.0] * 5, None, 164)
