import numpy as np
import pytest
import torch

from humanquery.core.affine import Affine2D
from humanquery.core.persons import Persons
from humanquery.core.rows import Labelled
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.core.target import Target, empty_target
from tests.core.people import SIZE, assert_same, three_persons, three_targets

BOTH = [three_persons, three_targets]


@pytest.mark.parametrize("people", BOTH)
@pytest.mark.parametrize(
    "index",
    [
        slice(1, None),
        [1, 2],
        torch.tensor([1, 2]),
        np.array([1, 2]),
        [False, True, True],
        torch.tensor([False, True, True]),
        np.array([False, True, True]),
        [-2, -1],
    ],
    ids=str,
)
def test_every_kind_of_index_takes_the_same_rows_of_every_field(people, index):
    taken = people()[index]
    assert len(taken) == 2
    assert_same(taken, people()[[1, 2]])
    assert taken.track_ids.tolist() == [8, 9]


@pytest.mark.parametrize("people", BOTH)
def test_one_row_stays_rows(people):
    for index in (1, -2, torch.tensor(1), np.int64(1)):
        assert people()[index].boxes.shape == (1, 4)
        assert people()[index].track_ids.tolist() == [8]


@pytest.mark.parametrize("people", BOTH)
@pytest.mark.parametrize(
    "index", [[], slice(0, 0), torch.zeros(3, dtype=torch.bool), torch.zeros(0, dtype=torch.long)]
)
def test_taking_nobody_keeps_every_field_with_no_rows(people, index):
    nobody = people()[index]
    assert len(nobody) == 0
    assert len(nobody.filled()) == len(people().filled())
    assert nobody.warp(Affine2D.mirror(30), SIZE).boxes.shape == (0, 4)


def test_a_row_that_is_not_there_raises_and_so_iteration_ends():
    with pytest.raises(IndexError, match="no row 3, there are 3"):
        three_persons()[3]
    assert [p.track_ids.item() for p in three_persons()] == [7, 8, 9]
    assert list(Persons.empty(SIZE)) == []


def test_rows_keep_the_labels_of_their_person():
    one = three_targets()[2]
    assert one.age.value.tolist() == [[5.0, 5.0]] and one.age.valid.tolist() == [True]
    assert three_targets()[1].gender.valid.tolist() == [False]


@pytest.mark.parametrize("people", BOTH)
def test_mirroring_twice_changes_nothing(people):
    assert_same(people().mirror().mirror(), people())


def test_a_mirror_swaps_left_and_right_joints_with_their_scores():
    people, mirrored = three_persons(), three_persons().mirror()
    left, right = COCO17.index("left_wrist"), COCO17.index("right_wrist")
    expected = torch.stack(
        [SIZE[1] - people.keypoints[:, right, 0], people.keypoints[:, right, 1]], -1
    )
    assert torch.equal(mirrored.keypoints[:, left], expected)
    assert torch.equal(mirrored.keypoint_scores[:, left], people.keypoint_scores[:, right])
    assert torch.equal(
        three_targets().mirror().visibility[:, left], three_targets().visibility[:, right]
    )
    assert torch.equal(mirrored.masks, people.masks.flip(-1))


def test_a_turn_by_half_does_not_swap_sides():
    turned = three_persons().warp(Affine2D.rotation(180, (15, 10)), SIZE)
    expected = torch.tensor([30.0, 20.0]) - three_persons().keypoints
    torch.testing.assert_close(turned.keypoints, expected, atol=1e-4, rtol=0)


def test_scaling_scales_boxes_points_masks_and_areas_and_leaves_the_rest():
    target = three_targets()
    large = target.warp(Affine2D.scaling(2, 1), (20, 60))
    assert large.image_size == (20, 60)
    assert torch.equal(large.boxes, target.boxes * torch.tensor([2.0, 1.0, 2.0, 1.0]))
    assert torch.equal(large.keypoints.value, target.keypoints.value * torch.tensor([2.0, 1.0]))
    assert large.areas.tolist() == [108.0] * 3
    expected = target.masks.value.repeat_interleave(2, 2)
    assert torch.equal(large.masks.value, expected)
    assert torch.equal(large.age.value, target.age.value) and torch.equal(
        large.visibility, target.visibility
    )


