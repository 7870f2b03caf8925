"""Queries that start from what the backbone already knows about people."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.ops import nms

from humanquery.core.boxes import cxcywh_to_xyxy
from humanquery.core.errors import ConfigError
from humanquery.core.system import Ask
from humanquery.experts.answers import Answers, DenseBoxes, Expert, joint_features_width
from humanquery.models.hqnet.config import ExtraTask
from humanquery.models.hqnet.hqnet import HQNet
from humanquery.models.hqnet.priors import Priors, distinct_tokens
from humanquery.tasks.age import AgeConfig
from humanquery.tasks.gender import GenderConfig
from humanquery.tasks.keypoint_refinement import RefinementConfig
from humanquery.tasks.keypoints import KeypointsConfig
from tests.models.official_resnet import OfficialResNet
from tests.models.small import batch as batch_of
from tests.models.small import person, small_config
from tests.tasks.test_made_up_task import HatTask

BOX = torch.tensor([12.0, 8.0, 44.0, 56.0])


class Poses:
    def in_boxes(self, boxes):
        middle = (boxes[..., :2] + boxes[..., 2:]) / 2
        return middle[..., None, :].expand(-1, -1, 17, -1), torch.full((*boxes.shape[:2], 17), 0.7)

    def around(self, joints, sides):
        return (joints + sides[:, :, None]).mean(-1, keepdim=True).expand(
            -1, -1, -1, joint_features_width(17)
        ) / 100


class Attributes:
    def in_boxes(self, boxes):
        years = -(torch.arange(85.0) - 30).square().expand(*boxes.shape[:2], 85)
        return {"gender": torch.full(boxes.shape[:2], 2.0), "age": years}


class Knowing(Expert, OfficialResNet):
    """Sees one person, in one cell, with every joint in the middle of the asked box, a woman of
    about 30."""

    answers_about = ("person", "keypoints", "gender", "age")

    def __init__(self):
        super().__init__(4, (1, 1, 1, 1))

    def answer(self, images, zoomed=None):
        features = OfficialResNet.forward(self, images)
        cells = sum(f.shape[-2] * f.shape[-1] for f in features[1:])
        logits = torch.full((len(images), cells), -6.0)
        logits[:, [3, 4]] = torch.tensor([3.0, 2.5])
        boxes = BOX.expand(len(images), cells, 4) * 0.1
        boxes = boxes.index_fill(1, torch.tensor([3]), 0) + 0
        boxes[:, 3], boxes[:, 4] = BOX, BOX + 1
        return Answers(features, DenseBoxes(logits, boxes), Poses(), Attributes())


def config(**changes):
    keypoints = KeypointsConfig(
        hidden=32,
        in_boxes=True,
        refinement=RefinementConfig(1, 32, 0.0, in_boxes=True, local_features=True),
        heatmap=None,
    )
    return replace(
        small_config(keypoints=keypoints), priors=Knowing.answers_about, denoising=None, **changes
    )


def model(**changes) -> HQNet:
    torch.manual_seed(0)
    return HQNet(config(**changes), backbone=Knowing()).eval()


@pytest.fixture(scope="module")
def batch():
    return batch_of([person((64, 64), tuple(BOX.tolist()))] * 2)


def test_an_untrained_model_already_says_what_its_backbone_says(batch):
    first = model().predict(batch)[0].persons
    best = first[:1]
    torch.testing.assert_close(best.boxes, BOX[None], atol=1e-3, rtol=0)
    assert best.scores.item() == pytest.approx(torch.tensor(3.0).sigmoid().item(), abs=1e-4)
    torch.testing.assert_close(
        best.keypoints, ((BOX[:2] + BOX[2:]) / 2).expand(1, 17, 2), atol=1e-3, rtol=0
    )
    assert best.keypoint_scores.unique().tolist() == [pytest.approx(0.7)]
    assert best.gender.item() == pytest.approx(torch.tensor(2.0).sigmoid().item(), abs=1e-4)
    assert best.age.item() == pytest.approx(30, abs=0.1)


def test_the_second_box_on_the_same_person_starts_as_nobody(batch):
    people = model().predict(batch)[0].persons
    assert people.scores[0] > 0.9 and (people.scores[1:] < 0.2).all()


def test_priors_can_be_learned_away(batch):
    net = model().train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.02)
    truth = batch_of([person((64, 64), (4.0, 4.0, 40.0, 52.0), gender=None)] * 2)
    before = sum(net(truth).values()).item()
    for _ in range(5):
        optimizer.zero_grad()
        sum(net(truth).values()).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    assert sum(net(truth).values()).item() < before


def test_the_other_pictures_of_a_batch_change_nothing(batch):
    net = model()
    alone = net.predict(batch_of([person((64, 64), tuple(BOX.tolist()))]))[0]
    together = net.predict(batch)[1].persons
    torch.testing.assert_close(together.boxes, alone.persons.boxes, atol=1e-3, rtol=1e-4)


def test_denoising_goes_together_with_priors(batch):
    losses = HQNet(replace(config(), denoising=small_config().denoising), backbone=Knowing())(batch)
    assert "denoising.layer0.class" in losses and all(value.isfinite() for value in losses.values())


def test_a_prior_that_the_backbone_does_not_answer_is_named():
    with pytest.raises(
        ConfigError, match="model.priors names person.*features only.*StackedBackbone"
    ):
        HQNet(replace(small_config(), priors=("person",)), backbone=OfficialResNet(4, (1, 1, 1, 1)))


@pytest.mark.parametrize("seed", range(5))
def test_distinct_tokens_are_those_of_non_maximum_suppression(seed):
    random = torch.Generator().manual_seed(seed)
    boxes = torch.cat(
        [torch.rand(2, 60, 2, generator=random) * 0.5 + 0.2, torch.full((2, 60, 2), 0.3)], -1
    )
    logits = torch.randn(2, 60, generator=random)
    chosen, doubled = distinct_tokens(logits, boxes, 20, 0.6)
    for i in range(2):
        kept = nms(cxcywh_to_xyxy(boxes[i]), logits[i], 0.6)
        assert chosen[i][~doubled[i]].tolist() == kept[:20].tolist()
        assert int((~doubled[i]).sum()) == min(20, len(kept))
        assert len(set(chosen[i].tolist())) == 20


def test_fewer_tokens_than_queries_are_all_taken():
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2]] * 3])
    chosen, doubled = distinct_tokens(torch.tensor([[0.0, 2.0, 1.0]]), boxes, 5, 0.7)
    assert chosen.tolist() == [[1, 2, 0]] and doubled.tolist() == [[False, True, True]]


def test_joint_features_that_no_expert_measures_are_refused():
    without = replace(config(), priors=("person", "gender", "age"))
    with pytest.raises(
        ConfigError,
        match='local_features: got true, but .* name "keypoints" in model.priors',
    ):
        HQNet(without, backbone=Knowing())


class Asked(Knowing):
    """Notes how many people it is asked about."""

    def __init__(self):
        super().__init__()
        self.asked: list[int] = []

    def answer(self, images, zoomed=None):
        answers, asked = super().answer(images, zoomed), self.asked

        class Counting(Attributes):
            def in_boxes(self, boxes):
                asked.append(boxes.shape[0] * boxes.shape[1])
                return super().in_boxes(boxes)

        return replace(answers, attributes=Counting())


def asked_of(run, **tasks) -> list[int]:
    torch.manual_seed(0)
    given = config()
    net = HQNet(replace(given, tasks=replace(given.tasks, **tasks)), backbone=Asked())
    run(net)
    return net.backbone.asked


def test_gender_and_age_are_asked_of_the_kept_people_only(batch):
    assert asked_of(lambda net: net.eval().predict(batch, Ask(0.9))) == [2]  # one in each picture
    assert asked_of(lambda net: net.eval().predict(batch, Ask(0.0, max_persons=3))) == [6]
    assert asked_of(lambda net: net.eval().predict(batch, Ask(0.9, frozenset(["masks"])))) == []
    assert asked_of(lambda net: net.eval().predict(batch, Ask(1.0))) == []


def test_an_attribute_of_ones_own_is_taken_over_without_touching_the_model(batch):
    """Its name and its logits stand in the expert, its task in a file of its own."""

    class Hatted(Knowing):
        answers_about = (*Knowing.answers_about, "hat")

        def answer(self, images, zoomed=None):
            class WithHats(Attributes):
                def in_boxes(self, boxes):
                    return {**super().in_boxes(boxes), "hat": torch.full(boxes.shape[:2], 3.0)}

            return replace(super().answer(images, zoomed), attributes=WithHats())

    torch.manual_seed(0)
    given = config()
    tasks = replace(given.tasks, extra=(ExtraTask(HatTask.__name__),))
    net = HQNet(replace(given, tasks=tasks, priors=Hatted.answers_about), backbone=Hatted())
    with torch.no_grad():
        for weight in net.tasks["hat"].parameters():
            weight.zero_()
    people = net.eval().predict(batch, Ask(0.9))[0].persons
    assert people.get("hat").tolist() == pytest.approx([torch.tensor(3.0).sigmoid().item()])
    # its loss may be on although those of gender and age are off
    off = replace(tasks, gender=GenderConfig(loss=0.0), age=AgeConfig(loss=0.0))
    for names, learns in ((("gender", "age"), False), (("gender", "hat"), True)):
        changed = replace(given, tasks=off, priors=names)
        assert Priors(changed, names, net.skeleton).attributes_learn is learns


def test_training_asks_of_every_query_and_of_none_where_both_losses_are_0(batch):
    assert asked_of(lambda net: net(batch)) == [2 * config().num_queries]
    assert (
        asked_of(lambda net: net(batch), gender=GenderConfig(loss=0.0), age=AgeConfig(loss=0.0))
        == []
    )
