"""Each loss against numbers that can be checked by hand or against another implementation."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from humanquery.losses import people, scores, shapes
from humanquery.nn.sampling import sample_points
from tests.models import oracle
from tests.paths import needs_oracle


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_focal_equals_torchvisions():
    logits, positive = random(50) * 4, torch.rand(50) > 0.5
    expected = sigmoid_focal_loss(logits, positive.float(), alpha=0.25, gamma=2.0)
    torch.testing.assert_close(scores.focal(logits, positive), expected)


def test_focal_cost_prefers_sure_queries():
    cost = scores.focal_cost(torch.tensor([-4.0, 0.0, 4.0]))
    assert cost[0] > cost[1] > cost[2]
    p = 0.5
    by_hand = -math.log(p) * 0.25 * (1 - p) ** 2 + math.log(1 - p) * 0.75 * p**2
    assert float(cost[1]) == pytest.approx(by_hand)


def test_binary_of_a_half_is_log_two():
    assert float(scores.binary(torch.zeros(1), torch.ones(1))) == pytest.approx(math.log(2))


def test_giou_loss_equals_torchvisions():
    a = torch.rand(20, 2) * 10
    boxes, true = (
        torch.cat([a, a + 1 + torch.rand(20, 2) * 9], 1),
        torch.cat([a + 3, a + 5 + torch.rand(20, 2)], 1),
    )
    torch.testing.assert_close(
        shapes.giou_loss(boxes, true), generalized_box_iou_loss(boxes, true), atol=1e-4, rtol=1e-4
    )


def test_points_read_cell_centres_and_zero_outside():
    maps = torch.arange(6.0).reshape(1, 2, 3)
    points = torch.tensor([[[0.5 / 3, 0.25], [2.5 / 3, 0.75], [2.0, 2.0]]])
    torch.testing.assert_close(sample_points(maps, points), torch.tensor([[0.0, 5.0, 0.0]]))


def test_uncertain_points_are_the_candidates_nearest_to_the_boundary():
    logits = torch.linspace(-4, 4, 9).expand(1, 9, 9).contiguous()
    candidates = torch.rand(1, 60, 2, generator=torch.Generator().manual_seed(0))
    rest = torch.zeros(1, 5, 2)
    points = shapes.uncertain_points(logits, 20, candidates, rest)
    assert points.shape == (1, 20, 2) and (points[:, 15:] == 0).all()
    limit = (points[0, :15, 0] - 0.5).abs().max()
    assert ((candidates[0, :, 0] - 0.5).abs() < limit - 1e-6).sum() <= 15


def test_dice_and_bce_of_right_and_wrong_masks():
    right, truth = torch.tensor([[9.0, 9.0, -9.0, -9.0]]), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert float(shapes.dice(right, truth)) < 1e-3 and float(shapes.mask_bce(right, truth)) < 1e-3
    assert float(shapes.dice(-right, truth)) == pytest.approx(1 - 1 / 5, abs=1e-3)


def test_pairwise_costs_equal_the_losses_of_every_pair():
    logits, truth = random(4, 30), (random(3, 30, seed=1) > 0).float()
    for pairwise, single in (
        (shapes.pairwise_dice_cost, shapes.dice),
        (shapes.pairwise_bce_cost, shapes.mask_bce),
    ):
        expected = torch.stack([single(logits, t.expand(4, -1)) for t in truth], 1)
        torch.testing.assert_close(pairwise(logits, truth), expected)


AGES = torch.arange(85.0)


def test_age_loss_of_one_age_is_the_released_sum_of_three_terms():
    logits, age = random(6, 85), torch.tensor([0.0, 5, 30, 44, 83, 84])
    p = logits.softmax(1)
    mean = (p * AGES).sum(1)
    variance = (p * (AGES - mean[:, None]) ** 2).sum(1)
    expected = (
        0.02 * (mean - age) ** 2
        + 0.1 * variance
        + F.cross_entropy(logits, age.long(), reduction="none")
    )
    torch.testing.assert_close(people.age_loss(logits, age, age, AGES), expected)


def test_age_loss_of_an_interval_is_zero_for_even_odds_inside_it():
    low, high = torch.tensor([20.0]), torch.tensor([29.0])
    inside = torch.where((AGES >= 20) & (AGES <= 29), 0.0, -1e4)[None]
    assert float(people.age_loss(inside, low, high, AGES)) == pytest.approx(0, abs=1e-3)


def test_age_loss_of_an_interval_grows_with_the_distance():
    low, high = torch.tensor([20.0]), torch.tensor([29.0])
    losses = [
        float(people.age_loss(-((AGES - a) ** 2)[None] / 8, low, high, AGES))
        for a in (25.0, 34.0, 50.0)
    ]
    assert losses[0] < losses[1] < losses[2]


def test_age_gradients_stay_finite_far_outside_the_interval():
    logits = (-((AGES - 80) ** 2))[None].requires_grad_()
    people.age_loss(logits, torch.tensor([1.0]), torch.tensor([2.0]), AGES).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_ages_beyond_the_classes_take_the_nearest_class():
    logits = random(1, 84)
    ages = torch.arange(1.0, 85.0)
    old, oldest = torch.tensor([95.0]), torch.tensor([84.0])
    parts = {"mean": 0.0, "variance": 0.0}
    torch.testing.assert_close(
        people.age_loss(logits, old, old, ages, **parts),
        people.age_loss(logits, oldest, oldest, ages, **parts),
    )


def test_expected_age_is_the_mean_of_the_distribution():
    logits = torch.full((1, 85), -1e4)
    logits[0, [20, 40]] = 0.0
    assert float(people.expected_age(logits, AGES)) == pytest.approx(30.0)


def test_oks_loss_is_cut_at_a_millionth():
    torch.testing.assert_close(
        people.oks_loss(torch.tensor([1.0, 0.0])), torch.tensor([0.0, math.log(1e6)])
    )


def test_heat_map_of_nobody_is_empty():
    targets = people.heatmap_targets(
        torch.zeros(0, 4), torch.zeros(0, 17, 2), torch.zeros(0, 17, dtype=torch.bool), (5, 6)
    )
    assert targets.shape == (17, 5, 6) and not targets.any()


@needs_oracle
@pytest.mark.parametrize("case", ["same", "pad"])
def test_heat_map_targets_and_loss_equal_the_official_ones(case):
    stored = oracle.arrays(f"loss_tiny_{case}_nodn.npz")
    expected = torch.from_numpy(stored["hm/target"])
    size = tuple(expected.shape[-2:])
    drawn = torch.stack(
        [
            people.heatmap_targets(t.boxes, t.keypoints.value, t.counted_joints, size)
            for t in oracle.true_people(case)
        ]
    )
    np.testing.assert_allclose(drawn.numpy(), expected.numpy(), atol=1e-6)
    valid = torch.from_numpy(stored["hm/valid_mask"]).reshape(len(expected), -1, *size)[:, 0].bool()
    logits = torch.logit(torch.from_numpy(stored["hm/pred_sigmoid"]).double()).float()
    import json

    total = json.loads((oracle.ORACLE / f"loss_tiny_{case}_nodn.json").read_text())["losses"][
        "loss_hm"
    ]
    loss = people.heatmap_loss(logits, expected, valid) / (expected == 1).sum()
    assert 4 * float(loss) == pytest.approx(total, rel=1e-4)
