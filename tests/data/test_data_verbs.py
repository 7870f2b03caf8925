"""The data verbs of the command line, as a user types them."""

import json

import pytest
from typer.testing import CliRunner

from humanquery.cli import app

PEOPLE = {
    "images": [{"id": 1, "file_name": "1.png", "height": 200, "width": 200}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [10, 10, 50, 50],
            "area": 2500,
            "iscrowd": 0,
            "gender": 1,
        }
    ],
    "categories": [{"id": 1, "name": "person"}],
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people.json").write_text(json.dumps(PEOPLE))
    return lambda *arguments: CliRunner().invoke(app, ["data", *arguments])


def test_check_of_a_sound_file_ends_well(run):
    result = run("check", "people.json")
    assert result.exit_code == 0 and "no errors" in result.output


def test_check_of_a_faulty_file_names_the_fault_and_fails(run, tmp_path):
    faulty = json.loads(json.dumps(PEOPLE))
    faulty["annotations"][0]["gender"] = 7
    (tmp_path / "people.json").write_text(json.dumps(faulty))
    result = run("check", "people.json")
    assert result.exit_code == 1 and "bad gender" in result.output and "1 errors" in result.output


def test_check_looks_at_the_pictures(run, tmp_path):
    result = run("check", "people.json", "--images", str(tmp_path))
    assert result.exit_code == 1 and "unreadable picture" in result.output


def test_stats_prints_a_table_and_says_where_the_plot_lies(run, tmp_path):
    pytest.importorskip("matplotlib")
    result = run("stats", "people.json", "--out", "stats")
    assert result.exit_code == 0 and "female" in result.output and "stats.png" in result.output
    assert (tmp_path / "stats" / "stats.png").exists()


def test_aggregate_votes_prints_the_agreement_but_not_every_person(run, tmp_path):
    (tmp_path / "votes.json").write_text('[{"person": "p", "groups": ["kid"], "ages": [7, 8, 9]}]')
    result = run("aggregate-votes", "votes.json", "--out", "ages.json")
    assert (
        result.exit_code == 0
        and '"age_5": 100.0' in result.output
        and '"people"' not in result.output
    )
    assert json.loads((tmp_path / "ages.json").read_text())["people"][0]["age"] == 8
