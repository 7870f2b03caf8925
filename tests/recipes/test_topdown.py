"""Top-down models by recipe: people one by one, trained and scored per part."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from humanquery.commands.evaluate import evaluate
from humanquery.commands.train import train
from humanquery.core.errors import AnnotationError, CheckpointError, ConfigError
from humanquery.core.skeleton import Skeleton
from humanquery.data.augment.person_samples import PersonSampleConfig
from humanquery.data.loading.loader import MixConfig, TrainLoader
from humanquery.data.readers.persons import PersonsConfig, PersonSource, checked_layout
from humanquery.engine.train_config import EngineConfig
from humanquery.evaluation.whole_body_report import part_errors
from humanquery.models import build
from humanquery.models.topdown.config import LiteHRNetConfig, TopDownConfig
from humanquery.recipes import find
from humanquery.recipes.poses_in_boxes import PosesInBoxes
from humanquery.recipes.recipe import DataConfig, Recipe

WHOLE = Skeleton.named("coco_wholebody133")
SIZE = (64, 32)


@pytest.fixture
def labels(tmp_path):
    """Two pictures: a whole body, one with a body alone, a crowd, and one without joints."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in (1, 2):
        pixels = rng.integers(0, 255, (80, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{i}.png")
    fields = {"foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}

    def person(i, image, joints=17, **more):
        flat = np.concatenate([rng.uniform(12, 48, (17, 2)), np.full((17, 1), 2.0)], 1)
        flat[joints:] = 0
        common = {"id": i, "image_id": image, "category_id": 1, "iscrowd": 0, "area": 1600}
        common |= {"bbox": [10, 10, 40, 40], "keypoints": flat.ravel().tolist()}
        return common | {"num_keypoints": joints} | more

    parts = {
        name: np.concatenate([rng.uniform(15, 45, (n, 2)), np.ones((n, 1))], 1).ravel().tolist()
        for name, n in fields.items()
    }
    people = [
        person(1, 1, **parts),
        person(2, 2),
        person(3, 2, iscrowd=1),
        person(4, 2, joints=0),
    ]
    images = [{"id": i, "file_name": f"{i}.png", "height": 80, "width": 60} for i in (1, 2)]
    path = tmp_path / "people.json"
    categories = [{"id": 1, "name": "person"}]
    path.write_text(json.dumps({"images": images, "annotations": people, "categories": categories}))
    return path


def recipe(labels) -> Recipe:
    persons = PersonsConfig(str(labels))
    return Recipe(
        model=TopDownConfig(
            network=LiteHRNetConfig(width=8, modules=(1, 1, 1), detail=4),
            skeleton="coco_wholebody133",
            input_size=SIZE,
            joints_by="combined",
            flip_test=False,
        ),
        data=DataConfig(
            train=MixConfig.of(persons),
            val=persons,
            augment=PersonSampleConfig(size=SIZE, proposals=True),
        ),
        engine=EngineConfig(steps=2, batch_size=2, device="cpu", tensorboard=False),
        evaluations=(PosesInBoxes(),),
    )


def test_people_come_one_by_one_with_the_parts_that_are_labelled(labels):
    source = PersonSource(PersonsConfig(str(labels)))
    assert len(source) == 2 and source.by_picture() == {1: [0], 2: [1]}
    whole, body = source[0], source[1]
    assert whole.image.shape == (80, 60, 3) and len(whole.target) == 1
    assert int(whole.target.counted_joints.sum()) == 133
    assert int(body.target.counted_joints.sum()) == 17
    assert source.row(1)["keypoints"][:2] == pytest.approx(source.people[1]["keypoints"][:2])
    assert source.path(2).name == "2.png"


def test_a_file_in_which_nobody_is_left_and_an_unknown_layout_are_refused(labels):
    with pytest.raises(AnnotationError, match="nobody of 4 annotations has 1 labelled joints"):
        PersonSource(PersonsConfig(str(labels), smallest=100.0))
    content = json.loads(labels.read_text())
    content["annotations"][0]["image_id"] = 77
    labels.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match="annotation 1 is of picture 77"):
        PersonSource(PersonsConfig(str(labels)))
    with pytest.raises(ConfigError, match="layout 'coco_wholebdy': unknown"):
        checked_layout("coco_wholebdy")


def test_the_loader_gives_crops_of_one_person_each(labels):
    config = recipe(labels).data
    batch = next(TrainLoader(config.train, config.augment, 4, seed=1).batches())
    assert batch.images.shape == (4, 3, *SIZE)
    assert all(len(target) == 1 and target.skeleton == WHOLE for target in batch.targets)


def test_a_model_is_trained_saved_and_scored_on_every_part(labels, tmp_path):
    trained = train(recipe(labels), [], tmp_path / "run")
    scores = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    report = PosesInBoxes().run(build(recipe(labels).model), recipe(labels).data)
    assert set(report.families) == {*WHOLE.parts, "whole"}
    assert report.errors["face"].people == 1 and report.errors["body"].people == 2
    assert report.errors["face"].mean > 0
    assert "righthand" in report.table() and json.loads(report.to_json())["people"] == 2
    assert trained is not None and scores
    weights = tmp_path / "run/model.safetensors"
    with pytest.raises(ConfigError, match="--limit 3"):
        evaluate(weights, recipe="wholebody_small", limit=3)
    with pytest.raises(CheckpointError, match="holds HQNet, expected a top-down model"):
        evaluate("hqnet-small", recipe="wholebody_small")


def test_an_error_is_a_distance_in_sizes_of_the_part():
    joints = torch.zeros(17, 3)
    joints[:, 0] = torch.arange(17) * 3.0
    joints[:, 1] = torch.arange(17) * 4.0
    joints[:, 2] = 2
    true = {"keypoints": joints.flatten().tolist()}
    joints[:, 0] += 8.0  # the diagonal is 16 * 5 = 80
    found = {"keypoints": joints.flatten().tolist()}
    skeleton = replace(Skeleton.named("coco17"), parts={"body": (0, 17)})
    error = part_errors([true], [found], skeleton)["body"]
    assert (error.people, error.mean, error.median) == (1, 0.1, 0.1)
    none = {"keypoints": [0.0] * 51}
    assert part_errors([none], [found], skeleton)["body"].mean is None


def test_the_recipe_learns_133_joints_beside_the_frozen_network():
    chosen = find("wholebody_small")
    assert chosen.model.skeleton == "coco_wholebody133"
    assert chosen.engine.optim.only == ("network.detail.",)
