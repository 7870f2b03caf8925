"""The attribute model: a backbone and a region head on true boxes."""

from dataclasses import replace

import pytest
import torch

from humanquery.backbones import TimmBackbone
from humanquery.core.affine import Affine2D
from humanquery.core.batch import Batch, Meta
from humanquery.core.config import from_plain, to_plain
from humanquery.core.rows import Labelled
from humanquery.core.system import System
from humanquery.core.target import Target, empty_target
from humanquery.engine.checkpoint import load_state, read_weights, save_weights
from humanquery.models import SystemConfig, build, rebuild
from humanquery.models.attributes import system as attributes
from humanquery.models.attributes.config import AttributesConfig
from humanquery.models.attributes.system import Attributes
from humanquery.nn.person_views import RegionConfig

SIZE = (64, 48)
TINY = TimmBackbone(
    "test_resnet",
    frozen_stages=0,
    frozen_norm=False,
    options={"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
)
CONFIG = AttributesConfig(
    TINY,
    RegionConfig(
        whole=(64, 32),
        upper=(64, 64),
        channels=16,
        whole_grid=(2, 1),
        upper_grid=(2, 2),
        dim=32,
        dropout=0.0,
    ),
)

WITH_HEAD = replace(CONFIG, regions=replace(CONFIG.regions, head=32, head_grid=(1, 1)))


def model(config: AttributesConfig = CONFIG) -> Attributes:
    torch.manual_seed(0)
    return Attributes(config)


def people(*rows: tuple[float | None, tuple[float, float] | None]) -> Target:
    """(gender, (low, high)) per person; None: nobody knows."""
    boxes = torch.tensor(
        [[4.0 + 6 * i, 6.0, 30.0 + 6 * i, 58.0] for i in range(len(rows))]
    ).reshape(-1, 4)
    return Target(
        image_size=SIZE,
        boxes=boxes,
        ignore=torch.zeros(len(rows), dtype=torch.bool),
        areas=torch.full((len(rows),), 500.0),
        gender=Labelled(
            torch.tensor([g or 0.0 for g, _ in rows]),
            torch.tensor([g is not None for g, _ in rows]),
        ),
        age=Labelled(
            torch.tensor([a or (0.0, 0.0) for _, a in rows]).reshape(-1, 2),
            torch.tensor([a is not None for _, a in rows]),
        ),
    )


def batch_of(
    targets: list[Target] | None, count: int = 1, to_canvas: Affine2D | None = None
) -> Batch:
    count = len(targets) if targets is not None else count
    images = torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(2))
    metas = [Meta(SIZE, SIZE, to_canvas or Affine2D()) for _ in range(count)]
    return Batch(images, torch.zeros(count, *SIZE, dtype=torch.bool), metas, targets)


def test_it_is_a_system_and_its_config_survives_plain_data():
    assert isinstance(model(), System)
    assert from_plain(SystemConfig, to_plain(CONFIG)) == CONFIG
    assert isinstance(build(CONFIG), Attributes)


def test_losses_reach_backbone_and_regions_and_no_other_name_exists():
    system = model()
    losses = system(batch_of([people((1.0, (30.0, 30.0))), people((0.0, (16.0, 30.0)))]))
    assert set(losses) == {"gender", "age"} and all(
        loss.ndim == 0 and loss > 0 for loss in losses.values()
    )
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in system.parameters())
    assert {name.split(".")[0] for name in system.state_dict()} == {"backbone", "regions"}


def with_heads(target: Target, *squares: tuple[float, float, float, float] | None) -> Target:
    value = torch.tensor([square or (0.0,) * 4 for square in squares])
    return replace(
        target, face_boxes=Labelled(value, torch.tensor([square is not None for square in squares]))
    )


def test_with_a_head_view_the_place_of_known_heads_is_learned_and_every_weight_has_a_gradient():
    system = model(WITH_HEAD)
    target = with_heads(
        people((1.0, (30.0, 30.0)), (0.0, (20.0, 20.0))), (8.0, 6.0, 22.0, 20.0), None
    )
    losses = system(batch_of([target, people((0.0, None))]))
    assert set(losses) == {"gender", "age", "head"} and losses["head"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in system.parameters())
    nobody_knows = system(batch_of([people((1.0, (30.0, 30.0)), (0.0, None))]))["head"]
    assert nobody_knows == 0 and nobody_knows.requires_grad


def test_the_loss_of_a_head_is_nothing_in_its_place_and_counts_in_its_own_size():
    system = model(WITH_HEAD)
    known = torch.tensor([[10.0, 10.0, 30.0, 30.0]])
    valid = torch.ones(1, dtype=torch.bool)
    loss = system._head_loss
    assert loss(known, Labelled(known, valid)) == 0
    near, far = (float(loss(known + shift, Labelled(known, valid))) for shift in (2.0, 20.0))
    assert near == pytest.approx(2 * 0.5 * 0.1**2 / 0.2, rel=1e-3)  # smooth L1 below beta
    assert far == pytest.approx(2 * (1.0 - 0.1), rel=1e-3)  # and above
    assert float(loss(known * 2, Labelled(known * 2, valid))) == 0
    assert float(loss((known + 2.0) * 3, Labelled(known * 3, valid))) == pytest.approx(
        near, rel=1e-3
    )


