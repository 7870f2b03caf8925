"""From a training run to a file for others: half the size, with a name, a threshold and its
scores."""

import os
from pathlib import Path
from typing import Any

from humanquery.core.config import from_plain
from humanquery.engine.checkpoint import read_weights, save_state_dict
from humanquery.models import SystemConfig, without_sources

SHOWN = 4
"""digits of the scores in the card"""


def ship(
    weights: Path, out: Path, *, name: str = "", score_threshold: float | None = None
) -> dict[str, Any]:
    """Writes `weights` (of a training run) as fp16 to `out` and returns its card.

    `name`: by default the file's. `score_threshold`: people below it are left out by `predict`;
    by default the one of best F1 in the run's last evaluation. Paths of the machine that trained
    it are left behind.
    """
    read = read_weights(weights)
    training = dict(read.card.get("training", {}))
    scores = {
        key: round(value, SHOWN)
        for key, value in training.pop("evaluation", {}).items()
        if value is not None
    }
    threshold = scores.get("box/best_threshold") if score_threshold is None else score_threshold
    card = read.card | {"name": name or Path(out).stem, "training": training, "scores": scores}
    card["changes"] = [_without_path(change) for change in read.card.get("changes", [])]
    if threshold is not None:
        card["score_threshold"] = round(threshold, 3)
    config = without_sources(from_plain(SystemConfig, read.config))
    save_state_dict(out, read.state, config, card, half=True)
    return card


def _without_path(change: str) -> str:
    """`a.b=/home/me/file` as `a.b=file`."""
    field, equals, value = change.partition("=")
    return f"{field}{equals}{os.path.basename(value)}" if os.sep in value else change
