import math

import pytest
import torch

from humanquery.core.boxes import (
    areas,
    canvas_to_unit,
    clip,
    cxcywh_to_xyxy,
    giou,
    iou,
    unit_to_canvas,
    xywh_to_xyxy,
    xyxy_to_cxcywh,
    xyxy_to_xywh,
)

A = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
B = torch.tensor([[2.0, 2.0, 6.0, 6.0]])
FAR = torch.tensor([[8.0, 0.0, 10.0, 4.0]])


def test_iou_by_hand():
    assert iou(A, torch.cat([A, B, FAR])).tolist() == [[1.0, pytest.approx(4 / 28), 0.0]]


def test_crowd_overlap_is_relative_to_the_first_box():
    assert iou(A, B, crowd=True).item() == pytest.approx(4 / 16)
    assert iou(B[:, :], torch.tensor([[0.0, 0.0, 9.0, 9.0]]), crowd=True).item() == 1.0


def test_iou_with_nobody_and_with_boxes_without_area():
    assert iou(A[:0], B).shape == (0, 1) and iou(A, B[:0]).shape == (1, 0)
    point = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    assert iou(point, point).item() == 0.0 and iou(point, A).item() == 0.0


def test_giou_by_hand():
    assert giou(A, A).item() == pytest.approx(1.0)
    assert giou(A, B).item() == pytest.approx(4 / 28 - (36 - 28) / 36)
    assert giou(A, FAR).item() == pytest.approx(0 - (40 - 24) / 40)
    assert giou(A[:0], B[:0]).shape == (0,)


def test_giou_equals_torchvision_on_random_boxes_and_has_a_finite_gradient():
    from torchvision.ops import generalized_box_iou

    corners = torch.rand(50, 2, generator=torch.Generator().manual_seed(1)) * 100
    a = torch.cat([corners, corners + 1 + corners.flip(0)], 1)
    b = a.flip(0)
    torch.testing.assert_close(
        giou(a[:, None], b[None]), generalized_box_iou(a, b), atol=1e-5, rtol=1e-5
    )
    inside_out = torch.tensor([[5.0, 5.0, 1.0, 1.0]], requires_grad=True)
    giou(inside_out, A).sum().backward()
    assert torch.isfinite(inside_out.grad).all()


@pytest.mark.parametrize("shape", [(4,), (0, 4), (7, 4), (2, 3, 4)])
def test_conversions_come_back(shape):
    boxes = torch.rand(shape, dtype=torch.float64).cumsum(-1)
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes)
    torch.testing.assert_close(xywh_to_xyxy(xyxy_to_xywh(boxes)), boxes)
    torch.testing.assert_close(unit_to_canvas(canvas_to_unit(boxes, (7, 9)), (7, 9)), boxes)


def test_unit_boxes_by_hand():
    assert unit_to_canvas(torch.tensor([0.5, 0.5, 1.0, 0.5]), (100, 200)).tolist() == [
        0.0,
        25.0,
        200.0,
        75.0,
    ]


def test_areas_of_boxes_turned_inside_out_are_zero():
    assert areas(
        torch.tensor([[0.0, 0.0, 2.0, 3.0], [2.0, 0.0, 0.0, 3.0], [2.0, 3.0, 0.0, 0.0]])
    ).tolist() == [6, 0, 0]


def test_clip_cuts_at_the_picture():
    assert clip(torch.tensor([[-3.0, 2.0, 50.0, 9.0]]), (8, 20)).tolist() == [[0.0, 2.0, 20.0, 8.0]]
    assert math.prod(clip(torch.zeros(0, 4), (8, 20)).shape) == 0
