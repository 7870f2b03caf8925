"""What a recipe is: a model, its data, the way it is trained and how it is scored, as plain
numbers."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from humanquery.data.augment.augment import AugmentConfig
from humanquery.data.loading.data_sets import DataSetsConfig
from humanquery.data.loading.loader import Augmentation, EvalLoader, MixConfig
from humanquery.data.readers.sources import SourceConfig, open_source
from humanquery.engine.train_config import EngineConfig
from humanquery.evaluation.attribute_accuracy import RegionReport
from humanquery.evaluation.evaluate import evaluate
from humanquery.evaluation.people_report import EvaluationReport
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models import SystemConfig
from humanquery.recipes.path_evaluations import PathEvaluation
from humanquery.recipes.poses_in_boxes import PosesInBoxes


@dataclass(frozen=True)
class ValPart:
    """One of several evaluation parts; `name` begins the names of its numbers."""

    name: str
    source: SourceConfig
    letterbox: LetterboxConfig


@dataclass(frozen=True)
class DataConfig:
    """What is learned from, and what is scored on."""

    train: MixConfig | DataSetsConfig
    val: SourceConfig
    augment: Augmentation = field(default_factory=AugmentConfig)
    letterbox: LetterboxConfig = field(default_factory=LetterboxConfig)
    """how pictures are laid for evaluation"""
    also_val: tuple[ValPart, ...] = ()
    """further parts, scored by recipes that train attributes on known boxes"""


@dataclass(frozen=True)
class PeopleEvaluation:
    """AP of what a system finds on `DataConfig.val`, in the system's own precision."""

    finds_people: ClassVar[bool] = True
    """the system needs no boxes, so that its pictures can be drawn"""
    batch_size: int = 4

    def run(
        self, system: nn.Module, data: DataConfig, *, bf16: bool = False, progress: bool = False
    ) -> EvaluationReport:
        """Scores on the system's device, with its own skeleton. `bf16` is for evaluations whose
        training precision is that of prediction, and without effect here."""
        pairs = EvalLoader(open_source(data.val), data.letterbox, self.batch_size, divisor=32)
        return evaluate(system, pairs, system.skeleton, progress=progress)


@dataclass(frozen=True)
class RegionsEvaluation:
    """Gender and age in the true boxes of `DataConfig.val` and of every part of `also_val`."""

    finds_people: ClassVar[bool] = False
    batch_size: int = 8

    def run(self, system: nn.Module, data: DataConfig, *, bf16: bool = False) -> RegionReport:
        """Scores on the system's device; `bf16`: under autocast, as the system was trained."""
        parts = (ValPart("people", data.val, data.letterbox), *data.also_val)
        device = next(system.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return RegionReport({p.name: self._score(system, p.source, p.letterbox) for p in parts})

    def _score(self, system: nn.Module, source: SourceConfig, letterbox: LetterboxConfig) -> Any:
        # imported here: recipes.attributes, where the scoring of one source lives, needs this file
        from humanquery.recipes.attributes import score_source

        return score_source(system, source, letterbox, self.batch_size)


# A new evaluation joins here: a union, since a recipe is plain data and comes back from it.
Evaluation = PeopleEvaluation | RegionsEvaluation | PosesInBoxes | PathEvaluation


@dataclass(frozen=True)
class Recipe:
    """A whole experiment. `--set model.tasks.mask=none` and the like change one number."""

    model: SystemConfig
    data: DataConfig
    engine: EngineConfig = field(default_factory=EngineConfig)
    data_name: str = ""
    """what the model card says about the data"""
    data_licence: str = ""
    evaluations: tuple[Evaluation, ...] = (PeopleEvaluation(),)
    """each with `run(system, data)`, whose report has `numbers()`; scored at `evaluate_every`"""
