"""Recipes: every one can be built from plain data and changed; the tiny one trains, saves and
predicts."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch

from humanquery.commands.evaluate import evaluate
from humanquery.commands.ship import ship
from humanquery.commands.train import train
from humanquery.core.config import from_plain, override, to_plain
from humanquery.core.errors import CheckpointError, ConfigError
from humanquery.engine.checkpoint import read_weights, save_state_dict
from humanquery.models import build
from humanquery.predict import load
from humanquery.recipes import RECIPES, Recipe, find


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_plain_data_and_tells_command_data_hardware_and_score(name):
    recipe = find(name)
    assert from_plain(Recipe, to_plain(recipe)) == recipe
    said = RECIPES[name].__doc__
    for word in ("--recipe", "Data", "Hardware"):
        assert word in said
    assert "Expected" in said or "EXPERIMENTS.md" in said


def test_an_unknown_recipe_offers_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'hqnet_r50'"):
        find("hqnet_r5")


def test_one_number_can_be_changed_and_a_wrong_name_offers_the_nearest():
    recipe = override(find("hqnet_tiny_scenes"), ["engine.optim.lr=0.5", "model.tasks.mask=none"])
    assert recipe.engine.optim.lr == 0.5 and recipe.model.tasks.mask is None
    with pytest.raises(ConfigError, match="Did you mean 'optim'"):
        override(recipe, ["engine.optin.lr=1"])


QUICK = [
    "engine.steps=2",
    "engine.batch_size=2",
    "engine.num_workers=0",
    "engine.log_every=1",
    "data.val.count=2",
    "engine.tensorboard=false",
]


def test_the_tiny_recipe_trains_saves_scores_and_predicts(tmp_path):
    result = train("hqnet_tiny_scenes", QUICK, tmp_path / "run")
    assert result.steps == 2 and result.weights.is_file()
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert any("layer2.class" in json.dumps(line) for line in lines)
    report = evaluate(
        result.weights, recipe="hqnet_tiny_scenes", overrides=["data.val.count=2"], device="cpu"
    )
    assert report.to_json()


def test_training_can_start_from_the_tensors_of_a_file_that_fit(tmp_path, capsys):
    config = override(find("hqnet_tiny_scenes"), QUICK).model
    given = {
        name: torch.full_like(tensor, 0.25) for name, tensor in build(config).state_dict().items()
    }
    del given["content.weight"]
    given["backbone.unknown"] = torch.zeros(1)
    given["neck.levels.0.conv.weight"] = torch.zeros(3)
    start = save_state_dict(
        tmp_path / "start.safetensors", given, config, {"training": {"steps": 7}}
    )
    # there is nothing to resume in an empty folder: the weights count
    steps = [*QUICK, "engine.steps=0"]
    result = train("hqnet_tiny_scenes", steps, tmp_path / "run", weights=start, resume=True)
    trained, told = read_weights(result.weights).state, read_weights(result.weights).card
    assert told["started_from"] == {
        "weights": "start.safetensors",
        "sha256": hashlib.sha256(start.read_bytes()).hexdigest(),
        "training": {"steps": 7},
    }
    assert torch.equal(trained["selection.output.weight"], given["selection.output.weight"])
    assert trained["content.weight"].std() > 0.5
    said = capsys.readouterr().out
    assert f"nothing to resume in {tmp_path / 'run'}: a new run starts from start.safetens" in said
    assert "fresh: content.weight, neck.levels.0.conv.weight" in said
    assert "not taken: backbone.unknown, neck.levels.0.conv.weight" in said


def test_a_file_of_which_nothing_fits_is_refused(tmp_path):
    config = override(find("hqnet_tiny_scenes"), QUICK).model
    start = save_state_dict(tmp_path / "start.safetensors", {"other": torch.zeros(1)}, config, {})
    with pytest.raises(CheckpointError, match="none of its 1 tensors fits this model"):
        train("hqnet_tiny_scenes", QUICK, tmp_path / "run", weights=start)


def test_a_shipped_file_is_half_as_large_names_itself_and_leaves_the_trainers_paths_behind(
    tmp_path,
):
    config = override(find("hqnet_tiny_scenes"), QUICK).model
    here = replace(
        config, backbone=replace(config.backbone, weights=str(tmp_path / "secret.safetensors"))
    )
    card = {
        "changes": [f"model.backbone.weights={tmp_path}/secret.safetensors", "engine.steps=2"],
        "training": {
            "steps": 2,
            "evaluation": {"box/ap": 0.123456, "box/best_threshold": 0.2876, "mask/ap": None},
        },
    }
    state = build(config).state_dict()
    run = save_state_dict(tmp_path / "model.safetensors", state, here, card)
    card = ship(run, tmp_path / "good-model.safetensors")
    assert (tmp_path / "good-model.safetensors").stat().st_size < 0.55 * run.stat().st_size
    assert str(tmp_path).encode() not in (tmp_path / "good-model.safetensors").read_bytes()
    assert card["name"] == "good-model" and card["scores"] == {
        "box/ap": 0.1235,
        "box/best_threshold": 0.2876,
    }
    assert card["changes"] == ["model.backbone.weights=secret.safetensors", "engine.steps=2"]
    predictor = load(tmp_path / "good-model.safetensors", "cpu")
    assert predictor.default_score == 0.288 and predictor.card == card
    assert (
        ship(run, tmp_path / "b.safetensors", name="other", score_threshold=0.4)["score_threshold"]
        == 0.4
    )


def test_evaluation_needs_exactly_one_truth(tmp_path):
    with pytest.raises(ConfigError, match="either an annotation file"):
        evaluate("x.safetensors")
