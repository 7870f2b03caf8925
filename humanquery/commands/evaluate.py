"""A model becomes numbers."""

from pathlib import Path
from typing import Any

from humanquery.core.config import override
from humanquery.core.errors import ConfigError
from humanquery.core.skeleton import Skeleton
from humanquery.data.loading.loader import EvalLoader
from humanquery.data.readers.coco import CocoSourceConfig
from humanquery.data.readers.sources import SourceConfig, open_source
from humanquery.evaluation.attribute_accuracy import RegionReport
from humanquery.evaluation.evaluate import evaluate as run_evaluation
from humanquery.evaluation.people_report import EvaluationReport
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models.attributes.config import AttributesConfig
from humanquery.recipes import find
from humanquery.recipes.attributes import evaluate_regions, load_attributes

EVALUATION_BATCH = 4


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
        letterbox = LetterboxConfig(limits.short_side, limits.long_side, zoom=limits.zoom)
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
