import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from humanquery.core.batch import Batch, Meta
from humanquery.core.config import from_plain, to_plain
from humanquery.core.errors import AnnotationError
from humanquery.core.persons import Persons
from humanquery.core.rows import Labelled
from humanquery.core.skeleton import Skeleton
from humanquery.core.system import Ask, System
from humanquery.core.target import Target
from humanquery.models import SystemConfig, build
from humanquery.models.topdown import system as topdown
from humanquery.models.topdown.config import HRNetConfig, TopDownConfig
from humanquery.models.topdown.system import TopDown, cut_crops
from humanquery.nn.integral import IntegralConfig

SIZE = (64, 48)


class Blank(nn.Module):
    """A network of one convolution: its maps are what the test puts there."""

    def __init__(self, joints: int):
        super().__init__()
        self.head = nn.Conv2d(3, joints, 1, stride=4)

    def forward(self, crops):
        return self.head(crops)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(topdown, "build_network", lambda config, joints: Blank(joints))

    def build(**fields) -> TopDown:
        torch.manual_seed(0)
        return TopDown(TopDownConfig(**({"input_size": SIZE} | fields)))

    return build


def _batch(skeleton: Skeleton, count: int = 2) -> Batch:
    k = len(skeleton)
    targets = [
        Target(
            image_size=SIZE,
            boxes=torch.tensor([[4.0, 4, 40, 60]]),
            ignore=torch.zeros(1, dtype=torch.bool),
            areas=torch.tensor([2000.0]),
            keypoints=Labelled(torch.full((1, k, 2), 20.5), torch.ones(1, dtype=torch.bool)),
            visibility=torch.full((1, k), 2),
            skeleton=skeleton,
        )
        for _ in range(count)
    ]
    images = torch.rand(count, 3, *SIZE)
    return Batch(
        images, torch.zeros(count, *SIZE, dtype=torch.bool), [Meta(SIZE, SIZE)] * count, targets
    )


@pytest.mark.parametrize("joints_by", ["heatmap", "integral", "combined"])
def test_losses_have_all_names_and_train_what_they_should(small, joints_by):
    system = small(joints_by=joints_by)
    losses = system(_batch(system.skeleton))
    assert tuple(losses) == system.loss_names
    sum(losses.values()).backward()
    moved = system.network.head.weight.grad.flatten(1).abs().sum(1) > 0
    assert moved.all(), "every joint learns"
    assert (losses["heatmap"] > 0) == (joints_by != "integral")
    assert (losses["coordinates"] > 0) == (joints_by != "heatmap")


def test_losses_do_not_depend_on_how_many_equal_crops_there_are(small):
    system = small()
    one = _batch(system.skeleton, 1)
    two = dataclasses.replace(
        one, images=one.images.repeat(2, 1, 1, 1), padding=one.padding.repeat(2, 1, 1),
        metas=one.metas * 2, targets=one.targets * 2,
    )  # fmt: skip
    for name, value in system(one).items():
        torch.testing.assert_close(system(two)[name], value)


def test_bodies_weigh_twice_only_where_the_whole_skeleton_shares_one_loss(small):
    assert small().joint_weights.tolist() == [2.0] * 26 + [1.0] * 110
    assert small(skeleton="coco_wholebody133").joint_weights.tolist() == [2.0] * 23 + [1.0] * 110
    assert small(skeleton="coco17").joint_weights.eq(1).all()
    assert small(joints_by="combined").joint_weights.eq(1).all()


def test_unlabelled_joints_give_no_gradient(small):
    system = small(skeleton="coco17")
    batch = _batch(system.skeleton)
    for target in batch.targets:
        target.visibility[:, 3] = 0
    sum(system(batch).values()).backward()
    grad = system.network.head.weight.grad.flatten(1).abs().sum(1)
    assert grad[3] == 0 and (grad > 0).sum() == 16


def _people(boxes, scores) -> Persons:
    return Persons(
        image_size=(100, 120),
        boxes=torch.tensor(boxes).float().reshape(-1, 4),
        scores=torch.tensor(scores),
    )


def test_joints_come_back_to_the_persons_in_their_pictures(small):
    system = small(skeleton="coco17", joints_by="heatmap", flip_test=False, nms=False)
    people = [
        _people([[10, 10, 40, 50]], [0.5]),
        _people([], []),
        _people([[0, 0, 30, 40], [50, 20, 80, 60]], [0.4, 0.9]),
    ]
    batch = cut_crops([np.zeros((100, 120, 3), np.uint8)] * 3, people, system.config)
    assert batch.owners.tolist() == [[0, 0], [2, 0], [2, 1]]
    with torch.no_grad():
        system.network.head.weight.zero_()
        system.network.head.bias.fill_(0.7)  # the first cell of an even map
    pictures = system.predict(batch)
    assert [len(p.persons) for p in pictures] == [1, 0, 2]
    last = pictures[2].persons
    assert last.scores.tolist() == pytest.approx([0.9, 0.4])
    assert last.boxes[0].tolist() == [50, 20, 80, 60]
    corner = batch.metas[2].to_canvas.inverse().points(torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(last.keypoints[0], corner.expand(17, 2))
    assert last.pose_scores.tolist() == pytest.approx([0.63, 0.28])


def test_duplicates_become_one_person_and_asking_leaves_out(small):
    system = small(skeleton="coco17", flip_test=True, joints_by="integral")
    with torch.no_grad():
        system.network.head.bias.fill_(2.0)
    people = _people([[10, 10, 40, 50], [10, 10, 40, 50], [70, 10, 100, 50]], [0.8, 0.7, 0.2])
    batch = cut_crops([np.zeros((100, 120, 3), np.uint8)], [people], system.config)
    assert len(system.predict(batch)[0].persons) == 2
    asked = system.predict(batch, Ask(score=0.5, outputs=frozenset({"keypoints"})))[0].persons
    assert len(asked) == 1 and asked.keypoints is not None and asked.pose_scores is None
    assert len(system.predict(batch, Ask(max_persons=1))[0].persons) == 1


def test_no_people_at_all_and_boxes_without_area(small):
    system = small(skeleton="coco17")
    picture = np.zeros((100, 120, 3), np.uint8)
    empty = system.predict(cut_crops([picture], [_people([], [])], system.config))
    assert len(empty) == 1 and len(empty[0].persons) == 0
    with pytest.raises(AnnotationError, match="a crop of the box"):
        cut_crops([picture], [_people([[5, 5, 5, 5]], [0.5])], system.config)


def test_training_without_one_person_per_crop_or_with_other_joints_is_refused(small):
    system = small(skeleton="coco17")
    with pytest.raises(ValueError, match="crops with the joints of one person each"):
        system(dataclasses.replace(_batch(system.skeleton), targets=None))
    with pytest.raises(ValueError, match="joints of 'halpe26', the system learns 'coco17'"):
        system(_batch(Skeleton.named("halpe26")))


def test_whole_pictures_are_refused(small):
    with pytest.raises(ValueError, match="crops of people whom another system found; cut them out"):
        small(skeleton="coco17").predict(_batch(Skeleton.named("coco17")))


def test_it_is_a_system_and_its_config_goes_through_a_file():
    config = TopDownConfig(
        skeleton="face68",
        network=HRNetConfig(18),
        integral=IntegralConfig(amplitude="eighth", gradient="integral"),
        input_size=(64, 48),
    )
    assert from_plain(SystemConfig, json.loads(json.dumps(to_plain(config)))) == config
    system = build(config)
    assert isinstance(system, System) and isinstance(system, TopDown)
    assert set(system.outputs) == {"keypoints", "keypoint_scores", "pose_scores"}
