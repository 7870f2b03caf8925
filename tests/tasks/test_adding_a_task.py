"""docs/adding-a-task.md as it stands: its file, its labels, its command line."""

import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from humanquery.cli import app
from humanquery.core.code_files import import_file
from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.core.fields import FieldSpec
from humanquery.data.readers.coco import CocoSource, CocoSourceConfig
from humanquery.data.scenes.scenes import preset, write_scenes
from humanquery.engine.checkpoint import read_weights, save_weights
from humanquery.models.hqnet.hqnet import HQNet
from humanquery.recipes import find
from tests.commands.test_finetune import small_file_config

DOCS = Path(__file__).parents[2] / "docs" / "adding-a-task.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """hat.py, weights of a small model, and four people: hat, bare, null, no word."""
    folder = tmp_path_factory.mktemp("hats")
    (folder / "hat.py").write_text(re.search(r"```python\n(.*?)```", DOCS.read_text(), re.S)[1])
    torch.manual_seed(0)
    save_weights(folder / "small.safetensors", HQNet(small_file_config()), {"score_threshold": 0.0})
    path = write_scenes(preset("easy", seed=3, count=3), folder)
    content = json.loads(path.read_text())
    for person, hat in zip(content["annotations"], [1, False, None], strict=False):
        person["hat"] = hat
    path.write_text(json.dumps(content))
    return folder


def labels(folder: Path) -> Path:
    return next(folder.glob("*.json"))


def humanquery(*arguments: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output + repr(done.exception)


def test_the_file_of_the_docs_is_fine_tuned_and_predicts_by_the_command_line(folder, monkeypatch):
    monkeypatch.chdir(folder)
    humanquery(
        *("--import", "hat.py", "finetune", "--weights", "small.safetensors"),
        *("--data", str(labels(folder)), "--task", "WearsHat", "--steps", "1", "--out", "run"),
        *("--set", "engine.batch_size=1", "--set", "data.augment.canvas=(64, 64)"),
    )
    weights = folder / "run" / "model.safetensors"
    assert "tasks.hat.heads.0.weight" in read_weights(weights).state
    photo = next((folder / "images").iterdir())
    humanquery("predict", str(photo), "--weights", str(weights), "--score", "0", "--out", "found")
    found = json.loads((folder / "found" / f"{photo.stem}.json").read_text())
    assert found["persons"] and all(0 <= one["hat"] <= 1 for one in found["persons"])


def hat_spec(folder: Path) -> FieldSpec:
    return import_file(folder / "hat.py").HAT


def test_labels_are_read_by_the_key_of_the_field_and_null_is_nobody_looked(folder):
    source = CocoSource(CocoSourceConfig(str(labels(folder)), extra=(hat_spec(folder),)))
    ids = torch.cat([source.target(i).annotation_ids for i in range(len(source))])
    hats = [source.target(i).get("hat") for i in range(len(source))]
    value, valid = torch.cat([h.value for h in hats]), torch.cat([h.valid for h in hats])
    order = ids.argsort()
    assert valid[order].tolist() == [True, True] + [False] * (len(ids) - 2)
    assert value[order][:2].tolist() == [1.0, 0.0]


def test_labels_of_boxes_are_moved_with_the_person(folder):
    content = json.loads(labels(folder).read_text())
    content["annotations"][0]["badge"] = [1, 2, 3, 4]
    path = folder / "badges.json"
    path.write_text(json.dumps(content))
    source = CocoSource(CocoSourceConfig(str(path), extra=(FieldSpec("badge", "boxes"),)))
    place = source.image_ids.index(content["annotations"][0]["image_id"])
    badge = source.target(place).get("badge")
    assert badge.value[badge.valid].tolist() == [[1, 2, 4, 6]]
    width = source.target(place).image_size[1]
    mirrored = source.target(place).mirror().get("badge")
    assert mirrored.value[mirrored.valid].tolist() == [[width - 4, 2, width - 1, 6]]


@pytest.mark.parametrize("value", ["yes", [1], float("nan")])
def test_a_label_that_is_no_number_is_told(folder, tmp_path, value):
    content = json.loads(labels(folder).read_text())
    content["annotations"][0]["hat"] = value
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(content))
    config = CocoSourceConfig(str(path), extra=(hat_spec(folder),))
    with pytest.raises(AnnotationError, match=r"wrong.json: annotation .*'hat' is .*number"):
        CocoSource(config)


def test_a_kind_of_label_that_no_coco_file_has_is_told(folder):
    config = CocoSourceConfig(str(labels(folder)), extra=(FieldSpec("outline", "masks"),))
    with pytest.raises(ConfigError, match="'outline' is of kind 'masks'.*'row'"):
        CocoSource(config)


def test_a_recipe_in_a_file_of_ones_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from humanquery.recipes import find\n"
        "def short():\n    return find('hqnet_tiny_scenes')\n"
        "def none():\n    return 3\n"
    )
    assert find(f"{file}:short") == find("hqnet_tiny_scenes")
    with pytest.raises(ConfigError, match="no function 'none' that returns a Recipe"):
        find(f"{file}:none")
    with pytest.raises(ConfigError, match=r"other.py: no such file"):
        find(f"{tmp_path / 'other.py'}:short")


def test_a_file_that_fails_is_told_each_time(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("1 / 0")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"broken.py: running it failed: ZeroDivisionError"):
            import_file(file)
