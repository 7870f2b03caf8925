"""Fine-tunes a shipped or own model on a COCO file, or a PATH model on the data of a recipe."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from humanquery.commands.train import Start, train
from humanquery.core.config import from_plain, override
from humanquery.core.errors import ConfigError, nearest
from humanquery.engine.checkpoint import read_weights
from humanquery.engine.loop import TrainingResult
from humanquery.models import SystemConfig, build, without_sources
from humanquery.models.hqnet.config import HQNetConfig
from humanquery.models.path.config import PathConfig
from humanquery.models.path.protocols import PROTOCOLS, downstream_state, trained_modules
from humanquery.predict.base import find_weights
from humanquery.recipes import find
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


def finetune_path(
    weights: str | Path,
    recipe: str,
    protocol: str,
    out: Path,
    *,
    steps: int = 300,
    overrides: list[str] | None = None,
    resume: bool = False,
    allow_changes: bool = False,
) -> TrainingResult:
    """Fine-tunes the backbone of a PATH model on the data of a recipe whose model is a PATH without
    a projector, with a fresh head; `protocol`: which parameters learn (full, partial, head).

    An unknown protocol, a recipe of another model and a file of another one raise ConfigError.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"--protocol {protocol}: unknown.{nearest(protocol, PROTOCOLS)}")
    start = Start.of(weights)
    pretrained = from_plain(SystemConfig, start.config)
    chosen = override(find(recipe), [f"engine.steps={steps}", *(overrides or [])])
    for what, config in ((weights, pretrained), (f"recipe {recipe}", chosen.model)):
        if type(config) is not PathConfig:
            raise ConfigError(
                f"{what}: holds a {type(config).__name__}, expected a PathConfig; --protocol is "
                f"for PATH models, as `humanquery train --recipe path_small` makes them"
            )
    if chosen.model.projector is not None:
        raise ConfigError(
            f"recipe {recipe}: its model has a projector, which belongs to pretraining; expected "
            f"model.projector none"
        )
    model = without_sources(replace(chosen.model, backbone=pretrained.backbone))
    system = build(model)
    only = trained_modules(system, protocol)
    chosen = replace(
        chosen,
        model=model,
        engine=replace(chosen.engine, optim=replace(chosen.engine.optim, only=only)),
    )
    taken = downstream_state(start.state, system, str(weights))
    return train(
        chosen,
        [],
        out,
        resume=resume,
        allow_changes=allow_changes,
        weights=replace(start, state=taken),
    )
