"""Weights files that an older humanquery wrote."""

import json

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from humanquery.core.config import from_plain
from humanquery.engine.checkpoint import read_weights
from humanquery.engine.file_versions import FORMAT_VERSION, upgraded_config, upgraded_state
from humanquery.media.letterbox import LetterboxConfig
from humanquery.predict.base import shipped_weights
from humanquery.tasks.keypoint_refinement import RefinementConfig

REFINEMENT = {"is": "RefinementConfig", "layers": 1, "evidence": True}
INPUT = {"is": "InputConfig", "short_side": 96, "long_side": 128, "finer": 2}


def test_names_of_version_1_are_read_as_todays():
    found = upgraded_config({"is": "Any", "parts": [INPUT, {"deep": REFINEMENT}]}, 1)
    assert from_plain(LetterboxConfig, found["parts"][0]) == LetterboxConfig(96, 128, zoom=2)
    refinement = from_plain(RefinementConfig, found["parts"][1]["deep"])
    assert refinement == RefinementConfig(layers=1, local_features=True)
    old = (
        "pose_content.0.bias",
        "tasks.keypoints.refinement.evidence.1.weight",
        "tasks.x.evidence",
    )
    assert list(upgraded_state({name: torch.zeros(1) for name in old}, 1)) == [
        "priors.pose_content.0.bias",
        "tasks.keypoints.refinement.local_features.1.weight",
        "tasks.x.evidence",
    ]


def test_files_of_today_are_read_as_they_are():
    assert upgraded_config(REFINEMENT, FORMAT_VERSION) is REFINEMENT
    state = {"pose_content.0.bias": torch.zeros(1)}
    assert upgraded_state(state, FORMAT_VERSION) is state


def test_a_file_with_a_header_of_version_1_comes_out_upgraded(tmp_path):
    path = tmp_path / "old.safetensors"
    metadata = {"format": "humanquery", "format_version": "1", "config": json.dumps(INPUT)}
    save_file({"pose_content.2.bias": torch.ones(3)}, path, metadata)
    weights = read_weights(path)
    assert from_plain(LetterboxConfig, weights.config) == LetterboxConfig(96, 128, zoom=2)
    assert list(weights.state) == ["priors.pose_content.2.bias"]


def test_the_shipped_file_is_of_version_1_and_read_with_todays_names():
    path = shipped_weights()["hqnet-small"]
    with safe_open(path, framework="pt") as opened:
        assert opened.metadata()["format_version"] == "1"
    weights = read_weights(path)
    assert weights.config["input"]["zoom"] == 2
    assert weights.config["tasks"]["keypoints"]["refinement"]["local_features"] is True
    assert not [name for name in weights.state if name.startswith("pose_content")]