def test_known_heads_are_shown_jittered_in_training_and_not_at_all_in_prediction():
    system = model(WITH_HEAD)
    square = (8.0, 6.0, 22.0, 20.0)
    batch = batch_of([with_heads(people((1.0, None)), square)])
    plain = batch_of([people((1.0, None))])
    system.eval()
    assert torch.equal(system.read_boxes(batch).vectors, system.read_boxes(plain).vectors)
    squares = attributes._jittered(torch.tensor([square]).repeat(200, 1), 0.1)
    sides = squares[:, 2] - squares[:, 0]
    middles = (squares[:, :2] + squares[:, 2:]) / 2
    assert float((middles - torch.tensor([15.0, 13.0])).abs().max()) <= 1.4 + 1e-4
    assert 14 * 0.9 < float(sides.min()) < 13.5 and 14.5 < float(sides.max()) < 14 * 1.106


def test_a_batch_in_which_nobody_has_a_label_costs_nothing_and_still_has_a_gradient():
    system = model()
    bare = people((None, None)).replace(gender=None, age=None)
    for targets in ([people((None, None))], [bare], [empty_target(SIZE)]):
        losses = system(batch_of(targets))
        assert {name: float(loss.detach()) for name, loss in losses.items()} == {
            "gender": 0.0,
            "age": 0.0,
        }
        sum(losses.values()).backward()


def test_people_without_a_label_and_ignore_regions_change_no_loss():
    system = model().eval()
    alone, crowd = (
        people((1.0, (30.0, 30.0))),
        people((1.0, (30.0, 30.0)), (None, None), (0.0, (70.0, 70.0))),
    )
    crowd = crowd.replace(ignore=torch.tensor([False, False, True]))
    some, more = system(batch_of([alone])), system(batch_of([crowd]))
    assert all(torch.allclose(some[name], more[name], atol=1e-6) for name in some)


def test_label_smoothing_and_age_slack_are_as_configured():
    sure = replace(CONFIG, label_smoothing=0.0, age_slack=0.0)
    target = people((1.0, (30.0, 30.0)))
    batch = batch_of([target])
    system = model(sure).eval()
    logit = system.read_boxes(batch).gender_logit
    assert torch.allclose(system(batch)["gender"], -logit.sigmoid().log().squeeze(), atol=1e-6)
    smooth = model(replace(sure, label_smoothing=0.2)).eval()(batch)["gender"]
    expected = -(0.9 * logit.sigmoid().log() + 0.1 * (-logit).sigmoid().log()).squeeze()
    assert torch.allclose(smooth, expected, atol=1e-6)
    slack = model(replace(sure, age_slack=3.0)).eval()
    interval = batch_of([people((1.0, (27.0, 33.0)))])
    assert torch.allclose(slack(batch)["age"], system(interval)["age"], atol=1e-6)


def test_a_tiny_set_is_learned_by_heart():
    system = model()
    rows = [((1.0, (8.0, 8.0)), (0.0, (60.0, 60.0))), ((0.0, (20.0, 20.0)), (1.0, (75.0, 75.0)))]
    targets = [people(*pair) for pair in rows]
    for target in targets:
        target.boxes[:] = torch.tensor([[0.0, 0.0, 22.0, 64.0], [26.0, 0.0, 48.0, 64.0]])
    batch = batch_of(targets)
    for picture, target in enumerate(targets):  # each of the four has its own colour
        for person, (x1, _, x2, _) in enumerate(target.boxes.int().tolist()):
            batch.images[picture, :, :, x1:x2] *= torch.tensor([picture, person, 0.5])[
                :, None, None
            ]
    optimizer = torch.optim.AdamW(system.parameters(), lr=3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        sum(system(batch).values()).backward()
        optimizer.step()
    found = [picture.persons for picture in system.eval().predict(batch)]
    for persons, pair in zip(found, rows, strict=True):
        assert (persons.gender > 0.5).tolist() == [g > 0.5 for g, _ in pair]
        assert all(
            abs(float(a) - years[0]) < 10 for a, (_, years) in zip(persons.age, pair, strict=True)
        )


def test_predictions_stand_in_picture_pixels_and_in_range():
    half = Affine2D.scaling(0.5)
    batch = batch_of([people((None, None), (None, None))], to_canvas=half)
    batch = replace(batch, metas=[Meta((128, 96), SIZE, half)])
    found = model().eval().predict(batch)[0].persons
    assert found.image_size == (128, 96) and torch.allclose(found.boxes, batch.targets[0].boxes * 2)
    assert ((found.gender >= 0) & (found.gender <= 1)).all() and (
        (found.age >= 0) & (found.age <= 84)
    ).all()


def test_without_boxes_it_says_that_it_does_not_look_for_people():
    for ask in (model(), model().predict):
        with pytest.raises(ValueError, match="reads people in given boxes"):
            ask(batch_of(None))


def test_frozen_layers_keep_their_statistics_while_others_follow_the_data():
    system = model(replace(CONFIG, backbone=replace(TINY, frozen_stages=1))).train()
    frozen = [n for n in system.backbone.batch_norms() if not n.weight.requires_grad]
    moving = [n for n in system.backbone.batch_norms() if n.weight.requires_grad]
    before = [n.running_mean.clone() for n in frozen], [n.running_mean.clone() for n in moving]
    system(batch_of([people((1.0, None)), people((0.0, None))]))
    assert frozen and all(
        torch.equal(n.running_mean, old) for n, old in zip(frozen, before[0], strict=True)
    )
    assert all(
        not torch.equal(n.running_mean, old) for n, old in zip(moving, before[1], strict=True)
    )


def test_a_weights_file_alone_rebuilds_it(tmp_path):
    system = model().eval()
    read = read_weights(save_weights(tmp_path / "a.safetensors", system, half=True))
    again = rebuild(read.config)
    load_state(again, read.state)
    batch = batch_of([people((None, None))])
    assert torch.allclose(
        again.eval().predict(batch)[0].persons.age, system.predict(batch)[0].persons.age, atol=0.05
    )
