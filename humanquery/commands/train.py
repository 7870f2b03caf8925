"""A recipe becomes a trained model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from humanquery.core.config import override
from humanquery.core.errors import CheckpointError
from humanquery.core.ranks import rank, world_size
from humanquery.core.skeleton import Skeleton
from humanquery.data.loading.loader import EvalLoader, TrainLoader
from humanquery.data.readers.sources import open_source
from humanquery.engine.checkpoint import read_weights
from humanquery.engine.loop import TrainingResult
from humanquery.engine.loop import train as run_engine
from humanquery.engine.optim import freeze_others
from humanquery.evaluation.evaluate import evaluate as run_evaluation
from humanquery.media.letterbox import letterboxed
from humanquery.models import build
from humanquery.models.attributes.config import AttributesConfig
from humanquery.recipes import Recipe, find
from humanquery.recipes.attributes import evaluate_regions

EVALUATION_BATCH = 4


def train(
    recipe: str | Recipe,
    overrides: list[str],
    out: Path,
    *,
    resume: bool = False,
    weights: Path | None = None,
) -> TrainingResult:
    """Trains a recipe by name with `path.to.field=value` changes; leaves the run in `out` (see
    `engine.loop.train`).

    `weights`: a weights file to start from (fine-tuning). Its tensors of the same name and shape
    are taken, the rest is named; a file of which nothing fits raises CheckpointError.
    """
    name = recipe if isinstance(recipe, str) else "custom"
    recipe = override(find(recipe) if isinstance(recipe, str) else recipe, overrides)
    seed_before_building(recipe)
    system = build(recipe.model)
    freeze_others(system, recipe.engine.optim.only)
    about = card(name, overrides, recipe)
    if weights is not None:
        start = read_weights(weights)
        about["started_from"] = {
            "weights": Path(weights).name,
            "training": start.card.get("training", {}),
        }
        if not resume:
            _start_from(system, start.state, weights)
    return run_engine(
        system,
        RecipeLoader(recipe),
        recipe.engine,
        Path(out),
        resume=resume,
        evaluate=evaluator(recipe),
        illustrate=illustrator(recipe),
        card=about,
    )


def _start_from(system: nn.Module, given: dict[str, Tensor], weights: Path) -> None:
    own = system.state_dict()
    fitting = {
        name: tensor
        for name, tensor in given.items()
        if name in own and own[name].shape == tensor.shape
    }
    if not fitting:
        raise CheckpointError(
            f"{weights}: none of its {len(given)} tensors fits this model; expected the weights of "
            f"a model of the same recipe"
        )
    system.load_state_dict(fitting, strict=False)
    if rank() == 0:
        said = f"start from {weights}: {len(fitting)} of {len(own)} tensors taken"
        fresh, unused = sorted(own.keys() - fitting.keys()), sorted(given.keys() - fitting.keys())
        for what, names in (("fresh", fresh), ("not taken", unused)):
            if names:
                said += f"; {what}: {', '.join(names[:5])}" + (
                    f" and {len(names) - 5} more" if len(names) > 5 else ""
                )
        print(said, flush=True)


def seed_before_building(recipe: Recipe) -> None:
    """First weights follow from the engine's seed."""
    from humanquery.engine.state import seed_everything

    seed_everything(recipe.engine.seed)


class RecipeLoader:
    """Opens the training data when the first batch is asked for: ranks are known only then."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    def batches(self, start: int):
        engine, data = self.recipe.engine, self.recipe.data
        loader = TrainLoader(
            data.train,
            data.augment,
            engine.batch_size,
            seed=engine.seed,
            num_workers=engine.num_workers,
            rank=rank(),
            world_size=world_size(),
            divisor=32,
        )
        return loader.batches(start)


def evaluator(recipe: Recipe) -> Callable[[nn.Module], dict[str, float | int | None]]:
    """Scores on the recipe's evaluation part, as flat numbers for the journal."""
    if isinstance(recipe.model, AttributesConfig):
        return lambda system: evaluate_regions(
            system, recipe.data, bf16=recipe.engine.precision == "bf16"
        ).numbers()

    def score(system: nn.Module) -> dict[str, float]:
        pairs = EvalLoader(
            open_source(recipe.data.val), recipe.data.letterbox, EVALUATION_BATCH, divisor=32
        )
        skeleton = Skeleton.named(recipe.model.skeleton)
        return run_evaluation(system, pairs, skeleton, progress=False).numbers()

    return score


def illustrator(
    recipe: Recipe, pictures: int = 4
) -> Callable[[nn.Module], dict[str, np.ndarray]] | None:
    """A few pictures of the evaluation part with what the model sees in them; None for a model that
    finds nobody."""
    if isinstance(recipe.model, AttributesConfig):
        return None
    from humanquery.core.batch import Batch
    from humanquery.draw import draw

    def paint(system: nn.Module) -> dict[str, np.ndarray]:
        source = open_source(recipe.data.val)
        device = next(system.parameters()).device
        painted = {}
        for i in range(min(pictures, len(source))):
            sample = source[i]
            canvas = letterboxed(sample, recipe.data.letterbox, with_target=False)
            people = system.predict(Batch.collate([canvas], divisor=32).to(device), score=0.3)[
                0
            ].to("cpu")
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
