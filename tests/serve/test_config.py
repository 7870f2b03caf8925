"""Limits that make sense, and the verb that sets them."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from humanquery import cli
from humanquery.core.code_files import import_file
from humanquery.core.errors import ConfigError
from humanquery.serve import run
from humanquery.serve.config import ServiceConfig

runner = CliRunner()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0, expected more than 0"),
        ({"wait": -1}, "wait is -1, expected at least 0"),
        ({"seconds": 0}, "seconds is 0"),
        ({"queue": 3, "max_pictures": 2}, "a queue of 3 pictures cannot hold a batch of 4"),
        ({"queue": 8}, "or a list of 16"),
        ({"api_keys": ("short",)}, "fewer than 8 characters"),
    ],
)
def test_limits_that_contradict_themselves_are_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        ServiceConfig(**fields)


@pytest.fixture
def served(monkeypatch):
    """What the verb would serve."""
    asked = []
    monkeypatch.setattr(run, "serve", lambda place, config: asked.append((place, config)))
    monkeypatch.delenv("HUMANQUERY_API_KEYS", raising=False)
    return asked


def test_the_verb_speaks_in_units_of_people(served, tmp_path):
    (tmp_path / "keys").write_text("first-key-1\n\n second-key \n")
    options = ["--wait", "20", "--max-mb", "2.5", "--max-megapixels", "3", "--port", "9000"]
    options += ["--cors-origin", "https://a.example", "--api-keys", str(tmp_path / "keys")]
    done = runner.invoke(cli.app, ["serve", *options, "--no-page", "--workers", "3"])
    assert done.exit_code == 0, done.output
    ((place, config),) = served
    assert (place.port, place.workers, place.host) == (9000, 3, "127.0.0.1")
    assert (config.wait, config.max_bytes, config.max_pixels) == (0.02, 2_500_000, 3_000_000)
    assert config.api_keys == ("first-key-1", "second-key") and not config.page
    assert config.cors_origins == ("https://a.example",) and not config.allow_urls


def test_keys_may_come_from_the_environment(served, monkeypatch):
    monkeypatch.setenv("HUMANQUERY_API_KEYS", "first-key-1, second-key")
    assert runner.invoke(cli.app, ["serve"]).exit_code == 0
    assert served[0][1].api_keys == ("first-key-1", "second-key")


def test_a_file_without_keys_does_not_open_the_door(served, tmp_path):
    (tmp_path / "keys").write_text("\n")
    for file, said in (("keys", "holds no API key"), ("missing", "cannot be read")):
        done = runner.invoke(cli.app, ["serve", "--api-keys", str(tmp_path / file)])
        assert isinstance(done.exception, ConfigError) and said in str(done.exception)
    assert not served


def test_weights_that_are_not_there_are_told_before_anything_starts(served):
    done = runner.invoke(cli.app, ["serve", "--weights", "nothing.safetensors"])
    assert "no such weights file" in str(done.exception) and not served


def test_several_workers_learn_from_their_environment_what_they_serve(monkeypatch, tmp_path):
    started = {}
    monkeypatch.setattr(run.uvicorn, "run", lambda app, **options: started.update(options))
    for name in (run.SETTINGS, run.SHARED, "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    (tmp_path / "hat.py").write_text("")
    import_file(tmp_path / "hat.py")
    config = ServiceConfig(api_keys=("first-key-1",), queue=20)
    run.serve(run.Place(weights="hqnet-small", workers=2), config)
    assert started["workers"] == 2 and started["factory"]
    assert int(os.environ["OMP_NUM_THREADS"]) == max((os.cpu_count() or 1) // 2, 1)
    said = json.loads(os.environ[run.SETTINGS])
    assert said["weights"] == "hqnet-small"
    assert str(tmp_path / "hat.py") in said["imports"], "what --import ran is run there too"
    monkeypatch.setenv(run.SHARED, str(tmp_path))  # the folder is gone with the parent
    made, create = {}, run.create_app
    keep = lambda load, config: made.update(config=config) or create(load, config)  # noqa: E731
    monkeypatch.setattr(run, "create_app", keep)
    assert run.worker().title == "humanquery" and made["config"] == config


def test_without_the_extra_it_says_what_to_install():
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from humanquery import cli; sys.argv = ['humanquery', 'serve']; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "pip install 'humanquery[serve]'" in done.stderr
