import json

import numpy as np
import pytest
import torch

from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons
from humanquery.core.pose_nms import (
    PAPER,
    WHOLE_BODY,
    JointWeights,
    PoseNMSConfig,
    fit_pose_nms,
    instance_scores,
    oks_nms,
    pose_nms,
    soft_oks_nms,
)
from humanquery.core.skeleton import COCO17, Skeleton
from tests.paths import DATA

HALPE = Skeleton.named("halpe136")


def crowd(
    people: int, copies: int, joints: int, seed: int = 0, spread: float = 900.0, jitter: float = 1.5
):
    draw = np.random.default_rng(seed)
    shape = draw.uniform(0, 1, (people, 1, joints, 2)) * [60, 150]
    places = (
        shape
        + draw.uniform(0, spread, (people, 1, 1, 2))
        + draw.normal(0, jitter, (people, copies, joints, 2))
    )
    places = places.reshape(-1, joints, 2)
    scores = draw.uniform(0.0, 1, places.shape[:2])
    boxes = np.concatenate([places.min(1) - 5, places.max(1) + 5], 1)
    shuffled = draw.permutation(len(places))
    return tuple(torch.from_numpy(v[shuffled]).float() for v in (places, scores, boxes))


def reference(keypoints, scores, boxes, c, joints=None):
    """The rules one by one, as the specification lists them."""
    keypoints, scores, boxes = (v.double().numpy() for v in (keypoints, scores, boxes))
    scores = np.where(scores == 0, 1e-5, scores)
    k, sides = keypoints.shape[1], boxes[:, 2:] - boxes[:, :2]
    w = joints or JointWeights.even(k)
    left, people = list(range(len(keypoints))), []
    while left:
        i = max(left, key=lambda row: (np.float32(scores[row].mean()), -row))
        ref, group = c.reach * sides[i].max(), [i]
        for j in left:
            agree = near = matches = 0.0
            for n in range(k):
                d = np.linalg.norm(keypoints[i, n] - keypoints[j, n])
                inside = d <= 1
                if c.window is not None:
                    inside = (
                        abs(keypoints[i, n] - keypoints[j, n]) <= sides[i] * c.window / 2
                    ).all()
                low = w.by_share and scores[j, n] < c.lowest_score
                if inside and (not w.by_share or low == w.released_mask):
                    agree += (
                        w.scores[n]
                        * np.tanh(scores[i, n] / c.score_scale)
                        * np.tanh(scores[j, n] / c.score_scale)
                    )
                if not low:
                    near += w.distances[n] * np.exp(
                        -(d**2 if c.squared else d) / (c.distance_scale * w.reach[n])
                    )
                matches += d <= min(ref, 7) * w.reach[n]
            if w.by_share:
                confident = (scores[i] > c.lowest_score / 2).sum()
                alive = len(left) if w.count_alive else 1
                matches = matches * k / (4 * alive * confident) if confident else 0
            close = c.matches is not None and matches >= c.matches
            if j != i and (close or agree + c.location_weight * near > c.similarity):
                group.append(j)
        left = [row for row in left if row not in group]
        if scores[i].max() < c.lowest_score:
            continue
        place, score = keypoints[i].copy(), scores[i].copy()
        for n in range(k if c.merge else 0):
            inner = [
                j
                for j in group
                if np.linalg.norm(keypoints[i, n] - keypoints[j, n]) <= min(ref, 15) or j == i
            ]
            s = scores[inner, n]
            place[n], score[n] = (
                (s[:, None] * keypoints[inner, n]).sum(0) / s.sum(),
                (s**2).sum() / s.sum(),
            )
        people.append((sorted(group), place, score))
    return people


def assert_equals_reference(poses, config, joints=None):
    found, expected = pose_nms(*poses, config, joints), reference(*poses, config, joints)
    assert [sorted(group) for group in found.members] == [group for group, _, _ in expected]
    assert found.kept.tolist() == [group[0] for group in found.members]
    np.testing.assert_allclose(found.keypoints, np.stack([p for _, p, _ in expected]), atol=2e-3)
    np.testing.assert_allclose(found.scores, np.stack([s for _, _, s in expected]), atol=1e-5)


