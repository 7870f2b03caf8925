"""Where everything meets: a recipe becomes a trained model, a model becomes numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from humanquery.core.config import override
from humanquery.core.errors import CheckpointError, ConfigError
from humanquery.core.ranks import rank, world_size
from humanquery.core.skeleton import Skeleton
from humanquery.data.loading.loader import EvalLoader, TrainLoader
from humanquery.data.readers.coco import CocoSourceConfig
from humanquery.data.readers.sources import SourceConfig, open_source
from humanquery.engine.checkpoint import read_weights
from humanquery.engine.loop import TrainingResult
from humanquery.engine.loop import train as run_engine
from humanquery.engine.optim import freeze_others
from humanquery.evaluation.attribute_accuracy import RegionReport
from humanquery.evaluation.evaluate import evaluate as run_evaluation
from humanquery.evaluation.people_report import EvaluationReport
from humanquery.media.letterbox import LetterboxConfig, letterboxed
from humanquery.models import build
from humanquery.models.attributes.config import AttributesConfig
from humanquery.recipes import Recipe, find
from humanquery.recipes.attributes import evaluate_regions, load_attributes

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


def evaluate(
    weights: str | Path,
    *,
    annotations: Path | None = None,
    images: Path | None = None,
    recipe: str | None = None,
    overrides: list[str] | None = None,
    device: str = "auto",
    limit: int = 0,
    batch_size: int = EVALUATION_BATCH,
) -> EvaluationReport | RegionReport:
    """Scores a weights file on a COCO-like annotation file, or on the evaluation part of a recipe.

    `limit` takes only the first pictures. Raises ConfigError where neither or both are named. A
    recipe that trains attributes on known boxes is scored on all its parts (without `limit`).
    """
    if recipe is not None and annotations is None:
        chosen = override(find(recipe), overrides or [])
        if isinstance(chosen.model, AttributesConfig):
            return evaluate_regions(load_attributes(weights), chosen.data, batch_size=batch_size)
    from humanquery.predict import load

    source_config, letterbox = _evaluation_data(annotations, images, recipe, overrides or [])
    system = load(weights, device=device).system
    if letterbox is None:
        limits = system.config.input
        letterbox = LetterboxConfig(limits.short_side, limits.long_side, finer=limits.finer)
    source = open_source(source_config)
    if limit:
        source = _First(source, limit)
    pairs = EvalLoader(source, letterbox, batch_size, divisor=32)
    return run_evaluation(system, pairs, Skeleton.named(system.config.skeleton))


def _evaluation_data(
    annotations: Path | None, images: Path | None, recipe: str | None, overrides: list[str]
) -> tuple[SourceConfig, LetterboxConfig | None]:
    if (annotations is None) == (recipe is None):
        raise ConfigError(
            "evaluate: name what to score on: either an annotation file (--data) or a recipe "
            "(--recipe)"
        )
    if annotations is not None:
        return CocoSourceConfig(str(annotations), str(images or "")), None
    chosen = override(find(recipe), overrides)
    return chosen.data.val, chosen.data.letterbox


class _First:
    """The first pictures of a source."""

    def __init__(self, source: Any, count: int):
        self.source, self.count = source, min(count, len(source))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int):
        return self.source[i]
