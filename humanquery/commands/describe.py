"""What a model is made of, in numbers."""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from humanquery.core.batch import Batch, Meta
from humanquery.core.system import Ask, System


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


def parts_of(model: nn.Module) -> list[Part]:
    """Parameters of every part of a system, in the order of its modules; each of its `tasks` is a
    part of its own."""
    modules: dict[str, nn.Module] = {}
    for name, module in model.named_children():
        inner = module.named_children() if name == "tasks" else ()
        modules |= {f"task {task}": of for task, of in inner} or {name: module}
    total = sum(p.numel() for p in model.parameters())
    counts = {name: sum(p.numel() for p in of.parameters()) for name, of in modules.items()}
    return [Part(n, count, count / max(total, 1)) for n, count in counts.items()]


def time_parts(model: System, size: tuple[int, int], repeats: int = 5) -> list[Part]:
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
    for name in getattr(model, "tasks", model.outputs):  # other systems have no tasks
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
