"""Recipes of the pixel-wise regressor: the paper's numbers, and the tiny one from training to
pictures."""

import pytest
from rich.console import Console

from humanquery.commands.evaluate import evaluate
from humanquery.commands.show import attend, show
from humanquery.commands.train import train
from humanquery.core.errors import ConfigError
from humanquery.data.scenes.scenes import Scenes
from humanquery.media.images import write_image
from humanquery.predict import load
from humanquery.recipes import find

QUICK = ["engine.steps=2", "engine.batch_size=2", "engine.log_every=1", "data.val.count=2"]


def test_the_papers_recipe_has_the_papers_numbers():
    for name, side in (("pixelwise_w32", 512), ("pixelwise_w48", 640)):
        recipe = find(name)
        square, optim = recipe.data.augment.square, recipe.engine.optim
        assert (square.side, square.scale, square.rotation, square.shift) == (
            side,
            (0.75, 1.5),
            30.0,
            40.0,
        )
        assert recipe.data.augment.mirror == 0.5 and recipe.model.input.short_side == side
        assert recipe.model.target.radius == 4 and recipe.model.loss.background == 0.1
        assert recipe.model.loss.score == recipe.model.loss.displacement == 1
        assert recipe.model.keypoints.semantic_points == 9
        assert recipe.model.instance.label == "cir"
        assert optim.lr == 5e-4 and optim.gamma == 0.1 and optim.weight_decay == 0
        epoch = recipe.engine.steps / 180
        assert [round(m * recipe.engine.steps / epoch) for m in optim.milestones] == [150, 170]
        assert recipe.engine.batch_size * 8 == 64


def test_the_tiny_recipe_trains_scores_and_finds_people_in_a_picture(tmp_path):
    result = train("pixelwise_tiny_scenes", QUICK, tmp_path / "run")
    report = evaluate(
        result.weights, recipe="pixelwise_tiny_scenes", overrides=["data.val.count=2"], device="cpu"
    )
    assert {"box", "keypoints"} <= report.families.keys()
    predictor = load(result.weights, device="cpu")
    scene = Scenes(find("pixelwise_tiny_scenes").data.val)[0]
    people = predictor.predict(scene.image, score=0.0)
    assert len(people) and people.keypoints.shape[1:] == (17, 2)
    assert predictor.predict(scene.image, score=0.0, tasks=["box"]).keypoints is None
    assert people.draw(scene.image).shape == scene.image.shape
    write_image(tmp_path / "scene.png", scene.image)
    with pytest.raises(ConfigError, match="holds a PixelWise; attend shows where the queries of"):
        attend(str(tmp_path / "scene.png"), tmp_path / "out.png", str(result.weights), 0.3, "cpu")


def test_a_recipe_is_shown_with_what_it_gives_and_its_parts():
    console = Console(record=True, width=120)
    show("pixelwise_tiny_scenes", console=console)
    said = console.export_text()
    assert "PixelWise, gives boxes, keypoints" in said
    for part in ("backbone", "keypoints", "instance"):
        assert part in said
