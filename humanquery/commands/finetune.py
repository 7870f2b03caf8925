"""Fine-tunes a shipped or own model on a COCO file."""

from collections.abc import Sequence
from pathlib import Path

from humanquery.commands.train import train
from humanquery.core.config import from_plain
from humanquery.core.errors import ConfigError
from humanquery.engine.checkpoint import read_weights
from humanquery.engine.loop import TrainingResult
from humanquery.models import SystemConfig
from humanquery.models.hqnet.config import HQNetConfig
from humanquery.predict.base import find_weights
from humanquery.recipes.finetune import finetune as recipe_of


def finetune(
    weights: str | Path | None,
    data: Path,
    out: Path,
    *,
    images: Path | None = None,
    val: Path | None = None,
    val_images: Path | None = None,
    skeleton: str = "",
    tasks: Sequence[str] = (),
    steps: int = 300,
    overrides: list[str] | None = None,
    resume: bool = False,
    allow_changes: bool = False,
) -> TrainingResult:
    """Fine-tunes the model of `weights` (a shipped name or a file; None: the shipped model) on the
    people of `data` and leaves the run in `out`; see `recipes.finetune.finetune`.

    Nothing but the weights file and the data is read. A file that holds another kind of model
    raises ConfigError.
    """
    path = find_weights(weights)
    config = from_plain(SystemConfig, read_weights(path).config)
    if type(config) is not HQNetConfig:
        raise ConfigError(
            f"{path}: holds a {type(config).__name__}; only an HQNet can be fine-tuned like this. "
            "Train others by their recipe: humanquery train --weights"
        )
    recipe = recipe_of(
        config,
        data,
        images=images or "",
        val=val or "",
        val_images=val_images or "",
        skeleton=skeleton,
        tasks=tasks,
        steps=steps,
    )
    return train(
        recipe,
        overrides or [],
        out,
        resume=resume,
        allow_changes=allow_changes,
        weights=path,
    )
