import torch

from humanquery.core.boxes import cxcywh_to_xyxy
from humanquery.nn.encodings import inverse_sigmoid
from humanquery.tasks.base import Draws
from humanquery.tasks.keypoints import KeypointsConfig
from tests.models.small import batch, crowd, small_config, small_model


def task(**fields):
    keypoints = KeypointsConfig(hidden=32, refinement=None, heatmap=None, **fields)
    return small_model(small_config(keypoints=keypoints)).tasks["keypoints"]


BOXES = torch.tensor([[[0.5, 0.4, 0.2, 0.6], [0.1, 0.9, 0.1, 0.1]]])


def test_an_untrained_head_puts_every_joint_into_the_middle_of_the_reference_box():
    for in_boxes in (False, True):
        found = task(in_boxes=in_boxes).read(0, torch.randn(1, 2, 32), inverse_sigmoid(BOXES), None).joints_unit
        torch.testing.assert_close(found, BOXES[..., None, :2].expand(-1, -1, 17, -1), atol=1e-4, rtol=0)


def test_offsets_in_boxes_are_in_sides_of_the_box_so_one_pose_fits_every_size():
    keypoints = task(in_boxes=True)
    with torch.no_grad():
        keypoints.heads[0][-1].bias.fill_(0.5)
    found = keypoints.read(0, torch.randn(1, 2, 32), inverse_sigmoid(BOXES), None).joints_unit
    corners = cxcywh_to_xyxy(BOXES)[..., None, 2:].expand(-1, -1, 17, -1)
    torch.testing.assert_close(found, corners, atol=1e-4, rtol=0)


def test_a_model_with_joints_in_boxes_trains():
    model = small_model(small_config(keypoints=KeypointsConfig(hidden=32, in_boxes=True, heatmap=None)))
    losses = model(batch([crowd()]), Draws())
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert model.tasks["keypoints"].heads[1][-1].weight.grad.abs().sum() > 0
