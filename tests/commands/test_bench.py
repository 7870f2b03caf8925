"""`humanquery bench train`."""

import json

import pytest
from typer.testing import CliRunner

from humanquery import cli
from humanquery.commands.bench import bench_train
from humanquery.core.errors import ConfigError

TINY = [
    "engine.batch_size=1",
    "engine.num_workers=0",
    "model.denoising.pairs=4",
    "engine.device=cpu",
]


def test_bench_train_tells_where_the_time_of_a_step_goes(tmp_path):
    out = tmp_path / "step.json"
    sets = [word for change in TINY for word in ("--set", change)]
    done = CliRunner().invoke(
        cli.app,
        [
            "bench",
            "train",
            "--recipe",
            "hqnet_tiny_scenes",
            "--steps",
            "1",
            *sets,
            "--out",
            str(out),
        ],
    )
    assert done.exit_code == 0, done.output
    for part in (
        "data",
        "backbone",
        "encoder",
        "decoder",
        "matching",
        "losses: mask",
        "backward",
        "optimizer",
        "step",
    ):
        assert any(line.startswith(part) for line in done.output.splitlines()), part
    found = json.loads(out.read_text())
    assert found["steps"] == 1 and found["machine"]["commit"]
    seconds = found["seconds"]
    parts = sum(times["wall"] for name, times in seconds.items() if name != "step")
    assert parts == pytest.approx(seconds["step"]["wall"], rel=1e-6)
    assert 0 < found["shares"]["matching_and_losses"] < 1


def test_no_steps_are_refused():
    with pytest.raises(ConfigError, match="got 0 steps, expected at least 1"):
        bench_train("hqnet_tiny_scenes", [], steps=0)
