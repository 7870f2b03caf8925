import torch

from humanquery.core.boxes import cxcywh_to_xyxy
from humanquery.nn.encodings import inverse_sigmoid
from humanquery.tasks.base import Draws, Matches, Reference, Truth, Truths
from humanquery.tasks.keypoint_refinement import RefinementConfig
from humanquery.tasks.keypoints import KeypointsConfig
from tests.models.small import batch, crowd, person, small_config, small_model


def task(**fields):
    keypoints = KeypointsConfig(hidden=32, refinement=None, heatmap=None, **fields)
    return small_model(small_config(keypoints=keypoints)).tasks["keypoints"]


BOXES = torch.tensor([[[0.5, 0.4, 0.2, 0.6], [0.1, 0.9, 0.1, 0.1]]])


def test_an_untrained_head_puts_every_joint_into_the_middle_of_the_reference_box():
    for in_boxes in (False, True):
        found = (
            task(in_boxes=in_boxes)
            .read(0, torch.randn(1, 2, 32), Reference(inverse_sigmoid(BOXES)), None)
            .joints_unit
        )
        torch.testing.assert_close(
            found, BOXES[..., None, :2].expand(-1, -1, 17, -1), atol=1e-4, rtol=0
        )


def test_offsets_in_boxes_are_in_sides_of_the_box_so_one_pose_fits_every_size():
    keypoints = task(in_boxes=True)
    with torch.no_grad():
        keypoints.heads[0][-1].bias.fill_(0.5)
    found = keypoints.read(
        0, torch.randn(1, 2, 32), Reference(inverse_sigmoid(BOXES)), None
    ).joints_unit
    corners = cxcywh_to_xyxy(BOXES)[..., None, 2:].expand(-1, -1, 17, -1)
    torch.testing.assert_close(found, corners, atol=1e-4, rtol=0)


def test_a_model_with_joints_in_boxes_trains():
    model = small_model(
        small_config(keypoints=KeypointsConfig(hidden=32, in_boxes=True, heatmap=None))
    )
    losses = model(batch([crowd()]), Draws())
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert model.tasks["keypoints"].heads[1][-1].weight.grad.abs().sum() > 0


def test_joint_scores_learn_the_joints_part_of_oks_and_that_unlabelled_joints_are_nowhere():
    refinement = RefinementConfig(1, 32, 0.0, in_boxes=True, scores=True)
    model = small_model(
        small_config(keypoints=KeypointsConfig(hidden=32, refinement=refinement, heatmap=None))
    )
    keypoints = model.tasks["keypoints"]
    visibility = torch.full((1, 17), 2)
    visibility[0, 8:] = 0
    truth = Truth.of(person((64, 64), (8.0, 8.0, 40.0, 56.0), visibility=visibility), (64, 64))
    truths = Truths.of([truth], "cpu")
    one = torch.zeros(1, dtype=torch.long)
    found = truths.target.keypoints.value / 64
    for logit, least in (
        (torch.full((1, 17), 8.0), 3.0),
        (torch.where(visibility > 0, 8.0, -8.0), 0.0),
    ):
        loss = keypoints._score_loss(logit.float(), found, Matches(one, one, one), truths).item()
        assert least <= loss < least + 2
    assert model(batch([crowd()]), Draws())["keypoint_score"] > 0
    scores = model.eval().predict(batch([crowd()]))[0].persons.keypoint_scores
    assert scores.std() > 0 and scores.min() >= 0 and scores.max() <= 1


def test_the_linear_form_of_the_oks_loss_is_bounded():
    forms = {form: task(oks_form=form) for form in ("log", "linear")}
    truths = Truths.of([Truth.of(person((64, 64), (8.0, 8.0, 40.0, 56.0)), (64, 64))], "cpu")
    one = torch.zeros(1, dtype=torch.long)
    far = torch.full((1, 17, 2), 9.0)
    losses = {
        form: head._losses(far, Matches(one, one, one), truths, 1.0, 1.0)["oks"].item()
        for form, head in forms.items()
    }
    assert losses["linear"] == 1 and losses["log"] > 10


def test_poses_rank_by_how_near_their_visible_joints_are_expected():
    refinement = RefinementConfig(1, 32, 0.0, in_boxes=True, scores=True)
    model = small_model(
        small_config(keypoints=KeypointsConfig(hidden=32, refinement=refinement, heatmap=None))
    ).eval()
    people = model.predict(batch([crowd()]))[0].persons
    sure = (people.keypoint_scores**2).sum(1) / people.keypoint_scores.sum(1)
    torch.testing.assert_close(people.pose_scores, people.scores * sure)
    assert people.to_coco(1)[0]["pose_score"] == float(people.pose_scores[0])
