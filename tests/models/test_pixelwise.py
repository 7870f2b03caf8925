"""The pixel-wise regressor as a system: losses, prediction, mirror, scales, errors."""

from dataclasses import replace

import pytest
import torch

from humanquery.core.affine import Affine2D
from humanquery.core.batch import Meta
from humanquery.core.config import from_plain, override, to_plain
from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons
from humanquery.core.pose_nms import PoseNMSConfig
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.core.system import Ask, Exportable, System
from humanquery.core.target import Target, empty_target
from humanquery.models import SystemConfig, rebuild
from humanquery.models.pixelwise.candidates import highest, hulls, unique
from humanquery.models.pixelwise.config import (
    InstanceBranchConfig,
    KeypointBranchConfig,
    LossConfig,
    OksNMSConfig,
    PixelWiseConfig,
    TargetConfig,
)
from humanquery.models.pixelwise.network import Scores
from humanquery.models.pixelwise.system import PixelWise, PoseMaps, Seen
from humanquery.models.pixelwise.targets import cell_truth
from humanquery.tracking import TrackBook, TrackConfig
from tests.models.pixelwise_small import (
    SIZE,
    Pyramid,
    around,
    batch_of,
    person,
    small_config,
    small_model,
)

CELLS = (SIZE[0] // 4, SIZE[1] // 4)


def losses_of(model: PixelWise, target: Target, displacements, score_logit, quality=None):
    """What `forward` would give if the network said this."""
    truth = cell_truth(
        [target], torch.zeros(1, *CELLS, dtype=torch.bool), len(model.skeleton), model.config.target
    )
    return model._losses(truth, displacements, Scores(score_logit, quality)), truth


def logit(value: float) -> torch.Tensor:
    return torch.full((1, *CELLS), value).logit()


def test_it_is_a_system_that_can_be_exported_and_rebuilt_from_plain_data():
    model = small_model()
    assert isinstance(model, System) and isinstance(model, Exportable)
    plain = to_plain(PixelWiseConfig(pose_nms=OksNMSConfig(0.7)))
    assert from_plain(SystemConfig, plain) == PixelWiseConfig(pose_nms=OksNMSConfig(0.7))
    named = override(
        PixelWiseConfig(),
        ["backbone.name=test_resnet", "backbone.options={}", "instance.label=gaussian"],
    )
    again = rebuild(to_plain(named))
    assert isinstance(again, PixelWise) and again.config.instance.label == "gaussian"


def test_a_right_pose_with_a_sure_score_costs_nothing_but_for_the_background():
    model = small_model(target=TargetConfig(), loss=LossConfig(background=0.0))
    target = person(around((66.0, 50.0)))
    at = cell_truth([target], torch.zeros(1, *CELLS, dtype=torch.bool), 17, TargetConfig())
    said = torch.zeros(1, *CELLS, 17, 2)
    picture, line, column, _ = at.cells.unbind(1)
    said[picture, line, column] = at.displacements()[0]
    found, _ = losses_of(model, target, said, logit(1 - 1e-7))
    assert found["displacement"] == 0 and found["score"] < 1e-9


def test_the_losses_are_those_of_equations_3_and_6():
    """Every displacement 2 cells off along x, score 0.5 everywhere."""
    model = small_model(instance=InstanceBranchConfig(5, label="disc"))
    target = person(around((66.0, 50.0)))
    truth = cell_truth([target], torch.zeros(1, *CELLS, dtype=torch.bool), 17, TargetConfig())
    said = torch.zeros(1, *CELLS, 17, 2)
    picture, line, column, _ = truth.cells.unbind(1)
    said[picture, line, column] = truth.displacements()[0] + torch.tensor([2.0, 0.0])
    found, _ = losses_of(model, target, said, logit(0.5))
    disc, rest = len(truth.cells), CELLS[0] * CELLS[1] - len(truth.cells)
    # smooth L1 of 2 is 1.5, of 0 is 0: 0.75 a number
    torch.testing.assert_close(found["displacement"], torch.tensor(0.75))
    expected = (disc * 0.25 + 0.1 * rest * 0.25) / disc
    torch.testing.assert_close(found["score"], torch.tensor(expected))
    by_cells = small_model(
        instance=InstanceBranchConfig(5, label="disc"), loss=LossConfig(score_mean="cells")
    )
    found, _ = losses_of(by_cells, target, said, logit(0.5))
    torch.testing.assert_close(found["score"], torch.tensor(expected * disc / (disc + rest)))


def test_the_score_learns_the_oks_of_the_pose_that_the_network_gives_now():
    """With no gradient into that pose."""
    model = small_model()
    target = person(around((66.0, 50.0)))
    said = torch.zeros(1, *CELLS, 17, 2, requires_grad=True)
    score = logit(0.5).requires_grad_()
    found, truth = losses_of(model, target, said, score)
    (moved,) = torch.autograd.grad(found["score"], said, retain_graph=True, allow_unused=True)
    assert moved is None or moved.eq(0).all()
    (slope,) = torch.autograd.grad(found["score"], score)
    # nobody is near any joint: the score is to fall in the disc as elsewhere
    assert truth.at_cells(slope).gt(0).all()


def test_the_quality_branch_is_asked_only_inside_of_discs():
    model = small_model(instance=InstanceBranchConfig(5, label="disc", quality_branch=True))
    said = logit(0.5).requires_grad_()
    target = person(around((66.0, 50.0)))
    found, truth = losses_of(model, target, torch.zeros(1, *CELLS, 17, 2), logit(0.5), said)
    (slope,) = torch.autograd.grad(found["quality"], said)
    assert slope.ne(0).sum() == len(truth.cells) == truth.at_cells(slope).ne(0).sum()
    assert model.loss_names == ("score", "displacement", "quality")


@pytest.mark.parametrize("label", ["cir", "gaussian", "disc"])
def test_a_picture_with_nobody_gives_losses_with_a_graph(label):
    instance = InstanceBranchConfig(5, label=label, quality_branch=True)
    model = small_model(instance=instance)
    found = model(batch_of([empty_target(SIZE, COCO17)]))
    assert tuple(sorted(found)) == tuple(sorted(model.loss_names))
    assert found["displacement"] == 0 and found["quality"] == 0 and found["score"] > 0
    sum(found.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_every_parameter_learns_from_a_picture_with_people_in_half_precision_too(precision):
    model = small_model(instance=InstanceBranchConfig(5, pose_query="auto", hidden=4))
    batch = batch_of([person(around((66.0, 50.0))), empty_target(SIZE, COCO17)])
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        found = model(batch)
    assert all(loss.dtype == torch.float32 for loss in found.values())
    sum(found.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_few_steps_teach_it_one_picture():
    model = small_model(spread=0.0)
    batch = batch_of([person(around((66.0, 50.0)))])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    first = None
    for _ in range(12):
        loss = model(batch)["displacement"]
        first = float(loss.detach()) if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5 * first


def test_crowdpose_has_fourteen_joints():
    skeleton = Skeleton.named("crowdpose14")
    model = small_model(skeleton="crowdpose14")
    target = person(around((66.0, 50.0), joints=14), skeleton=skeleton)
    assert sum(model(batch_of([target])).values()).isfinite()
    people = model.eval().predict(batch_of(None))[0].persons
    assert people.keypoints.shape[1:] == (14, 2) and people.skeleton == skeleton


# -- prediction


def maps_with(model: PixelWise, *peaks: tuple[int, int, float]) -> PoseMaps:
    """Scores of 0 but for peaks (column, line, score); joint i is i cells to the right."""
    scores = torch.zeros(1, *CELLS)
    for x, y, score in peaks:
        scores[0, y, x] = score
    displacements = torch.zeros(1, *CELLS, 17, 2)
    displacements[..., 0] = torch.arange(17.0)
    return PoseMaps(displacements, scores)


def found_in(model: PixelWise, maps: PoseMaps, score: float = 0.01):
    seen = Seen([], torch.zeros(1, *CELLS, dtype=torch.bool))
    return model.found_people(seen, {}, maps, score, model.config.num_queries)


def test_the_best_cells_become_poses_with_boxes_around_their_joints():
    model = small_model(box_margin=0.25)
    found = found_in(model, maps_with(model, (3, 5, 0.4), (10, 20, 0.9)))
    assert found["scores"].tolist() == [[pytest.approx(0.9), pytest.approx(0.4)]]
    assert found["queries"].tolist() == [[20 * CELLS[1] + 10, 5 * CELLS[1] + 3]]
    joints = found["keypoints"][0, 0]
    assert joints[0].tolist() == [42.0, 82.0]  # middle of cell (10, 20)
    assert joints[16].tolist() == [42.0 + 64, 82.0]
    assert found["boxes"][0, 0].tolist() == [42 - 16, 82, 106 + 16, 82]


def test_of_neighbours_only_the_highest_is_a_candidate():
    scores = torch.zeros(1, 8, 8)
    scores[0, 2, 2], scores[0, 2, 4], scores[0, 2, 5] = 0.9, 0.8, 0.7
    kept = highest(scores, 5)
    assert kept[0, 2, 2] == 0.9 and kept[0, 2, 4] == 0 and kept[0, 2, 5] == 0
    assert highest(scores, 3)[0, 2, 4] == 0.8
    assert torch.equal(highest(scores, 1), scores)


def test_people_come_in_pixels_of_the_picture_and_nobody_stands_in_the_padding():
    model = small_model().eval()
    batch = batch_of(None)
    meta = Meta((48, 50), (96, 100), Affine2D.scaling(2.0))
    padding = torch.ones_like(batch.padding)
    padding[:, :96, :100] = False
    people = model.predict(replace(batch, padding=padding, metas=[meta]))[0].persons
    assert len(people) and people.image_size == (48, 50)
    assert people.keypoints[..., 0].max() <= 50 and people.keypoints[..., 1].max() <= 48
    assert (people.scores[:-1] >= people.scores[1:]).all()
    maps = model.read_queries(model.encode_images(batch.images, padding), {})
    assert maps.scores[:, :, 25:].eq(0).all() and maps.scores[:, :, :25].gt(0).all()


def test_an_ask_limits_people_and_outputs():
    model = small_model().eval()
    batch = batch_of(None)
    everybody = model.predict(batch)[0].persons
    assert 1 < len(everybody) <= model.config.num_persons
    assert len(model.predict(batch, Ask(max_persons=1))[0].persons) == 1
    assert len(model.predict(batch, Ask(max_persons=0))[0].persons) == 0
    middle = float(everybody.scores[len(everybody) // 2])
    assert len(model.predict(batch, Ask(middle))[0].persons) <= len(everybody) // 2 + 1
    bare = model.predict(batch, Ask(outputs=frozenset()))[0].persons
    assert bare.keypoints is None and torch.equal(bare.boxes, everybody.boxes)
    with pytest.raises(ConfigError, match="no 'keypoint'.*Did you mean 'keypoints'"):
        model.predict(batch, Ask(outputs=frozenset({"keypoint"})))


def test_what_is_said_of_a_mirrored_picture_is_the_mirror_image_with_left_and_right_swapped():
    """The mean of both is the same whichever of the two pictures comes first."""
    model = small_model(flip_test=True).eval()
    batch = batch_of(None)
    one = model.read_queries(model.encode_images(batch.images, batch.padding), {})
    two = model.read_queries(model.encode_images(batch.images.flip(-1), batch.padding), {})
    torch.testing.assert_close(two.scores.flip(-1), one.scores)
    back = two.displacements.flip(2)[:, :, :, list(COCO17.mirror_order)]
    back[..., 0] *= -1
    torch.testing.assert_close(back, one.displacements, rtol=1e-4, atol=1e-4)
    plain = PixelWise(small_config(), backbone=Pyramid()).eval()
    plain.load_state_dict(model.state_dict())
    alone = plain.read_queries(plain.encode_images(batch.images, batch.padding), {})
    assert not torch.allclose(alone.displacements, one.displacements)


def test_several_scales_find_people_in_the_same_pixels():
    fields = {"scales": (0.5, 1.0, 2.0), "pose_nms": OksNMSConfig(0.7)}
    model = small_model(**fields).eval()
    # a blank picture with constant displacements: each cell's pose is where the cell is
    torch.nn.init.zeros_(model.keypoints.regress.weight)
    found = model._found(batch_of(None, (64, 64)), 0.0)
    joints = found["keypoints"]
    assert joints.shape[1] > model.config.num_queries
    assert (found["scores"][:, :-1] >= found["scores"][:, 1:]).all()
    assert joints.min() > -64 and joints.max() < 128
    people = model.predict(batch_of(None, (64, 64)))[0].persons
    assert 0 < len(people) <= model.config.num_persons


@pytest.mark.parametrize("nms", [OksNMSConfig(0.5), PoseNMSConfig(lowest_score=0.0)])
def test_poses_of_the_same_person_are_joined(nms):
    model = small_model(pose_nms=nms, num_queries=5)
    found = found_in(model, maps_with(model, (10, 5, 0.9), (10, 12, 0.8)), 0.05)
    people = Persons(
        image_size=SIZE,
        boxes=torch.cat([found["boxes"][0], found["boxes"][0, :1]]),
        scores=torch.tensor([0.9, 0.8, 0.7]),
        keypoints=torch.cat([found["keypoints"][0], found["keypoints"][0, :1] + 0.5]),
        keypoint_scores=torch.tensor([0.9, 0.8, 0.7])[:, None].expand(3, 17).contiguous(),
        skeleton=COCO17,
    )
    people = people.replace(boxes=hulls(people.keypoints, 0.0) + torch.tensor([0.0, -20, 0, 20]))
    kept = unique(people, nms, model.sigmas)
    assert kept.scores.tolist() == [pytest.approx(0.9), pytest.approx(0.8)]
    assert len(unique(people[:0], nms, model.sigmas)) == 0
    assert unique(people, None, model.sigmas) is people


def test_people_are_followed_by_their_boxes():
    """Poses have no human query."""
    model = small_model(box_margin=0.1)
    maps = maps_with(model, (16, 12, 0.9))
    maps = replace(maps, displacements=(around((0.0, 0.0), 6.0)).expand(1, *CELLS, 17, 2))
    found = found_in(model, maps)
    people = Persons(
        image_size=SIZE,
        boxes=found["boxes"][0],
        scores=found["scores"][0],
        keypoints=found["keypoints"][0],
        skeleton=COCO17,
    )
    book = TrackBook(TrackConfig(appearance=False))
    ids = [book.update(people).track_ids.tolist() for _ in range(4)]
    assert ids[-1] == [1]


# -- errors


def test_a_batch_without_truth_or_with_other_joints_or_sides_says_what_is_wrong():
    model = small_model()
    with pytest.raises(ValueError, match="needs batch.targets; use predict"):
        model(batch_of(None))
    other = person(around((66.0, 50.0), joints=14), skeleton=Skeleton.named("crowdpose14"))
    with pytest.raises(ConfigError, match="'crowdpose14' .14 joints., the model's of 'coco17'"):
        model(batch_of([other]))
    with pytest.raises(ValueError, match=r"\(96, 100\) px, expected sides that are multiples of 3"):
        model.predict(batch_of(None, (96, 100)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"keypoints": KeypointBranchConfig(query_encoding=False)},
            "expected 'none', 'keypoints' or 'auto'",
        ),
        (
            {
                "keypoints": KeypointBranchConfig(semantic_points=0),
                "instance": InstanceBranchConfig(pose_query="semantic"),
            },
            "there are none; use 'query'",
        ),
        ({"nms_kernel": 4}, "got 4, expected an odd number"),
        ({"scales": ()}, "expected sizes above 0"),
        ({"scales": (1.0, 2.0)}, "set pose_nms"),
    ],
)
def test_a_config_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        PixelWiseConfig(**fields)
    with pytest.raises(ConfigError, match="expected at least 1 and at least 0"):
        KeypointBranchConfig(channels=0)


def test_a_skeleton_without_sigmas_has_no_oks_to_learn():
    bare = Skeleton("bare", ("a", "b"), (), ())
    with pytest.raises(ConfigError, match="'bare' has no OKS sigmas"):
        PixelWise(small_config(skeleton=bare), backbone=Pyramid())


@pytest.mark.parametrize(
    "fields",
    [
        {"keypoints": KeypointBranchConfig(3, query_encoding=False), "query": "none"},
        {"keypoints": KeypointBranchConfig(3, query_encoding=False), "query": "keypoints"},
        {"keypoints": KeypointBranchConfig(3, semantic_points=0), "query": "query"},
        {"keypoints": KeypointBranchConfig(3, semantic_points=15), "query": "semantic"},
    ],
)
def test_every_ablation_trains_and_predicts(fields):
    instance = InstanceBranchConfig(5, pose_query=fields.pop("query"), label="gaussian")
    model = small_model(instance=instance, **fields)
    assert sum(model(batch_of([person(around((66.0, 50.0)))])).values()).isfinite()
    assert len(model.eval().predict(batch_of(None))[0].persons)
