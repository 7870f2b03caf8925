import pytest
import torch

from humanquery.tracking.association import cascade, cosine_distances, match, pose_similarities


def test_a_cosine_is_taken_to_the_nearest_of_the_gallery_and_never_to_an_empty_place():
    gallery = torch.zeros(2, 3, 2)
    gallery[0, 0], gallery[0, 1] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    gallery[1, 0] = torch.tensor([-1.0, 0.0])
    gallery[1, 1] = torch.tensor([1.0, 0.0])  # stands behind `filled`: not there
    cost = cosine_distances(gallery, torch.tensor([2, 1]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(cost, torch.tensor([[0.0, 0.0], [2.0, 1.0]]))
    assert cosine_distances(gallery[:0], torch.zeros(0, dtype=torch.long), torch.rand(4, 2)).shape == (0, 4)


def test_a_pair_above_the_limit_is_no_pair_even_if_it_is_all_there_is():
    rows, columns = match(torch.tensor([[0.9]]), 0.5)
    assert len(rows) == len(columns) == 0
    rows, columns = match(torch.tensor([[0.1, torch.inf], [0.2, 0.4]]), 0.5)
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [0, 1])
    assert [len(p) for p in match(torch.zeros(0, 3), 0.5)] == [0, 0]


def test_the_recently_seen_choose_first_however_well_the_others_fit():
    cost = torch.tensor([[0.3, 0.9], [0.0, 0.2]])
    rows, columns = cascade(cost, torch.tensor([1, 5]), 0.5)
    assert dict(zip(rows.tolist(), columns.tolist(), strict=True)) == {0: 0, 1: 1}
    both = cascade(torch.tensor([[0.3], [0.0]]), torch.tensor([1, 5]), 0.5)
    assert [p.tolist() for p in both] == [[0], [0]]
    assert [len(p) for p in cascade(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), 0.5)] == [0, 0]


def test_equal_poses_are_alike_and_uncounted_joints_say_nothing():
    joints, sigmas = torch.rand(1, 3, 2) * 50, torch.full((3,), 0.08)
    box = torch.tensor([[0.0, 0.0, 50.0, 50.0]])
    every = torch.ones(1, 3, dtype=torch.bool)
    assert float(pose_similarities(joints, joints, box, sigmas, every)) == pytest.approx(1)
    moved = joints.clone()
    moved[0, 2] += 400
    assert float(pose_similarities(joints, moved, box, sigmas, every)) == pytest.approx(2 / 3, abs=1e-4)
    most = torch.tensor([[True, True, False]])
    assert float(pose_similarities(joints, moved, box, sigmas, most)) == pytest.approx(1)
