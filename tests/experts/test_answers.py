"""What backbones that were trained on people say about them."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from humanquery.backbones import TimmBackbone
from humanquery.core.errors import ConfigError
from humanquery.experts import (
    AttributesBackbone,
    MoveNetBackbone,
    RtmdetBackbone,
    StackedBackbone,
    build,
)
from humanquery.experts.answers import answer
from humanquery.experts.movenet import (
    MoveNetPoses,
    MoveNetPyramid,
    _sampled,
    _scaled,
    anti_aliased,
    resizing,
)
from humanquery.models.attributes.config import AttributesConfig
from humanquery.models.attributes.system import Attributes


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
    joints, _ = maps.in_boxes(
        torch.tensor([[[-50.0, -50.0, 10.0, 10.0], [100.0, 100.0, 300.0, 300.0]]])
    )
    assert joints.min() >= 0 and joints.max() <= 32 * 4


def test_nobody_asked_gives_nobody():
    joints, scores = poses().in_boxes(torch.zeros(1, 0, 4))
    assert joints.shape == (1, 0, 17, 2) and scores.shape == (1, 0, 17)


def test_around_a_joint_its_own_map_is_seen_finely_and_widely_and_every_map_in_the_middle():
    maps = poses()
    maps.joints[:] = 0.0
    maps.joints[0, 4, 10, 12] = 0.81
    joints = torch.full((1, 2, 17, 2), 2.0)
    joints[0, 0, 4] = torch.tensor([12.5, 10.5]) * 4  # the middle of that cell
    joints[0, 1, 4] = torch.tensor([14.5, 10.5]) * 4  # two cells further right
    seen = maps.around(joints, torch.tensor([[[20.0, 20.0], [20.0, 224.0]]]))
    fine, wide, every = seen.split([49, 49, 17], -1)
    assert fine[0, 0, 4].view(7, 7)[3, 3].item() == pytest.approx(0.9)
    assert fine[0, 0, 4].sum().item() == pytest.approx(0.9, abs=1e-4)
    assert fine[0, 1, 4].view(7, 7)[3, 1].item() == pytest.approx(0.9, abs=1e-4)
    assert wide[0, 1, 4].view(7, 7)[3, 2].item() == pytest.approx(
        0.9, abs=1e-4
    )  # steps of two cells
    assert every[0, 0, 4, 4].item() == pytest.approx(0.9) and every[0, 0, 3].abs().sum().item() == 0


def test_in_a_trace_places_are_sampled_the_same_by_indexing(monkeypatch):
    torch.manual_seed(0)
    maps, places = torch.rand(2, 3, 8, 12), torch.rand(2, 4, 5, 2) * 2.6 - 1.3
    sampled = _sampled(maps, places)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(_sampled(maps, places), sampled)


def everywhere(column: float, size: int) -> MoveNetPoses:
    """Says that all joints are in one column."""
    maps = poses(size)
    maps.joints[:, :, :, int(column)] = 0.9
    maps.votes[0, 1::2] = column - torch.arange(size).float()
    return maps


def test_every_person_is_read_in_the_size_of_picture_that_suits_it():
    pyramid = MoveNetPyramid(
        [
            (everywhere(column, size), torch.full((2,), size / 32))
            for column, size in ((2, 16), (6, 32), (9, 64))
        ]
    )
    boxes = torch.tensor(
        [
            [
                [0.0, 0.0, 260.0, 260.0],
                [0.0, 0.0, 130.0, 130.0],
                [0.0, 0.0, 130.0, 32.5],
                [0.0, 0.0, 0.0, 0.0],
            ]
        ]
    )
    joints, scores = pyramid.in_boxes(boxes)
    told = [(2 * 4 + 0.5) / 0.5, 6 * 4 + 0.5, (9 * 4 + 0.5) / 2, (9 * 4 + 0.5) / 2]
    assert (
        joints[0, :, 5, 0].tolist() == told
        and joints.shape == (1, 4, 17, 2)
        and scores.shape == (1, 4, 17)
    )
    sides = boxes[..., 2:] - boxes[..., :2]
    seen = pyramid.around(joints, sides)
    for i, (poses_, (scale, _)) in enumerate(pyramid.levels[:2]):
        alone = poses_.around(joints[:, i : i + 1] * scale, sides[:, i : i + 1] * scale)
        assert torch.equal(seen[:, i : i + 1], alone)


def test_more_sizes_of_the_picture_change_joints_and_no_maps():
    torch.manual_seed(0)
    images = torch.rand(1, 3, 64, 96)
    all_answers = []
    for scales in ((1.0,), (1.0, 0.5), (2.0, 1.0)):
        torch.manual_seed(1)
        all_answers.append(
            build(MoveNetBackbone(width=0.35, heads=True, pose_scales=scales)).eval().answer(images)
        )
    for maps in zip(*(answers.features for answers in all_answers), strict=True):
        assert torch.equal(maps[0], maps[1]) and torch.equal(maps[0], maps[2])
    boxes = torch.tensor([[[5.0, 5.0, 20.0, 30.0], [0.0, 0.0, 90.0, 60.0]]])
    plain, smaller, larger = (answers.poses.in_boxes(boxes)[0] for answers in all_answers)
    assert torch.equal(plain, smaller)  # nobody is larger than suits the picture itself
    assert not torch.equal(plain, larger)


def test_sizes_above_1_are_looked_at_in_the_zoomed_pictures():
    zoomed = torch.rand(1, 3, 128, 192)
    images = torch.nn.functional.avg_pool2d(zoomed, 2)
    torch.manual_seed(1)
    backbone = build(MoveNetBackbone(width=0.35, heads=True, pose_scales=(0.5, 1.0, 2.0))).eval()
    plain, closer = backbone.answer(images), backbone.answer(images, zoomed)
    assert all(torch.equal(a, b) for a, b in zip(plain.features, closer.features, strict=True))
    levels = list(zip(plain.poses.levels, closer.poses.levels, strict=True))
    same = [torch.equal(a.joints, b.joints) for (a, _), (b, _) in levels]
    assert same == [True, True, False]
    torch.testing.assert_close(
        closer.poses.levels[2][0].joints, backbone.answer(zoomed).poses.levels[1][0].joints
    )


@pytest.mark.parametrize("size", [(40, 56), (96, 64), (33, 90), (31, 17), (130, 200)])
def test_resizing_by_matrices_is_the_anti_aliased_one(size):
    images = torch.rand(2, 3, 96, 64)
    rows, columns = (resizing(n, m, images) for n, m in zip(images.shape[-2:], size, strict=True))
    torch.testing.assert_close(
        rows @ images @ columns.T, anti_aliased(images, size), atol=1e-5, rtol=1e-5
    )


def test_a_scaled_side_is_the_nearest_multiple_of_32():
    sides = (32, 64, 96, 128, 160, 416, 320, 500)
    for scale in (0.6, 1.6, 0.3):
        assert [_scaled(side, scale) for side in sides] == [
            max(1, round(side * scale / 32)) * 32 for side in sides
        ]
    assert _scaled(96, 0.5) == 64 and _scaled(160, 0.5) == 96  # half a step is rounded up


def test_pose_scales_without_the_picture_itself_are_refused():
    with pytest.raises(
        ConfigError, match=r"pose_scales: got \(0.5,\), expected positive sizes, 1.0 among them"
    ):
        build(MoveNetBackbone(width=0.35, heads=True, pose_scales=(0.5,)))


PARTS = (RtmdetBackbone(), MoveNetBackbone(width=0.35, heads=True), TimmBackbone("resnet10t"))


def test_a_stack_gives_everybodys_maps_and_answers():
    torch.manual_seed(0)
    stack = build(StackedBackbone(PARTS)).eval()
    images = torch.rand(1, 3, 64, 96)
    answers = stack.answer(
        (images - torch.tensor(stack.mean).view(3, 1, 1)) / torch.tensor(stack.std).view(3, 1, 1)
    )
    assert stack.answers_about == ("person", "keypoints")
    assert [f.shape[1] for f in answers.features] == list(stack.channels)
    assert answers.boxes is not None and answers.poses is not None and answers.attributes is None
    start = [0, 0, 0, 0]
    for part in stack.parts:
        normed = (images - torch.tensor(part.mean).view(3, 1, 1)) / torch.tensor(part.std).view(
            3, 1, 1
        )
        for i, own in enumerate(part(normed)):
            here = answers.features[i][:, start[i] : start[i] + own.shape[1]]
            torch.testing.assert_close(here, own, atol=1e-4, rtol=1e-3)
            start[i] += own.shape[1]


def test_a_plain_backbone_only_gives_features():
    backbone = build(TimmBackbone("resnet10t")).eval()
    answers = answer(backbone, torch.rand(1, 3, 64, 64))
    assert answers.boxes is answers.poses is answers.attributes is None
    assert len(answers.features) == 4


def attributes() -> AttributesBackbone:
    return AttributesBackbone(backbone=TimmBackbone("resnet10t", pretrained=False))


def test_an_attribute_backbone_answers_for_boxes_and_gives_no_maps():
    torch.manual_seed(0)
    part = build(attributes())
    answers = part.answer(torch.rand(2, 3, 64, 96))
    assert part.answers_about == ("gender", "age")
    assert [tuple(f.shape) for f in answers.features] == [
        (2, 0, 64 // stride, 96 // stride) for stride in part.strides
    ]
    boxes = torch.tensor([[[0.0, 0.0, 40.0, 60.0], [50.0, 5.0, 90.0, 50.0]]] * 2)
    found = answers.attributes.in_boxes(boxes)
    assert tuple(found) == part.answers_about
    assert found["gender"].shape == (2, 2) and found["age"].shape == (2, 2, 85)
    alone = part.answer(torch.rand(2, 3, 64, 96)).attributes.in_boxes(boxes[:, :0])
    assert alone["gender"].shape == (2, 0) and alone["age"].shape == (2, 0, 85)


def test_people_are_cut_out_of_the_zoomed_pictures():
    torch.manual_seed(0)
    part = build(attributes()).eval()
    images, zoomed = torch.rand(2, 3, 64, 96), torch.rand(2, 3, 192, 288)
    boxes = torch.tensor([[[0.0, 0.0, 40.0, 60.0], [50.0, 5.0, 90.0, 50.0]]] * 2)
    closer = part.answer(images, zoomed).attributes.in_boxes(boxes)
    for name, other in part.answer(zoomed).attributes.in_boxes(boxes * 3).items():
        assert torch.equal(closer[name], other)
    stacked = build(StackedBackbone((TimmBackbone("resnet10t"), attributes()))).eval()
    far, near = (
        stacked.answer(images, given).attributes.in_boxes(boxes)["gender"]
        for given in (None, zoomed)
    )
    assert not torch.allclose(far, near)


def test_an_attribute_backbone_is_frozen_and_never_in_train_mode():
    part = build(attributes()).train()
    assert not any(p.requires_grad for p in part.parameters()) and not any(
        m.training for m in part.modules()
    )


def test_an_attribute_backbone_reads_the_file_of_an_attribute_model(tmp_path):
    trained = Attributes(
        AttributesConfig(backbone=TimmBackbone("resnet10t", pretrained=False, frozen_norm=False))
    )
    save_file(trained.state_dict(), tmp_path / "attributes.safetensors")
    part = build(replace(attributes(), weights=str(tmp_path / "attributes.safetensors")))
    assert all(
        torch.equal(value, trained.state_dict()[name]) for name, value in part.state_dict().items()
    )


def test_a_stack_asks_the_attribute_part_and_keeps_the_others_maps():
    torch.manual_seed(0)
    stack = build(StackedBackbone((TimmBackbone("resnet10t", pretrained=False), attributes())))
    assert stack.answers_about == ("gender", "age") and stack.channels == stack.parts[0].channels
    assert stack.answer(torch.rand(1, 3, 64, 64)).attributes is not None
