import math

import pytest
import torch

from humanquery.losses.heatmaps import coordinate_error, gaussian_maps, heatmap_error


def test_a_gaussian_stands_at_the_nearest_cell_with_height_one():
    maps, shown = gaussian_maps(
        torch.tensor([[[21.0, 10.0]]]), torch.ones(1, 1, dtype=torch.bool), (20, 24)
    )
    assert maps[0, 0].argmax().item() == 3 * 24 + 5 and maps.max() == 1 and shown.all()
    assert maps[0, 0, 3, 7].item() == pytest.approx(math.exp(-4 / 8))
    assert maps[0, 0, 3, 11] > 0 and maps[0, 0, 3, 12] == 0


def test_joints_that_are_not_counted_or_far_outside_have_no_map():
    joints = torch.tensor([[[8.0, 8.0], [-40.0, 8.0], [-20.0, 8.0]]])
    maps, shown = gaussian_maps(joints, torch.tensor([[False, True, True]]), (8, 8))
    assert shown.tolist() == [[False, False, True]]
    assert not maps[0, :2].any() and maps[0, 2].any()


def test_the_heatmap_error_ignores_what_does_not_count():
    maps, targets = torch.ones(1, 2, 2, 2, requires_grad=True), torch.zeros(1, 2, 2, 2)
    targets[0, 1] = torch.nan
    loss = heatmap_error(maps, targets, torch.tensor([[True, False]]))
    loss.backward()
    assert loss.item() == 2.0 and maps.grad[0, 0].eq(1).all()


def test_the_coordinate_error_by_hand():
    unit = torch.tensor([[[0.1, 0.2], [0.0, 0.0], [0.3, 0.3]]])
    true = torch.tensor([[[0.0, 0.0], [0.5, 0.0], [9.0, 9.0]]])
    counted = torch.tensor([[True, True, False]])
    assert coordinate_error(unit, true, counted).item() == pytest.approx(0.8)
    assert coordinate_error(unit, true, counted, torch.tensor([2.0, 1, 1])).item() == pytest.approx(
        1.1
    )


def test_nobody_costs_nothing_and_keeps_the_graph():
    unit = torch.zeros(0, 17, 2, requires_grad=True)
    coordinate_error(unit, torch.zeros(0, 17, 2), torch.zeros(0, 17, dtype=torch.bool)).backward()
    maps, shown = gaussian_maps(torch.zeros(0, 17, 2), torch.zeros(0, 17, dtype=torch.bool), (4, 3))
    assert maps.shape == (0, 17, 4, 3) and shown.shape == (0, 17)
