"""Which run a folder holds: what may resume it, what is refused field by field, and what is written
down."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from humanquery.core.errors import ConfigError
from humanquery.data.augment.augment import AugmentConfig
from humanquery.data.loading.loader import MixConfig, MixPart, TrainLoader
from humanquery.data.readers.coco import CocoSourceConfig
from humanquery.engine.checkpoint import read_card
from humanquery.engine.loop import train
from humanquery.engine.state import latest, read_metrics, save_state
from humanquery.engine.train_config import run_identity
from tests.data.coco_files import person, write_file
from tests.engine.toy import STEADY, Toy, ToyConfig, ToyLoader, toy_config

SHORT = toy_config(steps=1, optim=STEADY)
LONGER = replace(SHORT, steps=2)
X, Y = ({"weights": f"{name}.safetensors", "sha256": name} for name in "xy")


class NamedLoader(ToyLoader):
    """Toy batches of data that say what they are."""

    data = "a"
    unreadable: dict = {}

    def identity(self) -> dict:
        return {"data": {"train": self.data}}


def run(out: Path, config=SHORT, *, data: str = "a", unreadable: dict | None = None, **options):
    loader = NamedLoader()
    loader.data, loader.unreadable = data, unreadable or {}
    return train(Toy(), loader, config, out, **options)


def history(out: Path) -> list[dict]:
    return json.loads((out / "config.json").read_text())["history"]


def card(out: Path) -> dict:
    return read_card(out / "model.safetensors")[1]


def test_resuming_an_empty_folder_starts_from_the_given_weights_and_says_so(tmp_path, capsys):
    result = run(tmp_path, resume=True, started_from=X)
    told = capsys.readouterr().out
    assert f"nothing to resume in {tmp_path}: a new run starts from x.safetensors" in told
    assert result.resumed_at == () and history(tmp_path) == [
        {"started_from": "x.safetensors", "step": 0}
    ]
    assert card(tmp_path)["started_from"] == X and "resumed_at" not in card(tmp_path)["training"]


def test_a_resumed_run_says_so_and_its_card_still_names_what_it_started_from(tmp_path, capsys):
    run(tmp_path, started_from=X)
    result = run(tmp_path, LONGER, resume=True)
    told = capsys.readouterr().out
    assert f"resumed after step 1 of 2; the weights are those of the run in {tmp_path}" in told
    assert result.resumed_at == (1,) and card(tmp_path)["training"]["resumed_at"] == [1]
    assert card(tmp_path)["started_from"] == X


def test_a_run_of_other_data_weights_and_recipe_is_refused_field_by_field(tmp_path):
    run(tmp_path, identity={"recipe": "small"}, started_from=X)
    with pytest.raises(ConfigError) as refused:
        run(
            tmp_path,
            replace(LONGER, seed=1),
            data="b",
            identity={"recipe": "large"},
            started_from=Y,
            resume=True,
        )
    message = str(refused.value)
    for line in (
        "data.train: 'a' -> 'b'",
        "recipe: 'small' -> 'large'",
        "started_from: 'x' -> 'y'",
        "engine.seed: 0 -> 1",
    ):
        assert f"\n  {line}\n" in message
    assert "allow it with --allow-changes" in message and "steps" not in message
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1]


def test_allowed_changes_are_printed_and_written_into_run_and_card(tmp_path, capsys):
    run(tmp_path, started_from=X)
    result = run(tmp_path, replace(LONGER, seed=1), data="b", resume=True, allow_changes=True)
    assert result.steps == 2
    changes = ["engine.seed: 0 -> 1", "data.train: 'a' -> 'b'"]
    assert sorted(history(tmp_path)[-1]["changes"]) == sorted(changes)
    assert history(tmp_path)[-1]["resumed_at"] == 1
    told = capsys.readouterr().out
    assert all(f"allowed change: {change}" in told for change in changes)
    # values may be paths of whoever trained: the card has the fields alone
    fields = card(tmp_path)["training"]["changes_allowed"]["1"]
    assert sorted(fields) == ["data.train", "engine.seed"]
    # the run is now of these data and this seed
    run(tmp_path, replace(LONGER, steps=3, seed=1), data="b", resume=True)
    with pytest.raises(ConfigError, match="data.train: 'b' -> 'a'"):
        run(tmp_path, replace(LONGER, steps=3, seed=1), data="a", resume=True)
    assert "changes" not in history(tmp_path)[-1]


@pytest.mark.parametrize("kept", [("system", "engine"), ()])
def test_a_state_from_before_runs_had_an_identity_is_resumed_with_a_notice(tmp_path, capsys, kept):
    run(tmp_path)
    state = torch.load(latest(tmp_path), weights_only=True)
    state["identity"] = {name: state["identity"][name] for name in kept}
    if not kept:
        del state["identity"]
    else:
        state["identity"]["engine"].pop("seed")  # and before there was this field
    del state["version"]
    save_state(tmp_path, state.pop("step"), state)
    result = run(tmp_path, LONGER, resume=True)
    told = capsys.readouterr().out
    assert result.steps == 2 and "notice: this run was begun before runs had an identity" in told
    assert "not compared: " in told and "data" in told.split("not compared: ")[1]
    with pytest.raises(ConfigError, match="data.train: 'a' -> 'b'"):
        run(tmp_path, replace(LONGER, steps=3), data="b", resume=True)


def test_the_configs_of_an_old_state_are_compared_all_the_same(tmp_path):
    run(tmp_path)
    state = torch.load(latest(tmp_path), weights_only=True)
    state["identity"] = {name: state["identity"][name] for name in ("system", "engine")}
    del state["version"]
    save_state(tmp_path, state.pop("step"), state)
    with pytest.raises(ConfigError, match="system.width: 8 -> 9"):
        train(Toy(ToyConfig(width=9)), ToyLoader(), LONGER, tmp_path, resume=True)


def test_the_length_of_a_run_is_part_of_it_only_where_the_schedule_depends_on_it():
    assert "steps" not in run_identity(SHORT, None)["engine"]
    assert run_identity(toy_config(steps=7), None)["engine"]["steps"] == 7


def test_a_data_folder_may_move_but_not_change(tmp_path):
    def identity(annotations: str) -> dict:
        mix = MixConfig.of(CocoSourceConfig(annotations))
        return TrainLoader(mix, AugmentConfig(), 1).identity()

    here = write_file(tmp_path / "here", [person()])
    first = identity(here)
    shutil.move(tmp_path / "here", tmp_path / "there")
    there = str(tmp_path / "there" / Path(here).name)
    assert identity(there) == first and json.loads(json.dumps(first)) == first
    assert str(tmp_path) not in json.dumps(first)
    Path(there).write_text(Path(there).read_text().replace('"area": 300.0', '"area": 299.0'))
    assert identity(there) != first
    part = MixPart(CocoSourceConfig(there), 2.0)
    assert TrainLoader(MixConfig((part,)), AugmentConfig(), 1).identity() != identity(there)


def test_unreadable_pictures_are_told_in_log_result_and_card(tmp_path, capsys):
    broken = {"a.jpg: cut off": 2, "b.jpg: not a picture": 1}
    result = run(tmp_path, unreadable=broken)
    assert result.unreadable == broken
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["unreadable"] == 3
    assert card(tmp_path)["training"]["unreadable_pictures"] == 2
    told = capsys.readouterr().out
    assert "2 pictures could not be read and were replaced 3 times: a.jpg: cut off; b.jpg" in told
    run(tmp_path / "sound")
    assert "unreadable" not in read_metrics(tmp_path / "sound" / "metrics.jsonl")[-1]
    assert "unreadable_pictures" not in card(tmp_path / "sound")["training"]
