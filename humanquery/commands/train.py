"""A recipe becomes a trained model."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from humanquery.core.batch import Batch
from humanquery.core.config import override, to_plain
from humanquery.core.errors import CheckpointError, ConfigError
from humanquery.core.ranks import rank, world_size
from humanquery.core.system import Ask, System
from humanquery.data.loading.data_sets import DataSetsConfig, DataSetsLoader
from humanquery.data.loading.identity import file_hash, source_identity
from humanquery.data.loading.loader import TrainLoader
from humanquery.data.readers.sources import open_source
from humanquery.draw import draw
from humanquery.engine.checkpoint import read_weights
from humanquery.engine.loop import TrainingResult
from humanquery.engine.loop import train as run_engine
from humanquery.engine.optim import freeze_others
from humanquery.engine.state import latest, seed_everything
from humanquery.media.letterbox import letterboxed
from humanquery.models import build, without_sources
from humanquery.models.hqnet.joint_layouts import skeleton_of, weights_by_joint
from humanquery.predict.base import find_weights
from humanquery.recipes import Recipe, find

DIVISOR = 32
"""sides of a batch are multiples of this, the stride of the coarsest maps"""


def train(
    recipe: str | Recipe,
    overrides: list[str],
    out: Path,
    *,
    resume: bool = False,
    allow_changes: bool = False,
    weights: "Path | str | Start | None" = None,
) -> TrainingResult:
    """Trains a recipe by name with `path.to.field=value` changes; leaves the run in `out` (see
    `engine.loop.train`).

    `weights`: a shipped name or a weights file to start from (fine-tuning), or what was read of
    one. Its tensors of the same name and shape are taken, the rest is named; a file of which
    nothing fits raises CheckpointError. With `resume` a run that is in `out` goes on with its own
    weights, and must have started from these; where there is none, it starts from them.
    `allow_changes` lets a resumed run be another one, and writes down how.
    """
    name = recipe if isinstance(recipe, str) else "custom"
    recipe = override(find(recipe) if isinstance(recipe, str) else recipe, overrides)
    seed_everything(recipe.engine.seed)  # first weights follow from the engine's seed
    goes_on = resume and latest(out) is not None
    start = weights if weights is None or isinstance(weights, Start) else Start.of(weights)
    system = _system(recipe, start.state if start and not goes_on else {})
    freeze_others(system, recipe.engine.optim.only)
    if start and not goes_on:
        _start_from(system, start)
    return run_engine(
        system,
        RecipeLoader(recipe),
        recipe.engine,
        Path(out),
        resume=resume,
        allow_changes=allow_changes,
        identity={"recipe": name},
        started_from=start and start.about,
        evaluate=evaluator(recipe),
        illustrate=illustrator(recipe),
        card=card(name, overrides, recipe),
    )


@dataclass(frozen=True, eq=False)
class Start:
    """Weights that a training starts from."""

    path: Path
    state: dict[str, Tensor]
    config: dict[str, Any]
    """of the model, as plain data"""
    about: dict[str, Any]
    """for the card: file name, SHA-256, and how they were trained"""

    @staticmethod
    def of(name_or_path: Path | str) -> "Start":
        path = find_weights(name_or_path)
        read = read_weights(path)
        about = {"weights": path.name, "sha256": file_hash(path)}
        about |= {"training": read.card.get("training", {})}
        return Start(path, read.state, read.config, about)


def _system(recipe: Recipe, state: dict[str, Tensor]) -> System:
    """The recipe's system with fresh weights. Where `state` has all of its backbone, the files that
    the recipe names for it are not asked for: they need not be on this machine."""
    if any(name.startswith("backbone.") for name in state):
        system = build(without_sources(recipe.model))
        own = {n: v.shape for n, v in system.state_dict().items() if n.startswith("backbone.")}
        if all(name in state and state[name].shape == shape for name, shape in own.items()):
            system.config = recipe.model
            return system
    return build(recipe.model)


def _start_from(system: nn.Module, start: Start) -> None:
    own = system.state_dict()
    fitting = {
        name: tensor
        for name, tensor in start.state.items()
        if name in own and own[name].shape == tensor.shape
    }
    if not fitting:
        raise CheckpointError(
            f"{start.path}: none of its {len(start.state)} tensors fits this model; expected the "
            f"weights of a model of the same recipe"
        )
    if "skeleton" in start.config and system.skeleton is not None:
        theirs = skeleton_of(start.config["skeleton"])
        fitting |= weights_by_joint(start.state, own, theirs, system.skeleton)
    system.load_state_dict(fitting, strict=False)
    if rank() == 0:
        line = f"start from {start.path}: {len(fitting)} of {len(own)} tensors taken"
        fresh = sorted(own.keys() - fitting.keys())
        unused = sorted(start.state.keys() - fitting.keys())
        for what, names in (("fresh", fresh), ("not taken", unused)):
            if names:
                line += f"; {what}: {', '.join(names[:5])}" + (
                    f" and {len(names) - 5} more" if len(names) > 5 else ""
                )
        print(line, flush=True)


class RecipeLoader:
    """The training data of a recipe, opened when they are first asked for: ranks are known only
    then."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self._opened: TrainLoader | DataSetsLoader | None = None

    def opened(self) -> TrainLoader | DataSetsLoader:
        engine, data = self.recipe.engine, self.recipe.data
        options = {
            "seed": engine.seed,
            "num_workers": engine.num_workers,
            "rank": rank(),
            "world_size": world_size(),
            "divisor": DIVISOR,
        }
        if self._opened is not None:
            return self._opened
        if not isinstance(data.train, DataSetsConfig):
            self._opened = TrainLoader(data.train, data.augment, engine.batch_size, **options)
            return self._opened
        if engine.accumulate % len(data.train.parts):
            raise ConfigError(
                f"engine.accumulate: got {engine.accumulate} for {len(data.train.parts)} data "
                f"sets; expected a multiple, so that every step sees all of them"
            )
        self._opened = DataSetsLoader(data.train, **options)
        return self._opened

    def batches(self, start: int):
        return self.opened().batches(start)

    def identity(self) -> dict[str, Any]:
        """Training and evaluation data: options, label files by their hashes, samples."""
        data = self.recipe.data
        val = {"": (data.val, data.letterbox)}
        val |= {part.name: (part.source, part.letterbox) for part in data.also_val}
        scored = {
            name or "val": {"source": source_identity(source), "letterbox": to_plain(letterbox)}
            for name, (source, letterbox) in val.items()
        }
        return {"data": {"train": self.opened().identity(), "scored": scored}}

    @property
    def unreadable(self) -> Counter[str]:
        """Pictures that were replaced by the next ones, see `TrainLoader`."""
        return Counter() if self._opened is None else self._opened.unreadable


