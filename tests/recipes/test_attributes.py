"""The recipe of the attribute model: trains, resumes, is scored, shipped, and refused where an
HQNet is wanted."""

import json
from dataclasses import replace

import pytest

from humanquery.commands.evaluate import evaluate
from humanquery.commands.ship import ship
from humanquery.commands.show import show
from humanquery.commands.train import train
from humanquery.core.config import from_plain
from humanquery.core.errors import CheckpointError, ConfigError
from humanquery.data.augment.person_crops import RegionAugmentConfig, RegionsConfig
from humanquery.data.loading.loader import MixConfig, MixPart
from humanquery.data.readers.coco import CocoSourceConfig
from humanquery.data.readers.crops import PetaConfig
from humanquery.engine.checkpoint import read_weights
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models import SystemConfig
from humanquery.models.attributes.config import AttributesConfig
from humanquery.models.hqnet.config import HQNetConfig
from humanquery.predict import load
from humanquery.recipes import RECIPES, Recipe, find
from humanquery.recipes.attributes import load_attributes, score_source
from humanquery.recipes.recipe import DataConfig, ValPart
from tests.data.coco_files import person, write_file
from tests.data.test_crops import crop_folder
from tests.models.test_attribute_system import CONFIG


def small(folder) -> Recipe:
    """The recipe with a tiny network and made-up pictures."""
    people = [
        person(1, gender=1, age=30),
        person(2, image_id=2, box=(2, 2, 30, 40), age_range=[20, 40]),
    ]
    photos = CocoSourceConfig(
        write_file(folder / "people", people, pictures=2), fields=("gender", "age")
    )
    (folder / "peta").mkdir()
    peta = crop_folder(folder / "peta")
    recipe = find("attributes_small")
    parts = (MixPart(RegionsConfig(photos)), MixPart(RegionsConfig(PetaConfig(peta))))
    data = DataConfig(
        train=MixConfig(parts),
        val=photos,
        augment=RegionAugmentConfig(canvas=(64, 64)),
        letterbox=LetterboxConfig(64, 64),
        also_val=(ValPart("peta", PetaConfig(peta, "val"), LetterboxConfig(64, 64)),),
    )
    engine = replace(
        recipe.engine, steps=3, batch_size=4, num_workers=0, precision="fp32", tensorboard=False
    )
    return replace(recipe, model=CONFIG, data=data, engine=engine)


def test_it_trains_resumes_is_scored_and_shipped_by_name(tmp_path, monkeypatch):
    recipe = small(tmp_path)
    monkeypatch.setitem(RECIPES, "attributes_small", lambda: recipe)
    train("attributes_small", ["engine.steps=2"], tmp_path / "run")
    # a cosine over three steps is another schedule than one over two
    result = train("attributes_small", [], tmp_path / "run", resume=True, allow_changes=True)
    assert result.steps == 3
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    scores = [line["evaluation"] for line in lines if "evaluation" in line][-1]
    assert (
        scores["people/genders"] == 1
        and scores["people/intervals"] == 1
        and scores["peta/genders"] == 1
    )
    ship(result.weights, tmp_path / "attributes.safetensors")
    read = read_weights(tmp_path / "attributes.safetensors")
    assert {name.split(".")[0] for name in read.state} == {"backbone", "regions"}
    assert isinstance(from_plain(SystemConfig, read.config), AttributesConfig)
    report = evaluate(tmp_path / "attributes.safetensors", recipe="attributes_small")
    assert report.parts["people"].ages == 1 and "peta" in report.table()


def test_score_source_counts_everybody_in_true_boxes_of_pictures_of_any_size(tmp_path):
    recipe = small(tmp_path)
    from humanquery.models import build

    scores = score_source(
        build(recipe.model).eval(), recipe.data.val, LetterboxConfig(40, 96), batch_size=2
    )
    assert (scores.genders, scores.ages, scores.intervals) == (1, 1, 1)


def test_an_attribute_model_is_refused_where_people_must_be_found_and_the_other_way_round(tmp_path):
    from humanquery.engine.checkpoint import save_weights
    from humanquery.models import build
    from tests.models.small import small_config

    path = save_weights(tmp_path / "a.safetensors", build(CONFIG))
    with pytest.raises(CheckpointError, match="reads people in given boxes and finds nobody"):
        load(path)
    with pytest.raises(CheckpointError, match="no attribute model is shipped"):
        load_attributes(None)
    with pytest.raises(ConfigError, match="attributes_small: trains gender and age on known boxes"):
        show("attributes_small")
    other = replace(small_config(), backbone=replace(CONFIG.backbone))
    assert isinstance(other, HQNetConfig)
    hqnet = save_weights(tmp_path / "h.safetensors", build(other))
    with pytest.raises(CheckpointError, match="holds HQNet, expected an attribute model"):
        load_attributes(hqnet)
