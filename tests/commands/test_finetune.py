"""Fine-tuning as a stranger does it: a file of weights, a COCO file of one's own, nothing else."""

import json
from dataclasses import replace

import pytest
import torch

from humanquery.backbones import TimmBackbone
from humanquery.commands.finetune import finetune
from humanquery.core.errors import CheckpointError, ConfigError
from humanquery.data.scenes.scenes import preset, write_scenes
from humanquery.engine.checkpoint import read_weights, save_weights
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models.attributes.config import AttributesConfig
from humanquery.models.attributes.system import Attributes
from humanquery.models.hqnet.config import HQNetConfig
from humanquery.models.hqnet.hqnet import HQNet
from humanquery.predict import load
from tests.models.small import small_config

QUICK = ["engine.batch_size=2", "data.augment.canvas=(64, 64)", "engine.optim.lr=0.001"]


def small_file_config() -> HQNetConfig:
    """Of a small model that a file of weights rebuilds."""
    backbone = TimmBackbone(
        "test_resnet", options={"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}
    )
    return replace(small_config(), backbone=backbone, input=LetterboxConfig(64, 64))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    return save_weights(path, HQNet(small_file_config()))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    return json.loads(write_scenes(preset("easy", seed=3, count=3), folder).read_text()), folder


def kept(scenes, name: str, keys: tuple[str, ...], category: dict):
    """The scenes with only these labels."""
    content, folder = scenes
    people = [{k: a[k] for k in (*BOXES, *keys) if k in a} for a in content["annotations"]]
    path = folder / name
    category = {"id": content["categories"][0]["id"], "name": "person", **category}
    path.write_text(json.dumps({**content, "annotations": people, "categories": [category]}))
    return path


BOXES = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")


def test_boxes_alone_leave_the_other_heads_as_they_were(weights, scenes, tmp_path):
    data = kept(scenes, "boxes.json", (), {})
    result = finetune(weights, data, tmp_path / "run", steps=2, overrides=QUICK)
    before, after = read_weights(weights).state, read_weights(result.weights).state
    changed = {n.split(".")[1] for n in after if n.startswith("tasks.") and moved(n, before, after)}
    assert "box" in changed and not changed & {"gender", "age", "mask"}
    assert not any(
        moved(n, before, after) for n in after if n.startswith(("backbone.", "encoder."))
    )
    assert read_weights(result.weights).card["started_from"]["weights"] == "mine.safetensors"


def moved(name, before, after) -> bool:
    return not torch.allclose(before[name].float(), after[name].float(), atol=1e-7)


def test_five_joints_of_ones_own_are_learned_drawn_and_loaded(weights, scenes, tmp_path):
    content, _ = scenes
    names = ["hat", "nose", "left_wrist", "right_wrist", "tail"]
    joints = {"keypoints": names, "skeleton": [[1, 2], [3, 4]]}
    for person in content["annotations"]:
        flat = person["keypoints"]
        person["mine"] = [*flat[:3], *flat[:3], *flat[27:30], *flat[30:33], 0, 0, 0]
    data = kept(scenes, "five.json", ("mine",), joints)
    text = json.loads(data.read_text())
    for person in text["annotations"]:
        person["keypoints"] = person.pop("mine")
    data.write_text(json.dumps(text))
    result = finetune(weights, data, tmp_path / "run", val=data, steps=2, overrides=QUICK)
    assert "keypoints/ap" in result.evaluation
    people = load(result.weights, "cpu").predict(data.parent / "images" / first(text), score=0.0)
    assert people.skeleton.joints == tuple(names) and people.keypoints.shape[1] == 5
    assert people.draw().shape[2] == 3


def first(content: dict) -> str:
    return content["images"][0]["file_name"]


def test_what_cannot_be_fine_tuned_says_why(weights, scenes, tmp_path):
    data = kept(scenes, "boxes.json", (), {})
    with pytest.raises(CheckpointError, match="no weights named 'hqnet-smal'.*hqnet-small"):
        finetune("hqnet-smal", data, tmp_path / "run")
    attributes = AttributesConfig(backbone=replace(AttributesConfig().backbone, pretrained=False))
    path = save_weights(tmp_path / "attributes.safetensors", Attributes(attributes))
    with pytest.raises(ConfigError, match="only an HQNet can be fine-tuned like this"):
        finetune(path, data, tmp_path / "run")
