import datetime

import pytest
from PIL import Image

from humanquery.core.errors import CheckpointError, ConfigError
from humanquery.engine.curves import machine, plot_runs, run_records, summarise
from humanquery.engine.loop import train
from tests.engine.toy import Toy, ToyLoader, toy_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    scores = iter([0.2, 0.6, 0.5])
    train(
        Toy(),
        ToyLoader(),
        toy_config(evaluate_every=4),
        out,
        evaluate=lambda system: {"box": {"AP": next(scores)}, "note": "text"},
    )
    return out


def test_a_run_is_told_in_a_few_lines(run):
    text = summarise(run)
    assert text.splitlines()[0] == "first"
    assert "12 steps in" in text and "images/s" in text
    assert "people" in text and "->" in text
    assert "box/AP" in text and "0.5 (0.2 .. 0.6)" in text
    assert "lr" not in text.split() and "grad_norm" not in text


def test_curves_of_several_runs_are_drawn(run, tmp_path):
    png = plot_runs([run, run / "metrics.jsonl"], tmp_path / "new" / "curves.png", ["people"])
    assert Image.open(png).size[0] > 1000
    assert len(run_records(run)[0]) == 7


def test_no_run_and_unknown_losses_are_named(run, tmp_path):
    with pytest.raises(
        ConfigError, match="no metrics here; expected the folder that was given to train as --out"
    ):
        summarise(tmp_path)
    with pytest.raises(ConfigError, match="no run has a loss 'peple'. Did you mean 'people'"):
        plot_runs([run], tmp_path / "x.png", ["peple"])
    with pytest.raises(
        ConfigError, match="no run was evaluated for 'box/AR'. Did you mean 'box/AP'"
    ):
        plot_runs([run], tmp_path / "x.png", scores=["box/AR"])
    with pytest.raises(ConfigError, match="no run was given"):
        plot_runs([], tmp_path / "x.png")
    (tmp_path / "metrics.jsonl").write_text("what is this\n{}\n")
    with pytest.raises(
        CheckpointError, match="metrics.jsonl:1: not a line of JSON: 'what is this'"
    ):
        summarise(tmp_path)


def test_the_machine_is_described_for_benchmarks():
    said = machine()
    assert list(said) == ["commit", "cpu", "cores", "torch", "gpu", "date"]
    assert said["cores"] >= 1 and all(said.values())
    assert datetime.datetime.fromisoformat(said["date"]).tzinfo is not None
