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
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing, missing
