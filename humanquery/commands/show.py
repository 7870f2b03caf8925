"""A model as a table, and where it looks as a picture."""

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from humanquery.commands.describe import parts_of, time_parts
from humanquery.core.batch import Batch
from humanquery.core.errors import ConfigError
from humanquery.core.system import System
from humanquery.draw import draw_attention
from humanquery.evaluation.people_report import MAIN_NUMBERS
from humanquery.media.images import read_image, write_image
from humanquery.media.letterbox import LetterboxConfig, on_canvas
from humanquery.models import build, without_sources
from humanquery.models.attributes.config import AttributesConfig
from humanquery.models.hqnet.attend import sampling_points
from humanquery.models.hqnet.hqnet import HQNet
from humanquery.predict import load
from humanquery.predict.loading import trained
from humanquery.recipes import RECIPES, find


def show(name: str, *, time: bool = False, console: Console | None = None) -> None:
    """Prints what a weights file or a recipe is made of; `time` also measures each task on one
    picture."""
    console = console or Console()
    model, card = _model(name)
    limits = model.input
    console.print(f"[bold]{card.get('name', name or 'model')}[/bold]: {_kind(model)}")
    console.print(
        f"input: short side {limits.short_side}, long side {limits.long_side}; skeleton "
        f"{model.skeleton.name if model.skeleton else 'none'}"
    )
    if isinstance(model, HQNet):
        console.print(
            f"{model.config.num_queries} queries; matching by {' + '.join(model.config.matching)}"
        )
    side = min(limits.short_side, limits.long_side)
    parts = time_parts(model, (side, limits.long_side)) if time else parts_of(model)
    table = Table("part", "parameters", "share", *(["adds, ms"] if time else []))
    for part in parts:
        row = [
            part.name,
            f"{part.parameters:,}" if part.parameters else "",
            f"{part.share:.1%}" if part.parameters else "",
        ]
        if time:
            row.append("" if part.seconds is None else f"{1000 * part.seconds:.1f}")
        table.add_row(*row)
    table.add_row("total", f"{sum(p.parameters for p in parts):,}", "")
    console.print(table)
    scores = card.get("scores") or card.get("training", {}).get("evaluation") or {}
    facts = {
        key: card[key]
        for key in ("data", "licences", "intended_use", "score_threshold")
        if key in card
    }
    facts["scores"] = {
        name: round(scores[name], 3) for name in MAIN_NUMBERS if scores.get(name) is not None
    }
    for key, value in facts.items():
        if value != {}:
            console.print(
                f"[bold]{key.replace('_', ' ')}[/bold]: {_plainly(value)}", highlight=False
            )


def _kind(model: System) -> str:
    if isinstance(model, HQNet):
        return f"HQNet, tasks {', '.join(model.tasks)}"
    return f"{type(model).__name__}, gives boxes, {', '.join(model.outputs)}"


def _plainly(value: Any) -> str:
    return (
        "; ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
    )


def _model(name: str) -> tuple[System, dict]:
    if name in RECIPES:
        recipe = find(name)
        if isinstance(recipe.model, AttributesConfig):
            raise ConfigError(
                f"{name}: trains gender and age on known boxes, it is no model to show; name an "
                f"HQNet"
            )
        # without first weights: sizes are told, and the files need not be here
        model = build(without_sources(recipe.model)).eval()
        return model, {"name": name, "data": recipe.data_name}
    return trained(name or None)


def attend(photo: str, out: Path, weights: str | None, score: float, device: str) -> int:
    """Writes the picture with the sampling points of its people; returns how many people there
    are."""
    image = read_image(photo)
    model = load(weights, device).system
    if not isinstance(model, HQNet):
        raise ConfigError(
            f"{weights}: holds a {type(model).__name__}; attend shows where the queries of an "
            "HQNet look"
        )
    limits = model.config.input
    canvas = on_canvas(
        image, LetterboxConfig(limits.short_side, limits.long_side, zoom=limits.zoom)
    )
    batch = Batch.collate([canvas], divisor=32).to(next(model.parameters()).device)
    with torch.inference_mode():
        people, points, weights_of = sampling_points(model, batch, score=score)[0]
    write_image(out, draw_attention(image, people.to("cpu"), points.cpu(), weights_of.cpu()))
    return len(people)