@pytest.mark.parametrize(
    "config", [PoseNMSConfig(), PAPER, PoseNMSConfig(merge=False, similarity=12.0)]
)
@pytest.mark.parametrize("spread", [900.0, 40.0])
def test_bodies_equal_a_plain_loop(config, spread):
    poses = crowd(5, 4, 17, spread=spread)
    assert_equals_reference(poses, config)
    assert config is PAPER or len(pose_nms(*poses, config)) < 20


@pytest.mark.parametrize("flags", [{}, {"released_mask": False}, {"count_alive": True}])
@pytest.mark.parametrize("config", [WHOLE_BODY, PoseNMSConfig()])
def test_whole_bodies_equal_a_plain_loop(config, flags):
    assert_equals_reference(
        crowd(3, 3, 136, spread=80), config, JointWeights.whole_body(HALPE, **flags)
    )


def test_the_released_division_by_all_poses_leaves_duplicates_in_crowds():
    poses = crowd(1, 8, 136, jitter=0.0)
    assert len(pose_nms(*poses, PoseNMSConfig(), JointWeights.whole_body(HALPE))) == 1
    assert (
        len(pose_nms(*poses, PoseNMSConfig(), JointWeights.whole_body(HALPE, count_alive=True))) > 1
    )


def test_three_copies_merge_as_in_the_specification():
    body = torch.rand(17, 2, generator=torch.Generator().manual_seed(0)) * 100
    poses = torch.stack([body, body + torch.tensor([0.5, 0.0]), body + torch.tensor([30.0, 0.0])])
    scores = torch.tensor([0.9, 0.6, 0.8])[:, None].expand(3, 17)
    boxes = torch.tensor([[0.0, 0, 100, 200], [0, 0, 100, 200], [30, 0, 130, 200]])
    found = pose_nms(poses, scores, boxes)
    assert found.kept.tolist() == [0, 2] and found.members == ((0, 1), (2,))
    assert torch.allclose(found.keypoints[0] - body, torch.tensor([0.2, 0.0]), atol=1e-5)
    assert found.scores[0].tolist() == pytest.approx([0.78] * 17) and torch.equal(
        found.keypoints[1], poses[2]
    )


def test_released_numbers_are_those_of_the_specification():
    path = DATA.parent / "specs" / "alphapose_constants.json"
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the data")
    told = json.loads(path.read_text())["pose_nms"]
    names = {
        "delta1": "score_scale",
        "mu": "location_weight",
        "delta2": "distance_scale",
        "gamma": "similarity",
        "score_threshold": "lowest_score",
        "match_threshold": "matches",
        "alpha": "reach",
    }
    for key, config in (("body", PoseNMSConfig()), ("fullbody_regression_or_combined", WHOLE_BODY)):
        assert {name: getattr(config, names[name]) for name in names} == told[key]


def test_more_similar_poses_are_eliminated_not_less_similar_ones():
    poses = crowd(2, 1, 17, spread=2000, seed=3)
    assert len(pose_nms(*poses, PAPER)) == 2
    twice = tuple(torch.cat([v, v]) for v in poses)
    assert len(pose_nms(*twice, PAPER)) == 2


def test_nobody_and_one_pose():
    empty = pose_nms(torch.zeros(0, 17, 2), torch.zeros(0, 17), torch.zeros(0, 4))
    assert (
        len(empty) == 0 and empty.keypoints.shape == (0, 17, 2) and empty.kept.dtype == torch.int64
    )
    keypoints, scores, boxes = crowd(1, 1, 17)
    alone = pose_nms(keypoints, scores, boxes)
    assert torch.equal(alone.keypoints, keypoints) and alone.members == ((0,),)


def test_faint_and_tiny_people_are_dropped():
    keypoints, scores, boxes = crowd(2, 1, 17)
    assert len(pose_nms(keypoints, scores * 0.2, boxes)) == 0
    assert len(pose_nms(keypoints, scores, boxes, PoseNMSConfig(min_area=1e6))) == 0


def test_poses_that_are_not_finite_are_named():
    keypoints, scores, boxes = crowd(2, 1, 17)
    keypoints[1, 3, 0] = torch.nan
    with pytest.raises(ValueError, match="keypoints of pose 1 hold NaN"):
        pose_nms(keypoints, scores, boxes)


def test_bad_numbers_and_skeletons_are_named():
    with pytest.raises(ConfigError, match="distance_scale: got 0.0, expected more than 0"):
        PoseNMSConfig(distance_scale=0.0)
    with pytest.raises(ConfigError, match="'coco17' has no part 'face'.*even"):
        JointWeights.whole_body(COCO17)


