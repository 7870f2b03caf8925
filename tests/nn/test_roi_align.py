"""RoIAlign by torchvision's library alone, against torchvision."""

import torch
from torchvision.ops import roi_align as theirs

from humanquery.nn import roi_align as module
from humanquery.nn.roi_align import operators_alone, roi_align

MAPS = torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(0))
BOXES = torch.tensor([[0.0, 1.5, 2, 9, 8], [1, -3, -2, 4, 5], [1, 2, 2, 30, 30]])


def test_boxes_look_as_torchvision_cuts_them_out():
    for ratio in (0, 2):
        wanted = theirs(MAPS, BOXES, (4, 6), sampling_ratio=ratio, aligned=True)
        torch.testing.assert_close(roi_align(MAPS, BOXES, (4, 6), sampling_ratio=ratio), wanted)


def test_the_installed_torchvision_needs_no_import():
    assert operators_alone()


def test_nobody_gives_no_grids():
    assert roi_align(MAPS, BOXES[:0], (4, 6), sampling_ratio=2).shape == (0, 3, 4, 6)


def test_gradients_reach_the_maps():
    maps = MAPS.clone().requires_grad_()
    roi_align(maps, BOXES[:1], (2, 2), sampling_ratio=2).sum().backward()
    assert maps.grad[0].abs().sum() > 0 and not maps.grad[1].any()


def test_a_library_of_another_name_falls_back_to_torchvision(monkeypatch):
    monkeypatch.setattr(module, "operators_alone", lambda: False)
    wanted = theirs(MAPS, BOXES, (4, 6), sampling_ratio=2, aligned=True)
    torch.testing.assert_close(roi_align(MAPS, BOXES, (4, 6), sampling_ratio=2), wanted)
