"""What the documents name exists."""

import re

import pytest

from tests.paths import ROOT

DOCS = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]


def test_every_function_and_test_of_the_equations_page_exists():
    names = re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "docs" / "equations.md").read_text())
    assert len(names) > 50
    missing = []
    for file, name in names:
        path = ROOT / file if file.startswith("tests/") else ROOT / "humanquery" / file
        if not path.exists() or not re.search(
            rf"^(def|class) {name}\b", path.read_text(), re.MULTILINE
        ):
            missing.append(f"{file}::{name}")
    assert not missing, missing


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#]+)", prose) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing, missing


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    """But in the notebook and the changelog, which speak of the past."""
    if page.name in ("EXPERIMENTS.md", "CHANGELOG.md"):
        pytest.skip("history")
    rooms = sorted(path.name for path in (ROOT / "humanquery").iterdir() if path.is_dir())
    named = re.findall(rf"`((?:humanquery/)?(?:{'|'.join(rooms)})/[\w/]+\.py)", page.read_text())
    named += [
        f"{m}.py" for m in re.findall(r"`((?:tests|benchmarks)/[\w/]+)\.py", page.read_text())
    ]
    homes = (ROOT, ROOT / "humanquery")
    missing = [name for name in named if not any((home / name).exists() for home in homes)]
    assert not missing, missing
