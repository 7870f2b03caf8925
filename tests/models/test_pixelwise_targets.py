"""Which cells learn what (specs of CIR: discs, overlap, ignore regions, labels)."""

import torch

from humanquery.core.rows import Labelled
from humanquery.core.skeleton import COCO17
from humanquery.core.target import Target, empty_target
from humanquery.models.pixelwise.config import TargetConfig
from humanquery.models.pixelwise.targets import (
    NOBODY,
    UNKNOWN,
    cell_truth,
    cells_outside,
    gaussian_label,
    quality,
    to_cells,
    to_pixels,
)
from tests.models.pixelwise_small import SIZE, around, person

SIGMAS = torch.tensor(COCO17.sigmas)


def truth_of(*targets: Target, **config):
    padding = torch.zeros(len(targets), SIZE[0] // 4, SIZE[1] // 4, dtype=torch.bool)
    return cell_truth(targets, padding, 17, TargetConfig(**config))


def at_cell(x: float | int, y: float | int) -> tuple[float, float]:
    """px of the middle of a cell."""
    return tuple(to_pixels(torch.tensor([float(x), float(y)])).tolist())


def test_cells_and_pixels_are_each_others_inverse_and_the_first_centre_is_at_two_pixels():
    assert to_pixels(torch.zeros(2)).tolist() == [2.0, 2.0]
    points = torch.rand(5, 2) * 100
    torch.testing.assert_close(to_pixels(to_cells(points)), points)


def test_the_disc_of_a_centre_on_a_cell_has_45_cells_that_lead_to_the_joints():
    joints = around(at_cell(16, 12))
    truth = truth_of(person(joints))
    assert len(truth.cells) == 45
    assert truth.owners[0, 12, 16 + 3] == 0 and truth.owners[0, 12, 16 + 4] == NOBODY  # strictly <
    leads, counted = truth.displacements()
    assert counted.all()
    arrived = to_pixels(truth.places[:, None] + leads)
    torch.testing.assert_close(arrived, joints.expand(45, -1, -1))


def test_the_label_is_one_where_the_pose_is_right_and_a_constant_to_the_loss():
    truth = truth_of(person(around(at_cell(16, 12))))
    leads, _ = truth.displacements()
    found = leads.clone().requires_grad_()
    label = quality(truth, found, SIGMAS)
    assert torch.equal(label, torch.ones(45)) and label.grad_fn is None and label.grad is None
    off = leads.clone()
    off[:, 0] += 1000.0
    torch.testing.assert_close(quality(truth, off, SIGMAS), torch.full((45,), 16 / 17))


def test_the_label_is_the_oks_in_pixels():
    """One joint four px off: its share is exp(-16 / (2 area (2 sigma)²))."""
    truth = truth_of(person(around(at_cell(16, 12)), area=2000.0))
    leads, _ = truth.displacements()
    leads[:, 0, 0] += 1.0  # a cell
    nose = torch.exp(torch.tensor(-16 / (2 * 2000 * (2 * COCO17.sigmas[0]) ** 2)))
    expected = (16 + nose) / 17
    torch.testing.assert_close(quality(truth, leads, SIGMAS), expected.expand(45))


def test_a_picture_without_people_has_no_disc():
    truth = truth_of(empty_target(SIZE, COCO17))
    assert len(truth.cells) == 0 and (truth.owners == NOBODY).all()
    assert gaussian_label(truth, 4.0).eq(0).all()


def test_a_person_with_the_middle_outside_has_the_centre_among_the_joints_inside():
    """The reader has taken the visibility from joints outside of the canvas."""
    joints = torch.zeros(17, 2)
    joints[:2] = torch.tensor([at_cell(1, 10), at_cell(3, 10)])
    visibility = torch.zeros(17, dtype=torch.long)
    visibility[:2] = 2
    truth = truth_of(person(joints, visibility=visibility))
    torch.testing.assert_close(truth.centers, torch.tensor([[2.0, 10.0]]))
    assert (truth.cells[:, 2] >= 0).all() and len(truth.cells) < 45  # cut by the border
    assert truth.displacements()[1].sum(1).eq(2).all()


def test_each_cell_of_two_people_belongs_to_the_nearer_one():
    two = Target.cat([person(around(at_cell(10, 12))), person(around(at_cell(14, 12)), area=1500)])
    truth = truth_of(two)
    assert truth.owners[0, 12, 11] == 0 and truth.owners[0, 12, 13] == 1
    assert truth.owners[0, 12, 12] == 0  # as far from both: the first
    by_size = truth_of(two, overlap="smaller_area")
    assert by_size.owners[0, 12, 11] == 1 and by_size.owners[0, 12, 9] == 0


def test_of_two_people_with_the_same_centre_one_has_the_disc():
    same = person(around(at_cell(10, 12)))
    truth = truth_of(Target.cat([same, same]))
    assert len(truth.cells) == 45 and truth.cells[:, 3].eq(0).all()


def test_a_single_labelled_joint_with_no_area_is_learned_with_an_area_of_one_cell():
    visibility = torch.zeros(17, dtype=torch.long)
    visibility[3] = 1
    one = person(torch.full((17, 2), 50.0), visibility=visibility, area=0.0)
    truth = truth_of(one, min_area=0.0)
    assert truth.areas.tolist() == [1.0] and len(truth.cells)
    assert torch.isfinite(quality(truth, torch.zeros(len(truth.cells), 17, 2), SIGMAS)).all()


def test_small_people_are_not_learned_and_are_no_background():
    truth = truth_of(person(around(at_cell(16, 12)), area=1000.0))
    assert len(truth.cells) == 0 and len(truth.joints) == 0
    assert (truth.owners == UNKNOWN).sum() == 45
    weights = truth.weights(0.1)
    assert weights[0, 12, 16] == 0 and weights[0, 0, 0] == torch.tensor(0.1)


def test_crowds_and_people_without_labelled_joints_only_take_weight_away():
    crowd = person(around(at_cell(8, 12)), ignore=True)
    bare = person(around(at_cell(24, 12)), visibility=torch.zeros(17, dtype=torch.long))
    truth = truth_of(Target.cat([crowd, bare]))
    assert len(truth.cells) == 0
    assert truth.owners[0, 12, 8] == UNKNOWN and truth.owners[0, 12, 24] == UNKNOWN
    assert truth.owners[0, 0, 16] == NOBODY


def test_a_drawn_crowd_takes_away_its_mask_not_its_box():
    crowd = person(around(at_cell(16, 12)), ignore=True)
    mask = torch.zeros(1, *SIZE, dtype=torch.bool)
    mask[0, 40:44, 60:64] = True
    truth = truth_of(crowd.replace(masks=Labelled(mask, torch.tensor([True]))))
    assert (truth.owners == UNKNOWN).nonzero().tolist() == [[0, 10, 15]]


def test_a_disc_in_a_crowd_is_still_learned():
    crowd = person(around(at_cell(16, 12), reach=60.0), ignore=True)
    truth = truth_of(Target.cat([crowd, person(around(at_cell(16, 12)))]))
    assert len(truth.cells) == 45


def test_padding_has_no_weight():
    """The centre of cell 20 is at 82 px."""
    padding = cells_outside([(96, 82)], SIZE)
    assert padding.shape == (1, 24, 32) and padding[..., 20:].all()
    truth = cell_truth([empty_target(SIZE, COCO17)], padding, 17, TargetConfig())
    weights = truth.weights(0.1)
    assert weights[..., 20:].eq(0).all() and weights[..., :20].gt(0).all()


def test_people_of_a_data_set_without_joints_are_unknown():
    target = person(around(at_cell(16, 12))).replace(keypoints=None, visibility=None, skeleton=None)
    other = person(around(at_cell(16, 12)))
    truth = truth_of(target, other)
    assert truth.owners[0, 12, 16] == UNKNOWN and truth.pictures.tolist() == [1]


def test_a_gaussian_is_one_at_the_centre_and_the_larger_one_counts():
    two = Target.cat([person(around(at_cell(8, 12))), person(around(at_cell(12, 12)))])
    label = gaussian_label(truth_of(two), 2.0)[0]
    assert label[12, 8] == 1 and label[12, 12] == 1
    torch.testing.assert_close(label[12, 10], torch.tensor(-4 / 8).exp())
    assert label[12, 20] == 0  # beyond three sigma
