"""Which file may import which: ranks of the layout, read from the syntax trees."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "humanquery"
RANKS = {"core": 0}
RANKS |= dict.fromkeys(
    ["ops", "nn", "losses", "media", "data", "evaluation", "tracking", "draw", "blur", "cut_out"], 1
)
RANKS |= dict.fromkeys(["backbones", "experts", "engine", "interop"], 2)
RANKS |= {
    "tasks": 3,
    "models": 4,
    "predict": 5,
    "export": 5,
    "recipes": 6,
    "commands": 7,
    "cli": 8,
    "cli_options": 7,
    "cli_data": 8,
    "cli_predict": 8,
    "cli_serve": 8,
    "cli_wholebody": 8,
    "serve": 7,
    "__main__": 9,
}
SIBLINGS = [
    ("data", "media"),
    ("draw", "media"),
    ("experts", "backbones"),
    ("export", "predict"),
    ("losses", "nn"),
    ("losses", "ops"),
    ("nn", "ops"),
    ("cli", "cli_data"),
    ("cli", "cli_predict"),
    ("cli", "cli_serve"),
    ("cli", "cli_wholebody"),
]
"""of the same rank, yet the first may import the second"""
ALLOWED = {
    ("core/persons.py", "draw"),
    ("core/persons.py", "interop"),
    ("core/masks.py", "ops"),
}
"""`Persons.draw` opens the painter when it is called, `to_pandas` the tables, masks look for their
coder in C when they are coded"""
WITHOUT_LOSSES = {"experts", "predict", "export", "nn"}
FORBIDDEN_NAMES = {"utils", "util", "misc", "common", "helpers", "helper"}
MAX_LINES = 600

FILES = sorted(PACKAGE.rglob("*.py"))


def _imported(tree: ast.AST, file: Path) -> set[tuple[int, str]]:
    """(line, module inside humanquery with dots) of every import, also those inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(node.lineno, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            here = ["humanquery", *file.relative_to(PACKAGE).parts[:-1]]
            base = here[: len(here) - node.level + 1] + (
                node.module.split(".") if node.module else []
            )
            found |= {(node.lineno, ".".join([*base, alias.name])) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.lineno, f"{node.module}.{alias.name}") for alias in node.names}
    return {
        (line, name.removeprefix("humanquery."))
        for line, name in found
        if name.startswith("humanquery.")
    }


def _folder(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py")


def broken_imports(file: Path, text: str) -> list[str]:
    """One sentence per import that the layout forbids."""
    place = file.relative_to(PACKAGE)
    if place.name == "__init__.py" and len(place.parts) == 1:
        return []
    home = _folder(place.parts)
    if home not in RANKS:
        return [f"{place}: {home!r} has no rank; add it to RANKS"]
    broken = []
    for line, module in sorted(_imported(ast.parse(text), file)):
        target = module.split(".")[0]
        if target == "__version__":
            continue
        if target not in RANKS:  # a name of humanquery/__init__.py
            broken.append(
                f"{place}:{line} imports humanquery.{target}, which is no folder of the package"
            )
        elif home == target == "models":
            model, other = place.parts[1], (module.split(".") + [""])[1]
            if (
                len(place.parts) > 2 and model != other
            ):  # files beside the folders may look into all of them
                broken.append(
                    f"{place}:{line} imports models.{other}: models do not import each other"
                )
        elif (
            home != target and RANKS[target] >= RANKS[home] and (str(place), target) not in ALLOWED
        ):
            if (home, target) not in SIBLINGS:
                broken.append(
                    f"{place}:{line} (rank {RANKS[home]}) imports {module} (rank {RANKS[target]}); "
                    "a file imports only from a lower rank or its own folder"
                )
        elif home in WITHOUT_LOSSES and target == "losses":
            broken.append(
                f"{place}:{line} imports {module}: what predicts does not need what only trains"
            )
        elif home == "engine" and target in ("models", "tasks"):
            broken.append(f"{place}:{line} imports {module}: the engine knows no concrete model")
    return broken


def test_every_file_imports_only_from_below():
    broken = [line for file in FILES for line in broken_imports(file, file.read_text())]
    assert not broken, "\n" + "\n".join(broken)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "core/boxes.py",
            "from humanquery.ops import deform",
            "core/boxes.py:1 .rank 0. imports ops.deform .rank 1.",
        ),
        (
            "data/readers/coco.py",
            "from humanquery.evaluation.coco_ap import ap",
            "imports evaluation.coco.ap",
        ),
        (
            "evaluation/coco.py",
            "def f():\n    import humanquery.data.readers.coco",
            "coco.py:2 .rank 1. imports data.readers.coco",
        ),
        (
            "engine/loop.py",
            "from humanquery.models.hqnet import HQNet",
            "imports models.hqnet.HQNet",
        ),
        (
            "models/path/net.py",
            "from humanquery.models.hqnet.model import x",
            "models do not import each other",
        ),
        ("models/path/net.py", "from ..hqnet import model", "models do not import each other"),
        (
            "losses/people.py",
            "from humanquery import load",
            "imports humanquery.load, which is no folder",
        ),
        (
            "predict/predictor.py",
            "from humanquery.losses.shapes import dice",
            "predictor.py:1 imports losses.shapes.dice: what predicts",
        ),
        ("new/file.py", "", "'new' has no rank"),
    ],
)
def test_a_broken_import_is_told_with_file_and_line(file, text, message):
    import re

    assert re.search(message, broken_imports(PACKAGE / file, text)[0])


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("core/persons.py", "from humanquery.draw import draw"),
        ("models/hqnet/model.py", "from humanquery.models.hqnet.decoder import Decoder"),
        ("models/hqnet/model.py", "from .decoder import Decoder"),
        ("losses/boxes.py", "from humanquery.core.boxes import giou\nimport torch"),
        ("cli.py", "from humanquery.recipes import hqnet"),
    ],
)
def test_imports_from_below_are_fine(file, text):
    assert broken_imports(PACKAGE / file, text) == []


def test_no_file_is_named_after_nothing():
    vague = [p for p in PACKAGE.rglob("*") if p.stem.lower() in FORBIDDEN_NAMES]
    assert not vague, f"{vague}: say what it holds"


def test_every_file_can_be_read_in_one_sitting():
    long = {
        str(f.relative_to(PACKAGE)): n
        for f in FILES
        if (n := len(f.read_text().splitlines())) > MAX_LINES
    }
    assert not long, f"more than {MAX_LINES} lines: {long}"


def test_annotations_are_not_turned_into_strings():
    late = [f.name for f in FILES if "from __future__ import annotations" in f.read_text()]
    assert not late, (
        f"{late}: shapes in signatures are checked at run time in the tests; keep annotations real"
    )
