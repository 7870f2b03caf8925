"""No option of `humanquery evaluate` is ignored: it is used, or refused by name."""

import json

import pytest
from typer.testing import CliRunner

from humanquery import cli
from humanquery.commands.evaluate import USED_OPTIONS, evaluate, mode_of, refuse_unused
from humanquery.core.errors import ConfigError
from tests.data.coco_files import person, write_file

VALUES = {
    "weights": "a.safetensors",
    "images": "photos",
    "recipe": "hqnet_small",
    "set": ["a=1"],
    "limit": 3,
    "device": True,
    "rules": True,
    "motion-only": True,
}


@pytest.mark.parametrize("mode", list(USED_OPTIONS))
@pytest.mark.parametrize("name", list(VALUES))
def test_every_option_is_used_or_refused_by_name(mode, name):
    given = dict.fromkeys(VALUES) | {name: VALUES[name]}
    if name in USED_OPTIONS[mode]:
        refuse_unused(mode, given)
    else:
        with pytest.raises(ConfigError, match=f"evaluating {mode} does not use --{name}; it takes"):
            refuse_unused(mode, given)


def test_what_is_scored_follows_from_task_and_results():
    assert mode_of("people", False) == "people"
    assert mode_of("people", True) == mode_of("results", True) == "results"
    assert mode_of("crowdpose", True) == "results by crowd"
    assert mode_of("tracking", True) == "results of tracking"
    with pytest.raises(ConfigError, match="--task poses: expected people, tracking, results or"):
        mode_of("poses", False)


def test_options_that_contradict_each_other_are_told(tmp_path):
    with pytest.raises(ConfigError, match="--set a=1: changes a recipe; give --recipe too"):
        evaluate(None, annotations=tmp_path / "a.json", overrides=["a=1"])
    with pytest.raises(ConfigError, match="--images .*: belongs to --data"):
        evaluate(None, recipe="hqnet_small", images=tmp_path)
    with pytest.raises(ConfigError, match="--limit 2: attributes_small is scored on several"):
        evaluate(None, recipe="attributes_small", limit=2)


def test_the_first_pictures_of_a_results_file_can_be_scored_alone(tmp_path):
    truth = write_file(tmp_path, [person(1), person(2, image_id=2)], pictures=2)
    row = {"image_id": 1, "category_id": 1, "bbox": [10, 5, 20, 30], "score": 0.9}
    (tmp_path / "found.json").write_text(json.dumps([row]))
    arguments = ["evaluate", "--data", truth, "--results", str(tmp_path / "found.json")]
    one = CliRunner().invoke(cli.app, [*arguments, "--limit", "1"])
    assert one.exit_code == 0 and "1 pictures, 1 people" in one.output
    both = CliRunner().invoke(cli.app, arguments)
    assert both.exit_code == 0 and "2 pictures, 2 people" in both.output
    refused = CliRunner().invoke(cli.app, [*arguments, "--device", "cpu"])
    assert refused.exit_code and "does not use --device" in f"{refused.output}{refused.exception}"
