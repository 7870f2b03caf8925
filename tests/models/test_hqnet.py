"""What HQNet promises beyond equality with the official model."""

import itertools
from dataclasses import replace

import pytest
import torch

from humanquery.core.affine import Affine2D
from humanquery.core.batch import Batch, Meta
from humanquery.core.boxes import canvas_to_unit
from humanquery.core.config import from_plain, to_plain
from humanquery.core.errors import ConfigError, NonFiniteError
from humanquery.core.rows import Labelled
from humanquery.core.skeleton import Skeleton
from humanquery.core.system import Ask, System
from humanquery.core.target import Target
from humanquery.models.hqnet import criterion
from humanquery.models.hqnet.attend import sampling_points
from humanquery.models.hqnet.config import HQNetConfig
from humanquery.tasks.base import Draws, Matches, Truth, Truths
from humanquery.tasks.paint_masks import paint_masks
from tests.models.small import SIZE, batch, crowd, nobody, person, small_config, small_model


def together(*people: Target) -> Target:
    return Target.cat(people)


OPTIONAL = ("keypoints", "keypoint_confidence", "mask", "gender", "age")


def draws(seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed))


def test_hqnet_is_a_system():
    assert isinstance(small_model(), System)


def test_forward_gives_the_same_losses_in_train_and_eval_mode():
    model, pictures = small_model(), batch([crowd()])
    trained = model.train()(pictures, draws())
    evaluated = model.eval()(pictures, draws())
    assert trained.keys() == evaluated.keys()
    for name, value in trained.items():
        assert value.ndim == 0 and torch.isfinite(value), name
        torch.testing.assert_close(value, evaluated[name], msg=name)


def test_forward_without_truth_says_what_to_call_instead():
    pictures = batch([crowd()])
    with pytest.raises(ValueError, match="predict"):
        small_model()(Batch(pictures.images, pictures.padding, pictures.metas, None))


@pytest.mark.parametrize(
    ("matching", "message"),
    [
        (("person", "boks"), "model.matching: 'boks' is no task .* Did you mean 'box'"),
        (("person", "gender"), "'gender' is no task with a matching cost"),
        (("person", "box", "person"), "person named more than once"),
        ((), r"model.matching: got \[\], expected person or box among them"),
        (("mask",), "expected person or box among them"),
    ],
)
def test_matching_by_unknown_repeated_or_no_costs_is_refused_before_training(matching, message):
    with pytest.raises(ConfigError, match=message):
        small_model(replace(small_config(), matching=matching))


def test_a_diverged_prediction_is_told_with_its_stage_and_picture():
    model, pictures = small_model().eval(), batch([crowd(), crowd(), nobody()])
    broken = pictures.images.clone()
    broken[1] = float("nan")
    with pytest.raises(NonFiniteError, match="matching at proposals: costs of pictures 1 of") as e:
        model(replace(pictures, images=broken), draws())
    assert e.value.stage == "proposals" and e.value.pictures == (1,)


def test_joints_of_another_layout_are_refused_although_their_number_fits():
    given = crowd()
    other = replace(given, skeleton=Skeleton.named("h36m17"))
    with pytest.raises(ConfigError, match="skeleton 'h36m17' .17 joints., the model's of 'coco17'"):
        small_model()(batch([given, other]), draws())
    joints = {"keypoints": None, "visibility": None}
    assert small_model()(batch([given, other.replace(**joints)]), draws())


@pytest.mark.parametrize(
    "left_out", [()] + [c for n in (1, 2, 5) for c in itertools.combinations(OPTIONAL, n)]
)
def test_any_subset_of_tasks_can_be_built_trained_and_used(left_out):
    model = small_model(small_config(**dict.fromkeys(left_out)))
    losses = model(batch([crowd(), nobody()]), draws())
    assert set(losses) == set(model.loss_names)
    sum(losses.values()).backward()
    people = model.eval().predict(batch([crowd()]))[0].persons
    assert len(people) == 8
    for task, fields in {
        "keypoints": "keypoints",
        "mask": "masks",
        "gender": "gender",
        "age": "age",
    }.items():
        assert (getattr(people, fields) is None) == (task in left_out)


def test_people_come_best_first_and_inside_the_picture():
    people = small_model().eval().predict(batch([crowd()]))[0].persons
    assert (people.scores.diff() <= 0).all()
    assert (
        (people.boxes >= 0).all()
        and (people.boxes[:, 2] <= SIZE[1]).all()
        and (people.boxes[:, 3] <= SIZE[0]).all()
    )
    assert people.masks.shape == (8, *SIZE) and people.embeddings.shape == (8, 32)
    assert ((people.gender >= 0) & (people.gender <= 1)).all() and (
        (people.age >= 0) & (people.age <= 84)
    ).all()


