"""The image, as far as it can be checked where no image can be fetched."""

import json
import re
import subprocess
import sys
import zipfile

import pytest
from typer.testing import CliRunner

from humanquery import cli
from tests.paths import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


def lines(word: str) -> list[str]:
    return re.findall(rf"^{word} (.+)$", DOCKERFILE, re.MULTILINE)


def copied() -> list[str]:
    words = [line.split() for line in lines("COPY") if not line.startswith("--from")]
    return [source for *sources, _ in words for source in sources]


def test_what_is_copied_is_there_and_not_ignored():
    allowed = (ROOT / ".dockerignore").read_text().split()
    for source in copied():
        assert (ROOT / source).exists() and f"!{source}" in allowed


def test_the_entry_point_is_a_verb_with_options_that_it_knows(monkeypatch):
    from humanquery.serve import run

    served = []
    monkeypatch.setattr(run, "serve", lambda place, config: served.append(place))
    program, *arguments = json.loads(lines("ENTRYPOINT")[0])
    assert program == "humanquery"
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    assert (served[0].host, str(served[0].port)) == ("0.0.0.0", lines("EXPOSE")[0])


def test_the_health_check_is_a_program_that_fails_where_nobody_answers():
    python, *arguments = json.loads(lines("HEALTHCHECK")[0].partition("CMD ")[2])
    code = arguments[1].replace(":8000", ":9")  # where nothing listens
    done = subprocess.run([sys.executable, arguments[0], code], capture_output=True, check=False)
    assert python == "python" and done.returncode == 1 and b"refused" in done.stderr


@pytest.mark.slow
def test_the_wheel_of_what_is_copied_holds_the_page_and_the_weights(tmp_path):
    import shutil

    for source in copied():
        place = tmp_path / "src" / source
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, place)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*command, str(tmp_path / "src")], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    page = {f.name for f in (ROOT / "humanquery/serve/page").iterdir()}
    assert {f"humanquery/serve/page/{name}" for name in page} <= set(names)
    assert "humanquery/weights/hqnet-small.safetensors" in names
