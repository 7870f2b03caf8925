"""A model becomes numbers."""

from pathlib import Path
from typing import Any

from humanquery.core.config import override
from humanquery.core.errors import ConfigError
from humanquery.core.skeleton import Skeleton
from humanquery.core.system import System
from humanquery.data.loading.loader import EvalLoader
from humanquery.data.readers.coco import CocoSourceConfig
from humanquery.data.readers.sources import SourceConfig, open_source
from humanquery.engine.checkpoint import load_state, read_weights
from humanquery.evaluation.attribute_accuracy import RegionReport
from humanquery.evaluation.evaluate import evaluate as run_evaluation
from humanquery.evaluation.flat_report import JoinedReport
from humanquery.evaluation.people_report import EvaluationReport
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models import rebuild
from humanquery.models.path.config import PathConfig
from humanquery.predict.predictor import choose_device
from humanquery.recipes import Recipe, find
from humanquery.recipes.attributes import evaluate_regions, load_attributes

EVALUATION_BATCH = 4
USED_OPTIONS = {
    "people": ("weights", "data", "images", "recipe", "set", "device", "limit"),
    "results": ("data", "results", "limit"),
    "results by crowd": ("data", "results"),
    "tracking": ("weights", "data", "device", "rules", "motion-only"),
    "results of tracking": ("data", "results", "rules"),
}
"""options of `humanquery evaluate` by what is scored; every other one is refused"""


def mode_of(task: str, has_results: bool) -> str:
    """The key of `USED_OPTIONS` that `--task` and `--results` mean; another task raises
    ConfigError."""
    if task not in ("people", "tracking", "results", "crowdpose"):
        raise ConfigError(f"--task {task}: expected people, tracking, results or crowdpose")
    if task == "crowdpose":
        return "results by crowd"
    if task == "tracking":
        return "results of tracking" if has_results else "tracking"
    return "results" if has_results or task == "results" else "people"


def refuse_unused(mode: str, given: dict[str, Any]) -> None:
    """Options that were given and that scoring in this mode would not read raise ConfigError.
    `given`: by name, falsy where not given."""
    unused = [name for name, value in given.items() if value and name not in USED_OPTIONS[mode]]
    if unused:
        raise ConfigError(
            f"evaluating {mode} does not use {', '.join(f'--{name}' for name in unused)}; it takes "
            f"{', '.join(f'--{name}' for name in USED_OPTIONS[mode])}"
        )


def evaluate(
    weights: str | Path | None,
    *,
    annotations: Path | None = None,
    images: Path | None = None,
    recipe: str | None = None,
    overrides: list[str] | None = None,
    device: str = "auto",
    limit: int = 0,
    batch_size: int = EVALUATION_BATCH,
) -> EvaluationReport | RegionReport | JoinedReport:
    """Scores a weights file on a COCO-like annotation file, or on the evaluation part of a recipe.

    The joints of an annotation file are read in the order of the model's, by name. `limit` takes
    only the first pictures. A recipe whose system reads people in given boxes is scored on all its
    parts. Neither or both of file and recipe, and an option that would not be used, raise
    ConfigError.
    """
    if (annotations is None) == (recipe is None):
        raise ConfigError(
            "evaluate: name what to score on: either an annotation file (--data) or a recipe "
            "(--recipe)"
        )
    if recipe is None and overrides:
        raise ConfigError(f"--set {overrides[0]}: changes a recipe; give --recipe too")
    if recipe is not None and images is not None:
        raise ConfigError(
            f"--images {images}: belongs to --data; a recipe's own pictures are changed by --set "
            "data.val.images=..."
        )
    chosen = None if recipe is None else override(find(recipe), overrides or [])
    if chosen is not None and not any(each.finds_people for each in chosen.evaluations):
        if limit:
            raise ConfigError(
                f"--limit {limit}: {recipe} is scored on several whole parts; leave it out"
            )
        if isinstance(chosen.model, PathConfig):
            return _evaluate_heads(weights, chosen, device)
        system = load_attributes(weights).to(choose_device(device))
        return evaluate_regions(system, chosen.data, batch_size=batch_size)
    from humanquery.predict import load

    system = load(weights, device=device).system
    source_config, letterbox = _evaluation_data(system, annotations, images, chosen)
    source = open_source(source_config)
    if limit:
        source = _First(source, limit)
    pairs = EvalLoader(source, letterbox, batch_size, divisor=32)
    return run_evaluation(system, pairs, system.skeleton)


def _evaluate_heads(weights: str | Path | None, recipe: Recipe, device: str) -> JoinedReport:
    """Every evaluation of a PATH recipe; a file without one of its heads raises ConfigError."""
    if not weights:
        raise ConfigError("evaluate: no PATH model is shipped; name a weights file by --weights")
    read = read_weights(Path(weights))
    system = rebuild(read.config)
    heads = getattr(system, "heads", {})
    missing = [e.data_set for e in recipe.evaluations if e.data_set not in heads]
    if missing:
        raise ConfigError(
            f"{weights}: has no head for {', '.join(missing)}, which the recipe scores; it has "
            f"{', '.join(heads) or 'none: it is no PATH model'}"
        )
    load_state(system, read.state)
    system = system.to(choose_device(device)).eval()
    return JoinedReport(tuple(e.run(system, recipe.data) for e in recipe.evaluations))


def _evaluation_data(
    system: System, annotations: Path | None, images: Path | None, recipe: Recipe | None
) -> tuple[SourceConfig, LetterboxConfig]:
    if recipe is not None:
        return recipe.data.val, recipe.data.letterbox
    wanted = "" if system.skeleton is None else system.skeleton.name
    skeleton = wanted if Skeleton.find(wanted) else ""  # others are compared by the evaluator
    return CocoSourceConfig(str(annotations), str(images or ""), skeleton=skeleton), system.input


class _First:
    """The first pictures of a source."""

    def __init__(self, source: Any, count: int):
        self.source, self.count = source, min(count, len(source))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int):
        return self.source[i]