def test_score_and_tasks_limit_what_is_decoded():
    model, pictures = small_model().eval(), batch([crowd()])
    everybody = model.predict(pictures)[0].persons
    middle = float(everybody.scores[4])
    some = model.predict(pictures, Ask(middle, frozenset(["masks"])))[0].persons
    torch.testing.assert_close(some.boxes, everybody.boxes[everybody.scores >= middle])
    assert some.masks is not None and some.keypoints is None and some.gender is None
    assert len(model.predict(pictures, Ask(1.0))[0].persons) == 0
    assert len(model.predict(pictures, Ask(max_persons=3))[0].persons) == 3
    assert len(model.predict(pictures, Ask(max_persons=0))[0].persons) == 0


@pytest.mark.parametrize(
    "field", ["boxes", "keypoints", "gender", "age", "embeddings", "scores", "mask_scores", "masks"]
)
def test_the_other_pictures_of_a_batch_change_nothing(field):
    """Each picture refines with its own memory. (The canvas does matter a little: group norms see
    the padding, as officially.)"""
    model = small_model().eval()
    small, large = person((48, 40), (4.0, 4.0, 30.0, 40.0)), crowd()
    for order in ([small, large], [large, small]):
        both_pictures = batch(order, padded=(64, 80))
        for i in range(2):
            alone = Batch(
                both_pictures.images[i : i + 1],
                both_pictures.padding[i : i + 1],
                both_pictures.metas[i : i + 1],
            )
            one, both = model.predict(alone)[0].persons, model.predict(both_pictures)[i].persons
            torch.testing.assert_close(
                getattr(one, field), getattr(both, field), atol=2e-5, rtol=1e-4
            )


def test_padding_never_stretches_masks():
    """A map that says 'person' left of canvas x = 20: on the picture, twice as large as the canvas,
    left of x = 40."""
    cells = torch.where(torch.arange(30) < 5, 1.0, -1.0).expand(1, 24, 30)
    masks, _ = paint_masks(cells, Meta((96, 80), (48, 40), Affine2D.scaling(0.5)), (96, 120))
    assert torch.equal(masks, (torch.arange(80) < 40).expand(1, 96, 80))


def test_people_return_through_the_inverse_of_the_canvas_matrix():
    model, pictures = small_model().eval(), batch([crowd()])
    twice = Meta((2 * SIZE[0], 2 * SIZE[1]), SIZE, Affine2D.scaling(0.5))
    small = model.predict(pictures)[0].persons
    large = model.predict(Batch(pictures.images, pictures.padding, [twice]))[0].persons
    torch.testing.assert_close(large.boxes, small.boxes * 2)
    torch.testing.assert_close(large.keypoints, small.keypoints * 2)
    assert large.masks.shape[1:] == (128, 160)
    assert (large.masks[:, ::2, ::2] == small.masks).float().mean() > 0.95


def test_a_picture_smaller_than_the_queries_is_no_problem():
    people = small_model().eval().predict(batch([person((9, 7), (1.0, 1.0, 6.0, 8.0))]))[0].persons
    assert len(people) > 0 and torch.isfinite(people.boxes).all()


# -- missing labels

HIDDEN = {
    "gender": ("tasks.gender.", ("gender",)),
    "age": ("tasks.age.", ("age",)),
    "masks": ("tasks.mask.", ("mask_bce", "mask_dice")),
    "keypoints": ("tasks.keypoints.", ("keypoint_l1", "keypoint_oks")),
}


@pytest.mark.parametrize("field", HIDDEN)
@pytest.mark.parametrize("missing", ["for every person", "for the data set"])
def test_a_missing_label_gives_no_loss_no_cost_and_no_gradient(field, missing):
    known = crowd()
    if missing == "for the data set":
        unknown = known.replace(**{field: None})
    else:
        label = getattr(known, field)
        unknown = known.replace(
            **{field: Labelled(torch.zeros_like(label.value), torch.zeros_like(label.valid))}
        )
    model = small_model()
    losses = model(batch([unknown]), draws())
    prefix, names = HIDDEN[field]
    for name, value in losses.items():
        if name.split(".")[-1] in names:
            assert float(value.detach()) == 0.0, name
    sum(losses.values()).backward()
    # the mask of nobody and the joints of nobody train nothing; the heat map alone still learns
    # that there is no joint
    for name, parameter in model.named_parameters():
        if name.startswith(prefix) and ".heatmap." not in name:
            assert parameter.grad is None or not parameter.grad.any(), name


