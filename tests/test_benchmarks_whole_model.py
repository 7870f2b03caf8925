"""The measuring of benchmarks/whole_model.py, on made-up work."""

import json

import pytest
import torch

from benchmarks import whole_model
from tests.models.small import batch, crowd, small_model


def test_cases_run_in_turns_and_once_more_to_warm_up():
    calls = []
    seconds = whole_model.in_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3
    )
    assert calls.count("a") == calls.count("b") == 4
    assert all(sorted(calls[2 + 2 * i : 4 + 2 * i]) == ["a", "b"] for i in range(3))
    assert {len(times) for kinds in seconds.values() for times in kinds.values()} == {3}


def test_ratios_are_of_the_same_round():
    """Round two is ten times slower for everybody, which the ratio does not see."""
    seconds = {
        "a": {"cpu": [1.0, 10.0, 1.0], "clock": [1.0] * 3},
        "b": {"cpu": [2.0, 20.0, 3.0], "clock": [2.0] * 3},
    }
    rows = whole_model.compared(seconds, "a")
    assert rows["a"]["ratio"] == 1.0
    assert (rows["b"]["ratio"], rows["b"]["quartiles"], rows["b"]["cpu"]) == (2.0, [2.0, 2.5], 3.0)


def test_a_single_round_has_no_spread():
    rows = whole_model.compared({"a": {"cpu": [2.0], "clock": [3.0]}}, "a")
    assert rows["a"]["quartiles"] == [1.0, 1.0]


def test_ellipses_have_the_asked_size():
    masks = whole_model.ellipses(60, 150, count=3)
    assert masks.shape == (3, 800, 1333)
    assert masks.any(2).sum(1).max() <= 151 and masks.any(1).sum(1).max() <= 61


def test_generated_pictures_have_the_asked_side():
    batch = whole_model.pictures(96, 2)
    assert batch.images.shape == (2, 3, 96, 128)


def test_every_subset_of_tasks_is_something_a_model_can_be_asked_for():
    model, asked = small_model().eval(), batch([crowd()])
    with torch.inference_mode():
        rows = whole_model.tasks_part(model, asked, rounds=1, people=2)
    assert set(rows) == {*whole_model.SUBSETS, "everything"}
    assert {name for names in whole_model.SUBSETS.values() for name in names} == set(model.outputs)


@pytest.mark.slow
def test_the_parts_run_and_are_written(tmp_path, monkeypatch):
    out = tmp_path / "whole.json"
    asked = [
        "x",
        "--model",
        "hqnet_tiny_scenes",
        "--side",
        "96",
        "--rounds",
        "1",
        "--out",
        str(out),
    ]
    asked += [
        "--parts",
        "tasks",
        "people",
        "batches",
        "sizes",
        "--models",
        "hqnet_tiny_scenes",
        "--sides",
        "96",
    ]
    monkeypatch.setattr("sys.argv", asked)
    threads = torch.get_num_threads()
    try:
        whole_model.main()
    finally:
        torch.set_num_threads(threads)
    written = json.loads(out.read_text())
    assert (
        set(written["parts"]) == {"tasks", "people", "batches", "sizes"}
        and "commit" in written["machine"]
    )
    assert set(written["parts"]["tasks"]) == {
        "detection",
        "+ masks",
        "+ keypoints",
        "+ attributes",
        "everything",
    }
