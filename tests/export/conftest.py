"""One tiny network and its ONNX file, for all tests of this folder: tracing takes most of their
time."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from humanquery.backbones import TimmBackbone
from humanquery.engine.checkpoint import save_weights
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models.hqnet.hqnet import HQNet
from humanquery.predict import Predictor, load
from tests.models.small import small_config


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    backbone = TimmBackbone(
        "test_resnet",
        pretrained=False,
        frozen_stages=0,
        frozen_norm=False,
        options={"channels": [8, 16, 24, 32], "layers": [1, 1, 1, 1]},
    )
    # with some first weights places outside of the picture, which all tie, come before most people
    torch.manual_seed(0)
    system = HQNet(replace(small_config(), backbone=backbone, input=LetterboxConfig(64, 96)))
    noise = torch.Generator().manual_seed(0)
    with (
        torch.no_grad()
    ):  # fresh heads say the same of every query; ties would hide what a graph does
        for weight in system.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=noise)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    return save_weights(path, system, {"score_threshold": 0.0, "name": "tiny"})


@pytest.fixture(scope="session")
def tiny(weights) -> Predictor:
    return load(weights, "cpu")


@pytest.fixture(scope="session")
def exporting(weights, tmp_path_factory) -> tuple[Path, str]:
    """The ONNX file and what the command line said. A process of its own: the trace does not go
    through type checks."""
    pytest.importorskip("onnxscript", reason="writing ONNX needs humanquery[export]")
    out = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    command = [
        sys.executable,
        "-m",
        "humanquery",
        "export",
        "--weights",
        str(weights),
        "--out",
        str(out),
        "--verify",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stdout


@pytest.fixture(scope="session")
def onnx_file(exporting) -> Path:
    return exporting[0]