@pytest.mark.parametrize("field", HIDDEN)
def test_one_person_without_a_label_changes_nothing_for_the_others(field):
    """Losses of the labelled person are those of a picture in which the other person has no such
    label, whatever stands there."""
    first, second = person(SIZE, (5.0, 4.0, 30.0, 60.0)), person(SIZE, (40.0, 8.0, 70.0, 50.0))
    label = getattr(second, field)
    no = torch.zeros(1, dtype=torch.bool)
    noise = torch.ones_like(label.value) if field == "masks" else label.value + 7.0
    quiet = together(first, second.replace(**{field: Labelled(torch.zeros_like(label.value), no)}))
    loud = together(first, second.replace(**{field: Labelled(noise, no)}))
    model = small_model()
    one, other = model(batch([quiet]), draws()), model(batch([loud]), draws())
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], msg=name)


def test_pictures_with_and_without_a_kind_of_label_train_together():
    boxes_only = crowd().replace(keypoints=None, visibility=None, masks=None, gender=None, age=None)
    losses = small_model()(batch([boxes_only, crowd(), nobody()]), draws())
    sum(losses.values()).backward()
    assert all(torch.isfinite(v) for v in losses.values())


def test_a_batch_of_empty_pictures_trains_the_background():
    model = small_model()
    losses = model(batch([nobody(), nobody()]), draws())
    sum(losses.values()).backward()
    assert float(losses["layer1.class"].detach()) > 0
    assert float(losses["layer1.box_l1"].detach()) == 0


def test_every_batch_has_the_same_loss_names_whoever_stands_in_it():
    model = small_model()
    unlabelled = crowd().replace(keypoints=None, visibility=None, masks=None, gender=None, age=None)
    names = [set(model(batch([target]), draws())) for target in (crowd(), nobody(), unlabelled)]
    assert names[0] == names[1] == names[2]


def test_every_batch_asks_the_other_ranks_equally_often(monkeypatch):
    """Or one rank would wait for ever for a normaliser that the others never send."""
    asked = []
    monkeypatch.setattr(
        "humanquery.tasks.base.sum_over_ranks", lambda count: asked.append(1) or count
    )
    unlabelled = crowd().replace(keypoints=None, visibility=None, masks=None, gender=None, age=None)
    model, counts = small_model(), []
    for target in (crowd(), nobody(), unlabelled):
        asked.clear()
        model(batch([target]), draws())
        counts.append(len(asked))
    assert counts[0] == counts[1] == counts[2] > 0


def test_an_age_interval_is_satisfied_inside_and_punished_outside():
    target = crowd()
    yes = torch.ones(2, dtype=torch.bool)
    model = small_model()
    losses = {}
    for low, high in ((0.0, 84.0), (80.0, 84.0)):
        age = Labelled(torch.tensor([[low, high]] * 2), yes)
        losses[low] = float(model(batch([target.replace(age=age)]), draws())["layer1.age"].detach())
    assert losses[0.0] < 0.05 * losses[80.0]


# -- crowds


def test_queries_in_an_ignore_region_are_neither_person_nor_background():
    model = small_model()
    region = person(SIZE, (0.0, 0.0, 80.0, 64.0)).replace(ignore=torch.ones(1, dtype=torch.bool))
    alone = person(SIZE, (5.0, 4.0, 30.0, 60.0))
    with_crowd = model(batch([together(alone, region)]), draws())
    without = model(batch([alone]), draws())
    assert float(with_crowd["layer1.class"].detach()) < float(without["layer1.class"].detach())
    torch.testing.assert_close(with_crowd["layer1.box_l1"], without["layer1.box_l1"])


def test_a_crowd_everywhere_leaves_only_the_matched_queries_in_the_class_loss():
    model = small_model()
    region = person(SIZE, (-80.0, -64.0, 160.0, 128.0)).replace(
        ignore=torch.ones(1, dtype=torch.bool)
    )
    pictures = batch([together(person(SIZE, (5.0, 4.0, 30.0, 60.0)), region)])
    encoded = model.encode(pictures)
    outputs = model.read_queries(encoded, model.prepare(encoded), every_stage=True)
    truths = [Truth.of(t, t.image_size) for t in pictures.targets]
    matches = criterion.match(model.tasks, model.config.matching, outputs, truths, draws())[-1]
    marked = criterion._with_ignored(matches, outputs.layers[-1], Truths.of(truths, "cpu"), encoded)
    assert marked.ignored.sum() == model.config.num_queries - 1


# -- matching


