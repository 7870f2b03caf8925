"""PATH from the command line on tiny files: pretraining, the protocols, every evaluation."""

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from typer.testing import CliRunner

from humanquery.cli import app
from humanquery.commands.evaluate import evaluate
from humanquery.commands.finetune import finetune_path
from humanquery.commands.show import show
from humanquery.commands.train import train
from humanquery.core.errors import ConfigError
from humanquery.data.readers.crowdhuman import CrowdHumanConfig
from humanquery.engine.checkpoint import read_weights, save_weights
from humanquery.media.images import write_image
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models import build
from humanquery.models.path.config import DataSetConfig, DetectionHeadConfig, PathConfig
from humanquery.recipes import find
from humanquery.recipes import path as recipes
from humanquery.recipes.path_evaluations import CrowdEvaluation
from tests.models.path_small import small_config


def picture(path, size=(40, 24), value=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.random.default_rng(value).integers(0, 255, (*size, 3)).astype(np.uint8))


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder as data/, with a few pictures of every task, and a tiny backbone for all recipes."""
    root = tmp_path / "data"
    for part, everybody in (("train", range(1, recipes.PEOPLE + 1)), ("val/all_imgs", (71, 72))):
        for person in everybody:
            for camera in (1, 2):
                picture(root / f"reid/data/{part}/{person:03d}/{camera:02d}_1.png", value=person)
    rows = [
        {"file": f"{i}.png", "split": split, "gender": i % 2, "age_range": [16, 30],
         "attributes": ["hairLong"] * (i % 2)}
        for i, split in enumerate(("train", "train", "val", "val"))
    ]  # fmt: skip
    for i in range(4):
        picture(root / f"peta/images/{i}.png", value=i)
    (root / "peta/peta.json").write_text(json.dumps(rows))
    listed = {"classes": list(recipes.CLOTHES), "pictures": []}
    (root / "parsing/labels").mkdir(parents=True)
    for i, split in enumerate(("train", "val")):
        picture(root / f"parsing/images/{i}.png", value=i)
        labels = np.tile(np.arange(40, dtype=np.uint8)[:, None], (1, 24))
        Image.fromarray(labels, "L").save(root / f"parsing/labels/{i}.png")
        listed["pictures"].append({"file": str(i), "split": split})
    (root / "parsing/parsing.json").write_text(json.dumps(listed))
    crowd = root / "counting/crowd_princenarula_mini38/ShanghaiTech/part_B"
    for part in ("train_data", "test_data"):
        picture(crowd / part / "images/IMG_1.png", (60, 80))
        (crowd / part / "ground-truth").mkdir()
        inner = np.empty((1, 1), dtype=object)
        inner[0, 0] = np.array([(np.array([[9.0, 9.0]]), 1)], dtype=[("a", object), ("b", object)])
        scipy.io.savemat(crowd / part / "ground-truth/GT_IMG_1.mat", {"image_info": inner})
    photos(root / "people")
    monkeypatch.setenv("HUMANQUERY_DATA", str(root))
    monkeypatch.setattr(recipes, "SMALL", small_config().backbone)
    return root


def photos(folder):
    joints = [v for i in range(17) for v in (10 + i, 20 + 3 * i, 2)]
    for part in ("train", "val"):
        picture(folder / f"images/{part}.png", (90, 70))
        content = {
            "images": [{"id": 1, "file_name": f"{part}.png", "height": 90, "width": 70}],
            "categories": [{"id": 1, "name": "person"}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 10, 40, 75], "area": 3000,
                 "iscrowd": 0, "keypoints": joints, "num_keypoints": 17}
            ],
        }  # fmt: skip
        (folder / f"{part}.json").write_text(json.dumps(content))


def test_pretraining_protocols_and_every_evaluation_run(data, tmp_path):
    result = train("path_small", ["engine.steps=1"], tmp_path / "path")
    assert {name.split("/")[0] for name in result.evaluation} == {
        "pose", "attributes", "reid", "parsing",
    }  # fmt: skip
    assert result.evaluation["reid/mAP"] is not None and result.evaluation["pose/joints"] == 17
    assert 0 <= result.evaluation["attributes/mean_accuracy"] <= 1
    report = evaluate(result.weights, recipe="path_small")
    assert report.numbers() == pytest.approx(result.evaluation)
    assert "attributes" in report.table() and "mIoU" in report.table()
    with pytest.raises(ConfigError, match="no head for counting, which the recipe scores"):
        evaluate(result.weights, recipe="path_counting")
    before = read_weights(result.weights).state
    frozen = "backbone.patch_embed.proj.weight"
    for protocol, recipe, score in (
        ("head", "path_attributes", "attributes/mean_f1"),
        ("partial", "path_counting", "counting/mae"),
    ):
        tuned = finetune_path(result.weights, recipe, protocol, tmp_path / recipe, steps=1)
        assert tuned.evaluation[score] is not None
        after = read_weights(tuned.weights).state
        assert torch.equal(after[frozen], before[frozen])
        assert not any(name.startswith("projectors.") for name in after)
    again = finetune_path(
        result.weights, "path_counting", "partial", tmp_path / "path_counting", steps=1, resume=True
    )
    assert again.steps == 1


def test_the_command_line_names_what_a_protocol_needs(data, tmp_path):
    said = CliRunner().invoke(app, ["finetune", "--data", "path_reid", "--out", str(tmp_path),
                                    "--protocol", "head"])  # fmt: skip
    assert said.exit_code != 0 and "needs --weights" in said.output
    config = replace(small_config(), data_sets=small_config().data_sets[:1])
    weights = save_weights(tmp_path / "w.safetensors", build(config))
    with pytest.raises(ConfigError, match="--protocol heads: unknown. Did you mean 'head'"):
        finetune_path(weights, "path_reid", "heads", tmp_path)
    with pytest.raises(ConfigError, match="recipe hqnet_tiny_scenes: holds a HQNetConfig"):
        finetune_path(weights, "hqnet_tiny_scenes", "head", tmp_path)
    with pytest.raises(ConfigError, match="its model has a projector"):
        finetune_path(weights, "path_small", "head", tmp_path)


def test_steps_must_see_all_data_sets(data, tmp_path):
    with pytest.raises(ConfigError, match="got 3 for 4 data sets; expected a multiple"):
        train("path_small", ["engine.accumulate=3", "engine.steps=1"], tmp_path)


def test_crowds_are_scored_like_crowdhuman(tmp_path):
    line = {"ID": "a", "gtboxes": [{"tag": "person", "fbox": [2, 2, 20, 30], "extra": {}}]}
    (tmp_path / "val.odgt").write_text(json.dumps(line))
    picture(tmp_path / "a.jpg", (48, 32))
    config = CrowdHumanConfig(str(tmp_path / "val.odgt"), str(tmp_path))
    head = DataSetConfig("people", DetectionHeadConfig(2, 4, 2, 16, 2, 32))
    system = build(PathConfig((head,), small_config().backbone, None))
    evaluation = CrowdEvaluation(
        "people", source=config, letterbox=LetterboxConfig(canvas=(48, 32)), least_score=0.0
    )
    report = evaluation.run(system, None)
    assert report.values["people"] == 1 and 0 <= report.values["miss_rate"] <= 1
    assert "people" in report.table() and json.loads(report.to_json())["people/pictures"] == 1


def test_the_shares_and_names_of_the_small_recipe_fit_together():
    attributes = find("path_attributes").model.data_sets[0].head
    assert len(attributes.names) == len(attributes.positive_share) == 35
    assert len(recipes.CLOTHES) == 59


def test_a_recipe_without_joints_is_shown(data, capsys):
    show("path_reid")
    said = capsys.readouterr().out
    assert "skeleton none" in said and "heads" in said
