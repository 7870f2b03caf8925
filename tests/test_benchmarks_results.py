"""What all benchmarks share: a table, and a JSON file with commit, machine and options."""

import argparse
import importlib
import json
import re
from pathlib import Path

import pytest

from benchmarks.results import save
from tests.paths import ROOT

NO_COMMANDS = ("baselines", "results")
NO_NUMBERS = ("serving_stand_in", "whole_body_teachers")  # a service to measure; labels to learn
NAMES = sorted(
    path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem not in NO_COMMANDS
)


def test_results_are_written_with_commit_machine_and_options(tmp_path):
    out = tmp_path / "new" / "numbers.json"
    options = argparse.Namespace(out=out, rounds=3, files=[Path("a.onnx")])
    save(out, options, rows={"a": 1.5})
    written = json.loads(out.read_text())
    assert written["rows"] == {"a": 1.5}
    assert written["asked"] == {"out": str(out), "rounds": 3, "files": ["a.onnx"]}
    assert {"commit", "cpu", "cores", "torch", "date"} <= set(written["machine"])


def test_nothing_is_written_unless_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(None, argparse.Namespace(), rows=[])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(NO_NUMBERS)))
def test_a_benchmark_tells_its_command_and_takes_a_file_for_its_numbers(name, capsys, monkeypatch):
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"python -m benchmarks.{name}" in shown and "--out" in shown
    assert hasattr(module, "save")


def test_every_benchmark_command_of_the_documents_exists():
    files = [ROOT / "Makefile", *(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]
    named = {
        name
        for file in files
        for name in re.findall(r"-m\s+benchmarks\.(\w+)", file.read_text(encoding="utf-8"))
    }
    assert len(named) > 8 and named <= set(NAMES), named - set(NAMES)
    for file in (ROOT / "docs" / "performance.md", ROOT / "docs" / "tracking.md"):
        for name, flags in commands(file.read_text(encoding="utf-8")):
            text = (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
            missing = [flag for flag in flags if f'"{flag}"' not in text]
            assert not missing, f"{file.name}: benchmarks.{name} has no {missing}"


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Benchmarks and their flags in the code spans of a document."""
    spans = re.findall(r"`(?:python -m )?benchmarks\.(\w+)([^`]*)`", text)
    return [(name, re.findall(r"--[\w-]+", rest)) for name, rest in spans]
