"""`humanquery doctor`: everything is looked at, and every gap has a remedy."""

import tomllib

import pytest
from typer.testing import CliRunner

from humanquery import cli
from humanquery.commands import doctor
from tests.paths import ROOT


def test_every_finding_that_is_not_well_says_what_to_do():
    findings = doctor.examine()
    assert {"Python", "PyTorch", "CUDA", "attention kernels", "video", "weights"} <= {
        each.what for each in findings
    }
    assert all(each.remedy for each in findings if each.state != "ok")
    assert not [each for each in findings if each.state == "problem"], findings


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda package: "" if package == "pyarrow" else "1.0")
    (parquet,) = [each for each in doctor.examine() if each.what == "extra parquet"]
    assert parquet.state == "note" and parquet.detail == "without pyarrow"
    assert parquet.remedy == "pip install 'humanquery[parquet]'"


def test_extras_are_those_of_the_package():
    detail = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for name, packages in doctor.EXTRAS.items():
        wanted = {line.split(">")[0] for line in detail[name]}
        assert set(packages) == wanted


def test_something_that_breaks_is_a_problem_with_exit_code_one(monkeypatch):
    def broken():
        raise OSError("libavcodec is not there")

    monkeypatch.setattr(doctor, "_codecs", broken)
    done = CliRunner().invoke(cli.app, ["doctor"])
    assert done.exit_code == 1
    assert "libavcodec is not there" in " ".join(done.output.split())
    monkeypatch.setattr("humanquery.predict.base.shipped_weights", dict)
    (weights,) = [each for each in doctor.examine() if each.what == "weights"]
    assert weights.state == "problem" and "git lfs pull" in weights.remedy


@pytest.mark.parametrize("cuda", [None, "12.4"])
def test_without_a_gpu_it_is_said_whose_fault_that_is(monkeypatch, cuda):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    found = doctor._torch()[-1]
    assert found.what == "CUDA" and found.state == "note"
    assert ("CPUs only" in found.detail) == (cuda is None)