def test_the_instance_score_of_the_release():
    value = instance_scores(torch.tensor([[0.2, 0.6]]), torch.tensor([0.5]))
    assert value.item() == pytest.approx(0.4 + 0.5 + 1.25 * 0.6)


def _oks_reference(keypoints, areas, sigmas, i, j):
    total = 0.0
    for n in range(keypoints.shape[1]):
        squared = float(((keypoints[i, n] - keypoints[j, n]) ** 2).sum())
        total += np.exp(
            -squared / ((2 * float(sigmas[n])) ** 2 * float(areas[i] + areas[j]) / 2 * 2)
        )
    return total / keypoints.shape[1]


@pytest.mark.parametrize("threshold", [0.9, 0.5, 0.05])
@pytest.mark.parametrize("skeleton", [COCO17, HALPE])
def test_oks_nms_equals_a_plain_loop(threshold, skeleton):
    keypoints, scores, boxes = crowd(4, 4, len(skeleton), spread=60, jitter=3.0)
    scores, areas = scores.mean(1), (boxes[:, 2:] - boxes[:, :2]).prod(1)
    sigmas = torch.tensor(skeleton.sigmas)
    expected = []
    for i in scores.argsort(descending=True).tolist():
        if all(_oks_reference(keypoints, areas, sigmas, i, j) <= threshold for j in expected):
            expected.append(i)
    assert oks_nms(keypoints, scores, areas, sigmas, threshold).tolist() == expected


def test_soft_oks_nms_by_hand():
    keypoints = torch.zeros(3, 17, 2)
    keypoints[2] += 1000
    sigmas, areas = torch.tensor(COCO17.sigmas), torch.full((3,), 100.0)
    kept, values = soft_oks_nms(keypoints, torch.tensor([0.8, 0.9, 0.5]), areas, sigmas)
    assert kept.tolist() == [1, 2, 0]
    assert values.tolist() == pytest.approx([0.9, 0.5, 0.8 * np.exp(-1 / 0.9)])
    assert len(soft_oks_nms(keypoints, torch.ones(3), areas, sigmas, most=2)[0]) == 2
    assert len(oks_nms(keypoints[:0], torch.zeros(0), areas[:0], sigmas)) == 0
    assert len(soft_oks_nms(keypoints[:0], torch.zeros(0), areas[:0], sigmas)[0]) == 0


def test_the_search_finds_the_optimum_of_a_separable_score_two_parameters_at_a_time():
    seen = []

    def evaluate(c: PoseNMSConfig) -> float:
        seen.append(c)
        return -abs(c.score_scale - 2) - abs(c.distance_scale - 2.65) - abs(c.similarity - 11.24)

    fit = fit_pose_nms(evaluate)
    assert (fit.config.score_scale, fit.config.similarity) == (2.0, 11.24) and fit.value == 0
    assert fit.config.location_weight == 1.7, "equal values keep the earlier criterion"
    assert fit.rounds == 2 and len(seen) == len(set(seen)) == len(fit.tried)


def test_the_search_names_parameters_it_cannot_change():
    with pytest.raises(
        ConfigError, match="'similarty' is no number of PoseNMSConfig. Did you mean 'similarity'"
    ):
        fit_pose_nms(lambda c: 0.0, pairs=[("similarty", "reach")])


def test_clusters_are_people_with_the_best_pose_s_fields_and_the_merged_joints():
    one = torch.rand(17, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([40.0, 90.0])
    shown = torch.tensor([0.5, 0.9, 0.7])
    poses = Persons(
        image_size=(100, 100),
        boxes=torch.tensor([[0.0, 0.0, 40.0, 90.0]] * 2 + [[50.0, 0.0, 90.0, 90.0]]),
        scores=shown,
        keypoints=torch.stack([one, one + 0.5, one + torch.tensor([50.0, 0.0])]),
        keypoint_scores=shown[:, None].repeat(1, 17),
        skeleton=COCO17,
    )
    clusters = pose_nms(poses.keypoints, poses.keypoint_scores, poses.boxes)
    people = clusters.people(poses)
    assert clusters.members == ((1, 0), (2,))
    assert torch.equal(people.scores, shown[[1, 2]])
    assert torch.equal(people.keypoints, clusters.keypoints)
    assert torch.equal(people.keypoint_scores, clusters.scores)