@pytest.mark.parametrize(
    "matching",
    [
        ("person", "box"),
        ("person", "box", "keypoints", "keypoint_confidence"),
        HQNetConfig.matching,
    ],
)
def test_matching_sums_the_costs_of_the_named_tasks_only(matching):
    model, pictures = small_model(), batch([crowd()])
    with torch.no_grad():
        encoded = model.encode(pictures)
        outputs = model.read_queries(encoded, model.prepare(encoded), every_stage=True)
    truths = [Truth.of(t, t.image_size) for t in pictures.targets]
    given = {"layer1/match_img0": torch.rand(1, 64, 2), "layer0/match_img0": torch.rand(1, 64, 2)}
    given["proposals/match_img0"] = torch.rand(1, 64, 2)
    same = Draws(given=given)
    found = criterion.match(model.tasks, matching, outputs, truths, same)[-1]
    last = outputs.layers[-1]
    total = sum(model.tasks[n].cost(last[n], 0, truths[0], same, "layer1") for n in matching)
    best = min(float(total[a, 0] + total[b, 1]) for a, b in itertools.permutations(range(12), 2))
    assert float(total[found.queries, found.people].sum()) == pytest.approx(best, rel=1e-5)


def test_matches_read_the_truth_of_their_own_picture():
    truths = Truths.of(
        [Truth.of(t, SIZE) for t in (crowd(), person(SIZE, (1.0, 2.0, 33.0, 44.0)))], "cpu"
    )
    matches = Matches.to_device(torch.tensor([[[0, 0, 1], [3, 5, 0], [1, 0, 0]]]), "cpu")[0]
    read = truths.boxes_unit[truths.rows(matches)]
    expected = canvas_to_unit(
        torch.tensor([[40.0, 8, 70, 50], [5, 4, 30, 60], [1, 2, 33, 44]]), SIZE
    )
    torch.testing.assert_close(read, expected)
    place, width = matches.side_by_side()
    assert place.tolist() == [0, 1, 0] and width == 2
    only = truths.matches_of(torch.tensor([True, False, True]), matches)
    assert [only.pictures.tolist(), only.queries.tolist(), only.people.tolist()] == [
        [0, 1],
        [5, 0],
        [0, 0],
    ]


def test_denoising_changes_no_other_loss():
    model, pictures = small_model(), batch([crowd()])
    with_noise = model(pictures, draws())
    plain = small_model(replace(small_config(), denoising=None))
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k != "denoising_label"})
    fixed = {}
    for name in ("proposals", "layer0", "layer1"):
        fixed |= {
            f"{name}/match_img0": torch.rand(1, 64, 2),
            f"{name}/oversample": torch.rand(2, 192, 2),
        }
        fixed |= {f"{name}/random": torch.rand(2, 16, 2)}
    with_noise, without = model(pictures, Draws(given=fixed)), plain(pictures, Draws(given=fixed))
    assert any(name.startswith("denoising") for name in with_noise)
    for name, value in without.items():
        torch.testing.assert_close(value, with_noise[name], atol=1e-5, rtol=1e-5, msg=name)


def test_losses_do_not_depend_on_the_order_of_the_people():
    model, target = small_model(small_config(mask=None)), crowd()
    model.config = replace(model.config, denoising=None)
    one, other = model(batch([target]), draws()), model(batch([target[[1, 0]]]), draws())
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], msg=name)


def test_a_prediction_that_is_not_finite_stops_the_matching():
    model = small_model()
    with torch.no_grad():
        model.content.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="matching at layer0: costs of pictures 0 of"):
        model(batch([crowd()]), draws())


# -- learning


def test_a_few_steps_on_one_picture_lower_every_family_of_losses():
    model, pictures = small_model(), batch([crowd()])
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    first = None
    for _ in range(30):
        losses = model(pictures, draws())
        first = first or {k: float(v.detach()) for k, v in losses.items()}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    for name in ("class", "box_giou", "keypoint_l1", "mask_dice", "gender", "age"):
        assert float(losses[f"layer1.{name}"].detach()) < first[f"layer1.{name}"], name


# -- config and the last layer's looks


def test_the_config_survives_plain_data():
    config = small_config(age=None)
    assert from_plain(HQNetConfig, to_plain(config)) == config


def test_sampling_points_lie_near_the_people_with_weights_that_sum_to_the_heads():
    model, pictures = small_model().eval(), batch([crowd()])
    people, points, weights = sampling_points(model, pictures, score=0.0)[0]
    assert points.shape == (len(people), 4 * 3 * 2, 2)
    torch.testing.assert_close(weights.sum(1), torch.full((len(people),), 4.0))
