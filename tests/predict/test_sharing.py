"""Repositories of models, against a hub that is a folder."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError

from humanquery.core.errors import CheckpointError, ConfigError
from humanquery.predict import sharing
from humanquery.predict.base import find_weights


class FakeHub:
    """Repositories as folders; takes what `huggingface_hub` is asked."""

    def __init__(self, folder: Path):
        self.folder, self.made = folder, {}

    def api(self, token=None):
        return SimpleNamespace(create_repo=self.create, upload_folder=self.upload)

    def create(self, repository, *, private, exist_ok):
        self.made[repository] = private
        (self.folder / repository).mkdir(parents=True, exist_ok=exist_ok)

    def upload(self, *, repo_id, folder_path, commit_message, allow_patterns):
        for name in allow_patterns:
            shutil.copy(Path(folder_path) / name, self.folder / repo_id / name)
        return SimpleNamespace(commit_url=f"hub/{repo_id}/commit/1")

    def download(self, repository, name, *, revision, library_name):
        path = self.folder / repository / name
        if not path.is_file() or revision not in (None, "main"):
            raise LocalEntryNotFoundError(f"{repository} is not there")
        return str(path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", fake.api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.download)
    return fake


def test_a_model_comes_back_from_the_hub_bit_for_bit(hub):
    assert sharing.push_to_hub("hqnet-small", "me/people") == "hub/me/people/commit/1"
    assert hub.made == {"me/people": True}, "private unless told otherwise"
    assert sorted(p.name for p in (hub.folder / "me/people").iterdir()) == sorted(sharing.FILES)
    predictor = sharing.from_pretrained("me/people", revision="main", device="cpu")
    assert predictor.path.read_bytes() == find_weights("hqnet-small").read_bytes()
    assert predictor.card["name"] == "hqnet-small"
    assert len(predictor.predict(torch.zeros(40, 60, 3).byte().numpy())) == 0


def test_a_folder_has_weights_config_and_a_card_with_licences(tmp_path):
    sharing.save_pretrained(None, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["library_name"] == "humanquery" and config["config"]["num_queries"] == 40
    _, head, text = (tmp_path / "m" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "humanquery"
    assert "# hqnet-small" in text and "for research only" in text and "box/ap: 0.5466" in text
    again = sharing.save_pretrained(None, tmp_path / "m")  # our own may be written again
    assert [path.name for path in again] == list(sharing.FILES)


def test_what_cannot_be_saved_is_told(tmp_path):
    with pytest.raises(ConfigError, match="is hqnet-small with other settings"):
        sharing.save_pretrained("hqnet-small-fast", tmp_path)
    with pytest.raises(ConfigError, match="give the weights that it was made from"):
        sharing.save_pretrained(tmp_path / "a.onnx", tmp_path)
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match="README.md: exists and is not ours"):
        sharing.save_pretrained(None, tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_repository_that_is_not_there_is_told_with_what_to_check(hub, monkeypatch):
    with pytest.raises(CheckpointError, match="me/nothing: neither a folder.*hf auth login"):
        sharing.from_pretrained("me/nothing")

    def refuses(*_, **__):
        raise OSError("401 Unauthorized")

    monkeypatch.setattr(hub, "create", refuses)
    with pytest.raises(CheckpointError, match="did not take it .401 Unauthorized.*may write"):
        sharing.push_to_hub(None, "me/people")


def test_a_folder_without_weights_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="model.safetensors: does not exist"):
        sharing.from_pretrained(tmp_path)
