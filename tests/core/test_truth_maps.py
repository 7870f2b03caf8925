import pytest
import torch

from humanquery.core.affine import Affine2D
from humanquery.core.batch import Batch, Meta, Sample
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.core.target import Target, empty_target
from humanquery.core.truth_maps import TruthMap


def parsing(values, **more):
    return TruthMap(torch.tensor(values), **more)


def target_with(size=(2, 3), **more):
    return empty_target(size).replace(**more)


def test_classes_move_by_nearest_neighbour_and_no_class_appears_between_two():
    bigger = parsing([[0, 9], [9, 0]]).warp(Affine2D.resize((2, 2), (6, 6)), (6, 6))
    assert set(bigger.values.unique().tolist()) == {0, 9}
    assert bigger.values[:3, :3].eq(0).all() and bigger.values[:3, 3:].eq(9).all()


def test_what_lies_outside_gets_the_class_that_the_reader_gave():
    moved = parsing([[1, 2]], outside=255).warp(Affine2D.translation(1, 0), (2, 3))
    assert moved.values.tolist() == [[255, 1, 2], [255, 255, 255]]


def test_a_mirror_swaps_left_and_right_classes_and_twice_changes_nothing():
    target = target_with(maps={"parsing": parsing([[1, 2, 0], [3, 2, 2]], swaps=((1, 2),))})
    once = target.mirror()
    assert once.maps["parsing"].values.tolist() == [[0, 1, 2], [1, 1, 3]]
    assert once.mirror().maps["parsing"].values.equal(target.maps["parsing"].values)


def test_a_mirror_swaps_channels_of_amounts():
    values = torch.arange(4.0).reshape(2, 1, 2)
    mirrored = TruthMap(values, swaps=((0, 1),)).warp(Affine2D.mirror(2), (1, 2))
    assert mirrored.values.tolist() == [[[3, 2]], [[1, 0]]]


def test_the_people_of_a_density_map_stay_as_many_when_it_is_enlarged():
    density = TruthMap(torch.rand(1, 8, 6, generator=torch.Generator().manual_seed(0)))
    larger = density.warp(Affine2D.resize((8, 6), (32, 24)), (32, 24))
    assert larger.values.sum() == pytest.approx(density.values.sum().item(), rel=0.02)


def test_an_empty_map_and_wrong_shapes():
    assert parsing([[1]]).warp(Affine2D(), (0, 0)).values.shape == (0, 0)
    with pytest.raises(ValueError, match="expected whole numbers h w, or floats c h w"):
        TruthMap(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"map 'parsing' is \(1, 1\) for an image of \(2, 3\)"):
        target_with(maps={"parsing": parsing([[1]])})


def test_source_and_maps_are_kept_by_slicing_moving_and_batching():
    target = target_with(source="lip", maps={"parsing": parsing([[1, 2, 0], [3, 2, 2]])})
    for kept in (target[:0], target.people(), target.to("cpu"), target.mirror()):
        assert kept.source == "lip" and set(kept.maps) == {"parsing"}
    image = torch.zeros(2, 3, 3, dtype=torch.uint8).numpy()
    batch = Batch.collate([Sample(image, Meta((2, 3), (2, 3)), target)])
    assert batch.to("cpu").targets[0].maps["parsing"].values.tolist() == [[1, 2, 0], [3, 2, 2]]
    assert Target.of_pictures([target, target], (2, 3)).source == "lip"
    assert Target.of_pictures([target, target.replace(source="")], (2, 3)).source == ""


def test_parts_of_one_picture_keep_their_maps_but_not_two_of_one_name():
    one = target_with(source="lip", maps={"parsing": parsing([[1, 2, 0], [3, 2, 2]])})
    other = target_with(source="faces")
    joined = Target.cat([one, other])
    assert joined.source == "lip+faces" and joined.maps == one.maps
    rival = other.replace(maps={"parsing": parsing([[0, 0, 0], [0, 0, 0]])})
    with pytest.raises(ValueError, match="two parts have a map 'parsing'"):
        Target.cat([one, rival])


def test_people_get_joints_of_another_skeleton_by_name_or_are_refused():
    few = Skeleton("two", ("left_eye", "nose"), (), ())
    target = empty_target((2, 3), COCO17)
    person = target.replace(
        boxes=torch.zeros(1, 4),
        ignore=torch.zeros(1, dtype=torch.bool),
        areas=torch.zeros(1),
        masks=None,
        gender=None,
        age=None,
        keypoints=type(target.keypoints)(
            torch.arange(34.0).reshape(1, 17, 2), torch.ones(1, dtype=torch.bool)
        ),
        visibility=torch.arange(17)[None] % 3,
    )
    turned = person.with_skeleton(few)
    assert turned.keypoints.value.tolist() == [[[2, 3], [0, 1]]]
    assert turned.visibility.tolist() == [[1, 0]] and turned.skeleton is few
    with pytest.raises(Exception, match="cannot be given those of coco17: they have no right_eye"):
        turned.with_skeleton(COCO17)
