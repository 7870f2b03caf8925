"""What a model is made of, in numbers."""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from humanquery.core.batch import Batch, Meta
from humanquery.models.hqnet.hqnet import HQNet


@dataclass(frozen=True)
class Part:
    """One line of `humanquery show`."""

    name: str
    parameters: int
    share: float
    """of all parameters, 0..1"""
    seconds: float | None = None
    """what this task adds to the median time of one picture over detection alone (noise may make it
    negative); None: not measured, or part of detection"""


def parts_of(model: HQNet) -> list[Part]:
    """Parameters of the shared trunk and of every task."""
    modules: dict[str, list[nn.Module | nn.Parameter]] = {
        "backbone": [model.backbone],
        "neck": [model.neck],
        "encoder": [model.encoder],
        "query selection": [model.selection, model.content],
        "decoder": [model.decoder],
        **{f"task {name}": [task] for name, task in model.tasks.items()},
    }
    total = sum(p.numel() for p in model.parameters())
    counts = {
        name: sum(p.numel() for m in of for p in m.parameters()) for name, of in modules.items()
    }
    return [Part(name, count, count / max(total, 1)) for name, count in counts.items()]


def time_parts(model: HQNet, size: tuple[int, int], repeats: int = 5) -> list[Part]:
    """`parts_of`, with the time that each task adds to one picture of `size` (height, width), and
    that of the trunk."""
    height, width = size
    batch = Batch(
        torch.rand(1, 3, height, width),
        torch.zeros(1, height, width, dtype=torch.bool),
        [Meta(size, size)],
    )
    parts = {part.name: part for part in parts_of(model)}
    model.eval()
    seconds = {"person": _median(lambda: model.predict(batch, Ask(outputs=frozenset())), repeats)}
    for name in model.tasks:
        if name not in ("person", "box"):
            seconds[name] = (
                _median(
                    lambda name=name: model.predict(batch, Ask(outputs=frozenset([name]))), repeats
                )
                - seconds["person"]
            )
    alone = seconds.pop("person")
    rows = [Part("detection only, one picture", 0, 0.0, alone)]
    return rows + [
        Part(n, p.parameters, p.share, seconds.get(n.removeprefix("task ")))
        for n, p in parts.items()
    ]


def _median(run: Any, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