def evaluator(recipe: Recipe) -> Callable[[nn.Module], dict[str, float | int | None]] | None:
    """Scores of all the recipe's evaluations, as flat numbers for the journal; None for a recipe
    without one."""
    if not recipe.evaluations:
        return None
    bf16 = recipe.engine.precision == "bf16"

    def score(system: nn.Module) -> dict[str, float | int | None]:
        numbers: dict[str, float | int | None] = {}
        for evaluation in recipe.evaluations:
            numbers |= evaluation.run(system, recipe.data, bf16=bf16).numbers()
        return numbers

    return score


def illustrator(
    recipe: Recipe, pictures: int = 4
) -> Callable[[nn.Module], dict[str, np.ndarray]] | None:
    """A few pictures of the evaluation part with what the model sees in them; None for a recipe
    whose model finds nobody by itself."""
    if not any(evaluation.finds_people for evaluation in recipe.evaluations):
        return None

    def paint(system: nn.Module) -> dict[str, np.ndarray]:
        source = open_source(recipe.data.val)
        device = next(system.parameters()).device
        painted = {}
        for i in range(min(pictures, len(source))):
            sample = source[i]
            canvas = letterboxed(sample, recipe.data.letterbox, with_target=False)
            batch = Batch.collate([canvas], divisor=DIVISOR).to(device)
            people = system.predict(batch, Ask(0.3))[0].persons.to("cpu")
            painted[f"{i:02d}"] = draw(sample.image, people)
        return painted

    return paint


def card(name: str, overrides: list[str], recipe: Recipe) -> dict[str, Any]:
    """What the weights file says about itself."""
    return {
        "name": name,
        "recipe": name,
        "changes": list(overrides),
        "data": recipe.data_name,
        "licences": {
            "code": "Apache-2.0",
            "weights": "as the data allow",
            "data": recipe.data_licence,
        },
        "intended_use": "research and applications that need people in photos; gender and age are "
        "apparent impressions",
    }
