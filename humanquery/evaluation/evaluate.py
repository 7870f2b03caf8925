"""Runs a system over pictures and scores what it finds."""

import statistics
import time
from collections.abc import Iterable

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from humanquery.core.batch import Batch
from humanquery.core.errors import AnnotationError
from humanquery.core.persons import Persons
from humanquery.core.skeleton import Skeleton
from humanquery.core.system import System
from humanquery.core.target import Target
from humanquery.evaluation.coco_ap import CocoEvaluator
from humanquery.evaluation.people_report import EvaluationReport


def evaluate(
    system: System,
    pairs: Iterable[tuple[Batch, list[Target]]],
    skeleton: Skeleton | None = None,
    *,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> EvaluationReport:
    """Scores of `system` on batches with their truth *in pixels of the picture* (`Batch.targets` is
    on the canvas).

    Each picture is looked at once, in eval mode, without gradients; the mode is put back
    afterwards. Pictures are numbered in order, so that `Meta.image_id` may repeat. They are sent to
    `device`, by default to the system's. The report's time per picture is the median over batches,
    network and decoding together, without reading pictures and scoring. A truth of another length
    than its batch raises AnnotationError.
    """
    evaluator = CocoEvaluator(skeleton)
    if device is None:
        device = (
            next((p.device for p in system.parameters()), None)
            if isinstance(system, torch.nn.Module)
            else None
        )
    seconds: list[float] = []
    training = bool(getattr(system, "training", False))
    if training:
        system.eval()
    try:
        with _bar(progress) as bar:
            task = bar.add_task("Evaluating", total=_length(pairs))
            for batch, targets in pairs:
                if len(batch) != len(targets):
                    raise AnnotationError(
                        f"batch {len(seconds)}: {len(batch)} pictures but {len(targets)} targets; "
                        f"give one Target per picture, in pixels of the picture"
                    )
                persons, took = _predict(system, batch if device is None else batch.to(device))
                seconds.append(took / len(batch))
                for target, people in zip(targets, persons, strict=True):
                    evaluator.add(target, people.to("cpu"))
                bar.advance(task)
    finally:
        if training:
            system.train()
    return evaluator.scores(statistics.median(seconds) if seconds else None)


def _predict(system: System, batch: Batch) -> tuple[list[Persons], float]:
    start = _now(batch)
    with torch.inference_mode():
        persons = [picture.persons for picture in system.predict(batch)]
    return persons, _now(batch) - start


def _now(batch: Batch) -> float:
    if batch.images.is_cuda:
        torch.cuda.synchronize(
            batch.images.device
        )  # kernels are queued: the clock must wait for them
    return time.perf_counter()


def _bar(shown: bool) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, disable=not shown)


def _length(pairs: Iterable) -> int | None:
    return len(pairs) if hasattr(pairs, "__len__") else None