def test_the_way_there_and_back_ends_where_it_began():
    matrix = Affine2D.translation(3, -2) @ Affine2D.rotation(30) @ Affine2D.scaling(1.5)
    back = three_persons().warp(matrix, (100, 100)).warp(matrix.inverse(), SIZE)
    torch.testing.assert_close(back.keypoints, three_persons().keypoints, atol=1e-4, rtol=0)


def test_cat_joins_rows_and_keeps_only_what_every_part_knows():
    people = three_persons()
    assert_same(Persons.cat([people[:1], people[1:]]), people)
    joined = Persons.cat([people, people.replace(age=None)])
    assert len(joined) == 6 and joined.age is None and joined.gender is not None
    targets = three_targets()
    assert_same(Target.cat([targets[:2], targets[2:]]), targets)


def test_cat_with_an_empty_part_loses_nothing():
    people = three_persons()
    assert_same(Persons.cat([Persons.empty(SIZE), people]), people)
    assert len(Persons.cat([Persons.empty(SIZE), Persons.empty(SIZE)])) == 0


def test_cat_of_people_who_do_not_belong_together_says_why():
    people = three_persons()
    with pytest.raises(ValueError, match="at least one part"):
        Persons.cat([])
    with pytest.raises(ValueError, match=r"different image sizes: \[\(20, 30\), \(9, 9\)\]"):
        Persons.cat([people, people.replace(image_size=(9, 9), masks=None)])
    with pytest.raises(ValueError, match=r"different skeletons: \['coco17', 'ochuman17'\]"):
        Persons.cat([people, people.replace(skeleton=Skeleton.named("ochuman17"))])


def test_fields_that_do_not_fit_together_are_named():
    people = three_persons()
    with pytest.raises(ValueError, match="field 'gender' has 2 rows for 3 boxes"):
        three_targets().replace(gender=Labelled(torch.zeros(2), torch.ones(2, dtype=torch.bool)))
    with pytest.raises(ValueError, match="field 'keypoints' needs a skeleton"):
        people.replace(skeleton=None)
    with pytest.raises(
        ValueError, match="field 'keypoints' has 17 joints, skeleton 'mpii16' has 16"
    ):
        people.replace(skeleton=Skeleton.named("mpii16"))
    with pytest.raises(ValueError, match=r"field 'masks' is \(20, 31\) for an image of \(20, 30\)"):
        people.replace(masks=torch.zeros(3, 20, 31, dtype=torch.bool))
    with pytest.raises(ValueError, match="2 values for 3 valid flags"):
        Labelled(torch.zeros(2), torch.ones(3, dtype=torch.bool))


def test_to_moves_labels_too_and_keeps_everything():
    assert_same(three_targets().to("cpu"), three_targets())
    assert three_targets().to("meta").age.value.device.type == "meta"


def test_counted_joints_are_labelled_joints_of_annotated_people():
    target = three_targets()
    assert torch.equal(target.counted_joints[0], target.visibility[0] > 0)
    assert not target.counted_joints[1].any()


def test_people_leaves_out_the_ignore_regions():
    assert three_targets().people().annotation_ids.tolist() == [1, 2]


def test_an_empty_target_knows_every_task_and_survives_every_operation():
    target = empty_target(SIZE, COCO17)
    assert len(target) == 0 and len(target.masks) == 0 and target.counted_joints.shape == (0, 17)
    assert target.mirror().warp(Affine2D.scaling(2), (40, 60)).masks.value.shape == (0, 40, 60)
    assert empty_target(SIZE).keypoints is None
    assert_same(Target.cat([target, three_targets()]), three_targets())
