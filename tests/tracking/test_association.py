import numpy as np
import pytest
import torch

from humanquery.core.boxes import BODY_SHARE
from humanquery.core.oks import oks
from humanquery.core.skeleton import COCO17
from humanquery.tracking.association import cosine_distances, match, pose_similarities


@pytest.mark.parametrize("others", [0, 40], ids=["most pairs near", "few pairs near"])
def test_a_cosine_is_taken_to_the_nearest_of_the_gallery_and_far_pairs_are_infinite(others):
    gallery, found = np.zeros((2, 3, 2), np.float32), np.eye(2, dtype=np.float32)
    gallery[0] = [[1, 0], [0, 1], [1, 0]]
    gallery[1] = [-1, 0]
    found = np.concatenate([found, np.ones((others, 2), np.float32)])
    near = np.zeros((2, 2 + others), bool)
    near[:, :2] = [[True, True], [True, False]]
    cost = cosine_distances(gallery, found, near)
    np.testing.assert_allclose(cost[:, :2], [[0, 0], [2, np.inf]])
    assert np.isinf(cost[:, 2:]).all()
    assert cosine_distances(gallery[:0], found, near[:0]).shape == (0, 2 + others)


def test_a_pair_above_the_limit_is_no_pair_even_if_it_is_all_there_is():
    rows, columns = match(np.array([[0.9]]), 0.5)
    assert len(rows) == len(columns) == 0
    rows, columns = match(np.array([[0.1, np.inf], [0.2, 0.4]]), 0.5)
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [0, 1])
    assert [len(p) for p in match(np.zeros((0, 3)), 0.5)] == [0, 0]


def test_equal_poses_are_alike_and_uncounted_joints_say_nothing():
    joints = (np.random.default_rng(0).random((1, 3, 2)) * 50).astype(np.float32)
    sigmas = np.full(3, 0.08, np.float32)
    box = np.array([[0.0, 0.0, 50.0, 50.0]], np.float32)
    every = np.ones((1, 3), bool)
    assert pose_similarities(joints, joints, box, sigmas, every).item() == pytest.approx(1)
    moved = joints.copy()
    moved[0, 2] += 400
    assert pose_similarities(joints, moved, box, sigmas, every).item() == pytest.approx(
        2 / 3, abs=1e-4
    )
    assert pose_similarities(joints, joints + 400, box, sigmas, every).item() == 0
    most = np.array([[True, True, False]])
    assert pose_similarities(joints, moved, box, sigmas, most).item() == pytest.approx(1)


def test_poses_that_are_left_out_are_hardly_alike():
    rng = np.random.default_rng(0)
    joints = (rng.random((40, 17, 2)) * [40, 100] + rng.random((40, 1, 2)) * 300).astype(np.float32)
    found = joints + rng.normal(0, 6, joints.shape).astype(np.float32)
    boxes = np.concatenate([found.min(1), found.max(1)], 1)
    sigmas, every = np.array(COCO17.sigmas, np.float32), np.ones((40, 17), bool)
    given = [
        torch.from_numpy(v)
        for v in (found[None], joints[:, None], BODY_SHARE * sides(boxes)[None], sigmas)
    ]
    exact = oks(*given, torch.from_numpy(every)[None]).numpy()
    ours = pose_similarities(joints, found, boxes, sigmas, every)
    assert (exact[ours == 0] < 0.01).all() and (ours == 0).mean() > 0.5
    np.testing.assert_allclose(ours[ours > 0], exact[ours > 0], rtol=1e-5)


def sides(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
