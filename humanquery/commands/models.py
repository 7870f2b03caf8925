"""Which models can be loaded by name, from what their files say."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from humanquery.engine.checkpoint import read_card
from humanquery.evaluation.people_report import MAIN_NUMBERS
from humanquery.predict.base import DEFAULT, VARIANTS, shipped_weights

NOTES = {"hqnet-small-fast": "looks for joints at one size: faster, worse joints"}
"""of variants, whose scores are not those of the card; docs/model-card.md has their numbers"""


@dataclass(frozen=True)
class ModelFacts:
    """What a shipped weights file says of itself."""

    name: str
    megabytes: float
    outputs: tuple[str, ...]
    """tasks besides the score"""
    scores: dict[str, float]
    """in the names of `EvaluationReport.numbers`; none for a variant"""
    licence: str
    note: str = ""


def shipped_models(folder: dict[str, Path] | None = None) -> list[ModelFacts]:
    """Every model that `load` knows by name, the default first, then its variants; `folder`: names
    and files, by default those that ship."""
    files = shipped_weights() if folder is None else folder
    found = []
    for name, path in sorted(files.items(), key=lambda item: (item[0] != DEFAULT, item[0])):
        facts = _facts(name, path)
        found.append(facts)
        found += [
            ModelFacts(variant, facts.megabytes, facts.outputs, {}, facts.licence, NOTES[variant])
            for variant, (base, _) in VARIANTS.items()
            if base == name
        ]
    return found


def _facts(name: str, path: Path) -> ModelFacts:
    config, card = read_card(path)
    tasks = config.get("tasks") or {}
    outputs = tuple(t for t, of in tasks.items() if t not in ("is", "person") and of is not None)
    given: dict[str, Any] = card.get("scores") or {}
    scores = {key: given[key] for key in MAIN_NUMBERS if given.get(key) is not None}
    licences = card.get("licences")
    licence = licences.get("weights", "") if isinstance(licences, dict) else str(licences or "")
    return ModelFacts(name, path.stat().st_size / 1e6, outputs, scores, licence or "not said")


def print_models(models: list[ModelFacts], console: Console | None = None) -> None:
    """The models as a table."""
    console = console or Console()
    table = Table("name", "size", "gives", "scores of its card", "licence of the weights")
    for model in models:
        scores = ", ".join(f"{name} {value:.3f}" for name, value in model.scores.items())
        table.add_row(
            model.name,
            f"{model.megabytes:.0f} MB",
            ", ".join(model.outputs),
            scores or model.note,
            model.licence,
        )
    console.print(table)
    console.print(
        "Any .safetensors of a training run, a converted official checkpoint and an exported file "
        "load by path; `humanquery show NAME` says more."
    )


def as_json(models: list[ModelFacts]) -> str:
    """The same as a JSON list."""
    return json.dumps([vars(model) for model in models], indent=1)
