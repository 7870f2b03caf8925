"""PATH: who shares which weights, what each head learns, and that the number of processes does not
matter."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from humanquery.core.config import from_plain, to_plain
from humanquery.core.errors import CheckpointError, ConfigError, TrainingError
from humanquery.core.system import Ask
from humanquery.engine.optim import OptimConfig
from humanquery.engine.state import latest, read_metrics, read_state
from humanquery.engine.train_config import EngineConfig
from humanquery.engine.trainer import Trainer
from humanquery.models import SystemConfig, build
from humanquery.models.path.backbone import SharedBackbone, resized_positions
from humanquery.models.path.config import (
    DataSetConfig,
    IdentityHeadConfig,
    LadderConfig,
    MLPConfig,
    ParsingHeadConfig,
    PathBackbone,
    PathConfig,
    PoseHeadConfig,
)
from humanquery.models.path.projectors import Ladder, MLPProjector
from tests.engine.two_ranks import run_in_two_ranks
from tests.models.path_small import (
    DATA_SETS,
    NAMES,
    in_two_ranks,
    run,
    small_batch,
    small_config,
    small_path,
)


def gradients(path, *names):
    """Of the sum of these data sets' losses."""
    path.zero_grad()
    sum(sum(path(small_batch(name)).values()) for name in names).backward()
    return {n: p.grad.clone() for n, p in path.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def path():
    return small_path()


# --------------------------------------------------------------------- sharing


@pytest.mark.parametrize("name", NAMES)
def test_a_data_set_moves_what_it_shares_and_nothing_else(path, name):
    moved = gradients(path, name)
    one = path.data_sets[name]
    allowed = ("backbone.", f"projectors.{one.group}.", f"heads.{name}.")
    assert all(parameter.startswith(allowed) for parameter in moved)
    assert {parameter.split(".")[0] for parameter in moved} == {"backbone", "projectors", "heads"}
    tokens = {p for p in moved if p.startswith("backbone.cls_tokens.")}
    assert tokens == ({f"backbone.cls_tokens.{name}"} if one.has_class_token else set())


def test_data_sets_of_one_task_share_their_projector(path):
    assert set(path.projectors) == {one.group for one in DATA_SETS} and len(path.projectors) == 6
    assert "projectors.reid.gates" in gradients(path, "market").keys() & gradients(path, "msmt")


def test_the_gradient_of_the_backbone_is_the_sum_over_data_sets(path):
    path.eval()  # the batch norm of re-ID moves its statistics otherwise
    together = gradients(path, *NAMES)
    apart = [gradients(path, name) for name in NAMES]
    for name, value in together.items():
        parts = sum(part[name] for part in apart if name in part)
        torch.testing.assert_close(value, parts, atol=1e-5, rtol=1e-4)
    path.train()


def test_the_last_block_and_the_final_norm_learn_nothing_unless_asked(path):
    last = f"backbone.blocks.{len(path.backbone.blocks) - 1}."
    moved = gradients(path, *NAMES)
    assert not any(n.startswith((last, "backbone.norm.")) for n in moved)
    deep = small_path(backbone=PathBackbone("test_vit", grid=(10, 10), last_block=True))
    assert any(n.startswith(last) for n in gradients(deep, "crowd"))


def test_the_weights_of_losses_count_by_their_ratio(path):
    path.eval()
    doubled = PathConfig(
        tuple(
            DataSetConfig(d.name, d.head, d.task, d.weight * 2) for d in small_config().data_sets
        ),
        small_config().backbone,
        small_config().projector,
    )
    other = build(doubled).eval()
    other.load_state_dict(path.state_dict())
    a, b = path(small_batch("pose")), other(small_batch("pose"))
    assert a["pose/heatmap"].item() == pytest.approx(b["pose/heatmap"].item())
    # 3 of 10 by weight, times the 7 micro-batches of a step over which the engine averages
    raw = path.heads["pose"].losses(
        path.heads["pose"](path.features(small_batch("pose").images, "pose")), small_batch("pose")
    )
    assert a["pose/heatmap"].item() == pytest.approx(raw["heatmap"].item() * 3 / 10 * 7, rel=1e-5)
    path.train()


def test_pictures_of_an_unknown_or_of_two_data_sets_are_refused(path):
    batch = small_batch("pose")
    batch.targets[0] = batch.targets[0].replace(source="poses")
    with pytest.raises(TrainingError, match=r"a batch of data sets \['pose', 'poses'\]"):
        path(batch)
    strange = small_batch("pose")
    strange.targets[:] = [t.replace(source="poses") for t in strange.targets]
    with pytest.raises(TrainingError, match="Did you mean 'pose'"):
        path(strange)


# -------------------------------------------------------------------- learning


@pytest.mark.parametrize("name", NAMES)
def test_a_few_steps_lower_the_loss_of_every_head(name):
    torch.manual_seed(0)
    path, batch = small_path(), small_batch(name)
    optimizer = torch.optim.AdamW(path.parameters(), 2e-3)
    totals = []
    for _ in range(12):
        losses = path(batch)
        assert set(losses) <= set(path.loss_names)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.95 * totals[0]


def test_attributes_that_nobody_knows_cost_nothing(path):
    batch = small_batch("attributes")
    for target in batch.targets:
        target.get("attributes").fill_(-1)
    assert path(batch)["attributes/attributes"].item() == 0


def test_pixels_that_nobody_judged_cost_nothing(path):
    batch = small_batch("parsing")
    for target in batch.targets:
        target.maps["parsing"].values.fill_(255)
    loss = path(batch)["parsing/pixels"]
    assert loss.item() == 0 and loss.requires_grad


def test_pictures_without_people_teach_the_detector_its_background(path):
    batch = small_batch("people")
    batch.targets[:] = [target[:0] for target in batch.targets]
    losses = path(batch)
    assert losses["people/score"] > 0 and losses["people/l1"] == 0


def test_a_person_class_above_the_classifier_is_told(path):
    batch = small_batch("market")
    batch.targets[0].get("person_class").fill_(9)
    with pytest.raises(ConfigError, match="person class 9 for a classifier of 4 people"):
        path(batch)


# -------------------------------------------------------------------- answers


@pytest.mark.parametrize("name", NAMES)
def test_every_head_answers_in_pixels_of_the_picture(path, name):
    pictures = path.eval().answer(small_batch(name), name)
    assert len(pictures) == 4 and all(p.persons.image_size == (32, 32) for p in pictures)
    assert {key: tuple(value.shape[-2:]) for key, value in pictures[0].maps.items()} == {
        "parsing": {"parsing": (32, 32)}, "crowd": {"density": (32, 32)},
    }.get(name, {})  # fmt: skip
    if name == "market":
        assert pictures[0].persons.embeddings.norm().item() == pytest.approx(1)
    path.train()


def test_joints_come_back_where_their_gaussians_stand(path):
    batch, head = small_batch("pose"), path.heads["pose"]
    joints = torch.full((4, 17, 2), 15.5)
    maps, shown = head._goal(joints, torch.ones(4, 17, dtype=torch.bool), torch.zeros(4, 17, 8, 8))
    found = torch.cat([p.persons.keypoints for p in head.decode(maps, batch)])
    assert shown.all() and (found - joints).abs().max() < 1.2  # a quarter cell of 4 px


def test_a_density_sums_to_the_people_that_were_drawn(path):
    head, batch = path.heads["crowd"], small_batch("crowd")
    cells = torch.stack([head._people(t, (2, 2)) for t in batch.targets])
    assert cells.sum((1, 2)).tolist() == pytest.approx([1.0] * 4)
    flat = torch.full((4, 2, 2), 0.5)
    assert head.decode(flat, batch)[0].maps["density"].sum().item() == pytest.approx(2.0)


def test_predict_asks_the_head_that_the_config_names():
    path = small_path(answers="people").eval()
    found = path.predict(small_batch("people"), Ask(max_persons=3))
    assert all(len(picture.persons) == 3 for picture in found)
    scores = found[0].persons.scores
    assert (scores[:-1] >= scores[1:]).all()


# ------------------------------------------------------------------- backbone


def test_positions_are_the_table_itself_on_its_own_grid():
    table = torch.rand(1, 12, 8)
    assert resized_positions(table, (3, 4), (3, 4)) is table
    moved = resized_positions(table, (3, 4), (6, 2))
    assert moved.shape == (1, 12, 8)
    flat = resized_positions(torch.ones(1, 12, 8), (3, 4), (5, 7))
    torch.testing.assert_close(flat, torch.ones(1, 35, 8))


def test_any_picture_size_is_padded_to_whole_patches(path):
    features = path.features(torch.rand(1, 3, 40, 20), "crowd")
    assert features.maps.shape[-2:] == (3, 2)


def test_weights_of_timm_are_taken_with_their_positions(tmp_path):
    import timm

    torch.manual_seed(1)
    body = timm.create_model("test_vit", num_classes=0)
    save_file(body.state_dict(), tmp_path / "mae.safetensors")
    config = PathBackbone("test_vit", str(tmp_path / "mae.safetensors"), grid=(10, 10))
    ours = SharedBackbone(config, ("market",)).eval()
    images = torch.rand(2, 3, 160, 160)
    maps, grid = ours(images, "market")
    with torch.no_grad():
        theirs = body.eval().forward_features((images - ours.mean) / ours.std)
    assert grid == (10, 10)
    torch.testing.assert_close(ours.norm(maps[-1]), theirs, atol=1e-4, rtol=1e-4)


def test_a_file_of_another_network_is_told_by_its_first_tensor(tmp_path):
    save_file({"blocks.0.norm1.weight": torch.ones(3)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="tensors are missing or of another shape, the first"):
        SharedBackbone(PathBackbone("test_vit", str(tmp_path / "w.safetensors")), ())


def test_a_backbone_that_is_no_vision_transformer_is_refused():
    with pytest.raises(ConfigError, match="resnet18.*cannot be built|no plain vision transformer"):
        SharedBackbone(PathBackbone("resnet18"), ())


# ----------------------------------------------------------------- projectors


def test_the_ladder_begins_half_way_and_has_no_gate_below():
    ladder = Ladder(LadderConfig(reduction=4), 64, 3)
    assert ladder.gates.sigmoid().tolist() == [0.5, 0.5] and len(ladder.blocks) == 2
    maps = [torch.rand(2, 5, 64) for _ in range(3)]
    assert ladder(maps).shape == (2, 5, 64)
    with torch.no_grad():
        ladder.gates.fill_(60.0)  # all of the ladder, nothing of the map beside it
    torch.testing.assert_close(ladder(maps), ladder([maps[0], maps[0] * 9, maps[0]]))


def test_projectors_of_the_paper_have_about_two_million_parameters():
    ladder = Ladder(LadderConfig(), 768, 12)
    assert sum(p.numel() for p in ladder.parameters()) == pytest.approx(2.2e6, rel=0.05)


def test_an_mlp_stands_in_by_config():
    path = small_path(projector=MLPConfig())
    assert isinstance(path.projectors["reid"], MLPProjector)
    assert any(n.startswith("projectors.pose") for n in gradients(path, "pose"))


def test_without_a_projector_heads_read_the_last_normed_block():
    path = small_path(projector=None)
    moved = gradients(path, "crowd")
    assert not len(path.projectors) and "backbone.norm.weight" in moved


# -------------------------------------------------------------------- configs


def test_a_config_is_plain_data_and_builds_the_same_names():
    config = small_config()
    again = from_plain(SystemConfig, to_plain(config))
    assert again == config and build(again).state_dict().keys() == small_path().state_dict().keys()


def test_configs_that_cannot_be_meant_are_told():
    with pytest.raises(ConfigError, match="letters, digits and underscores"):
        DataSetConfig("a.b", PoseHeadConfig())
    with pytest.raises(ConfigError, match="expected a weight above 0"):
        DataSetConfig("a", PoseHeadConfig(), weight=0.0)
    with pytest.raises(ConfigError, match=r"data sets \['a', 'a'\]; expected at least one"):
        PathConfig((DataSetConfig("a", PoseHeadConfig()),) * 2)
    with pytest.raises(ConfigError, match="answers 'b', expected one of a"):
        PathConfig((DataSetConfig("a", PoseHeadConfig()),), answers="b")
    tiny = PathBackbone("test_vit")
    with pytest.raises(ConfigError, match="expected two at least"):
        build(PathConfig((DataSetConfig("a", ParsingHeadConfig()),), tiny))
    with pytest.raises(ConfigError, match="a classifier of 0 people"):
        build(PathConfig((DataSetConfig("a", IdentityHeadConfig()),), tiny))


# ------------------------------------------------------------------- training


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def test_two_ranks_learn_what_one_process_learns_from_all_data_sets(tmp_path):
    """Weights hardly move (lr 1e-5), so that Adam cannot blow up the last bits of tiny gradients:
    its first moments are the gradients."""
    run_in_two_ranks(in_two_ranks, tmp_path / "two")
    run(tmp_path / "one", lr=1e-5)
    logs = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    for one, two in zip(*logs, strict=True):
        for name in one:
            if "/" in name or name in ("total", "grad_norm"):
                assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-6), name
    theirs = weights_of(tmp_path / "two")
    for name, value in weights_of(tmp_path / "one").items():
        torch.testing.assert_close(
            theirs[name], value, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name} {text}"
        )
    one, two = (
        read_state(latest(tmp_path / name))["optimizer"]["state"] for name in ("one", "two")
    )
    largest = max(float(moments["exp_avg"].abs().max()) for moments in one.values())
    for i, moments in one.items():
        torch.testing.assert_close(
            two[i]["exp_avg"], moments["exp_avg"], atol=1e-4 * largest, rtol=2e-3
        )


