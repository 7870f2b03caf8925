"""What backbones that were trained on people say about them."""

import pytest
import torch

from humanquery.backbones import MoveNetBackbone, RtmdetBackbone, StackedBackbone, TimmBackbone, build
from humanquery.backbones.movenet import MoveNetPoses


def poses(size: int = 32) -> MoveNetPoses:
    return MoveNetPoses(
        torch.full((1, 1, size, size), 1e-4),
        torch.zeros(1, 34, size, size),
        torch.full((1, 17, size, size), 1e-4),
        torch.zeros(1, 34, size, size),
    )


def test_a_centre_votes_and_its_vote_moves_to_the_best_cell_nearby():
    maps = poses()
    maps.centers[0, 0, 10, 12] = 0.9  # a person at row 10, column 12
    maps.votes[0, 0:2, 10, 12] = torch.tensor([-4.0, 3.0])  # its first joint: 4 cells up, 3 right
    maps.joints[0, 0, 7, 16] = 0.8  # the map says one cell lower and one further right
    maps.offsets[0, 0:2, 7, 16] = torch.tensor([0.25, 0.75])
    box = torch.tensor([[[40.0, 24.0, 60.0, 64.0]]])
    joints, scores = maps.in_boxes(box)
    assert joints.shape == (1, 1, 17, 2) and scores.shape == (1, 1, 17)
    assert joints[0, 0, 0].tolist() == [16.75 * 4 + 0.5, 7.25 * 4 + 0.5]
    assert scores[0, 0, 0].item() == pytest.approx(0.8)


def test_each_box_hears_its_own_person():
    maps = poses()
    for row, column, up in ((8, 8, -3.0), (8, 20, -5.0)):
        maps.centers[0, 0, row, column] = 0.5
        maps.votes[0, 0::2, row, column] = up
        maps.joints[0, :, row + int(up), column] = 0.9
    boxes = torch.tensor([[[24.0, 8.0, 44.0, 60.0], [72.0, 8.0, 92.0, 60.0]]])
    joints, _ = maps.in_boxes(boxes)
    assert joints[0, 0, 3].tolist() == [32.5, 20.5] and joints[0, 1, 3].tolist() == [80.5, 12.5]


def test_boxes_and_votes_beyond_the_edge_stay_in_the_map():
    maps = poses()
    maps.votes[:] = 100.0
    joints, _ = maps.in_boxes(torch.tensor([[[-50.0, -50.0, 10.0, 10.0], [100.0, 100.0, 300.0, 300.0]]]))
    assert joints.min() >= 0 and joints.max() <= 32 * 4


def test_nobody_asked_gives_nobody():
    joints, scores = poses().in_boxes(torch.zeros(1, 0, 4))
    assert joints.shape == (1, 0, 17, 2) and scores.shape == (1, 0, 17)


PARTS = (RtmdetBackbone(), MoveNetBackbone(width=0.35, heads=True), TimmBackbone("resnet10t"))


def test_a_stack_gives_everybodys_maps_and_answers():
    torch.manual_seed(0)
    stack = build(StackedBackbone(PARTS)).eval()
    images = torch.rand(1, 3, 64, 96)
    sight = stack.see((images - torch.tensor(stack.mean).view(3, 1, 1)) / torch.tensor(stack.std).view(3, 1, 1))
    assert stack.gives == ("person", "keypoints")
    assert [f.shape[1] for f in sight.features] == list(stack.channels)
    assert sight.boxes is not None and sight.poses is not None and sight.attributes is None
    start = [0, 0, 0, 0]
    for part in stack.parts:
        normed = (images - torch.tensor(part.mean).view(3, 1, 1)) / torch.tensor(part.std).view(3, 1, 1)
        for i, own in enumerate(part(normed)):
            here = sight.features[i][:, start[i] : start[i] + own.shape[1]]
            torch.testing.assert_close(here, own, atol=1e-4, rtol=1e-3)
            start[i] += own.shape[1]


def test_a_plain_backbone_only_gives_features():
    backbone = build(TimmBackbone("resnet10t")).eval()
    sight = backbone.see(torch.rand(1, 3, 64, 64))
    assert backbone.gives == () and sight.boxes is None and len(sight.features) == 4