def test_a_run_that_was_interrupted_goes_on_bit_for_bit(tmp_path):
    run(tmp_path / "whole", optimizer="adafactor")
    run(tmp_path / "parts", steps=1, optimizer="adafactor")
    run(tmp_path / "parts", resume=True, optimizer="adafactor")
    parts = weights_of(tmp_path / "parts")
    assert all(torch.equal(parts[n], v) for n, v in weights_of(tmp_path / "whole").items())


def test_lower_blocks_learn_slower():
    path = small_path()
    trainer = Trainer(
        path,
        EngineConfig(optim=OptimConfig(layer_decay=0.5, backbone_multiplier=1.0), device="cpu"),
        torch.device("cpu"),
    )
    trainer.begin()
    rate = {
        id(p): group["multiplier"]
        for group in trainer.optimizer.param_groups
        for p in group["params"]
    }
    named = dict(path.named_parameters())
    above = rate[id(named["backbone.norm.weight"])]
    assert above == 1.0 and rate[id(named["heads.crowd.last.weight"])] == 1.0
    first, second = (rate[id(named[f"backbone.blocks.{i}.norm1.weight"])] for i in (0, 1))
    assert first == second / 2
    assert rate[id(named["backbone.patch_embed.proj.weight"])] == first / 2
    assert rate[id(named["backbone.pos_embed"])] == rate[id(named["backbone.cls_tokens.msmt"])] == 1
    trainer.release()
