"""Where the time of a step goes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Seconds:
    """Time spent in one part. `busy`: of this process on the CPU, which other work on the machine
    does not lengthen."""

    wall: float = 0.0
    busy: float = 0.0

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.wall + other.wall, self.busy + other.busy)


class Stopwatch:
    """Adds up seconds by name. A part inside of another counts for itself only, so that all parts
    sum to the whole.

    On CUDA the times are those of the GPU's own queue, read when `total` is asked for: measuring
    makes nobody wait. Nothing is timed before `start`.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.running = False
        self._names: list[str] = []
        self._marks: list[tuple[str | None, Any, float]] = []

    def start(self) -> None:
        self.running = True
        self._mark("")

    def stop(self) -> None:
        self._mark(None)
        self.running = False

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._names.append(name)
        self._mark(name)
        try:
            yield
        finally:
            self._names.pop()
            self._mark(self._names[-1] if self._names else "")

    def around(self, owner: Any, attribute: str, name: str) -> Callable[[], None]:
        """Times every call of `owner.attribute` as `name`; gives what undoes it."""
        call, own = getattr(owner, attribute), attribute in vars(owner)

        def timed(*args, **kwargs):
            with self.part(name):
                return call(*args, **kwargs)

        def undo() -> None:
            setattr(owner, attribute, call) if own else delattr(owner, attribute)

        setattr(owner, attribute, timed)
        return undo

    def total(self, rest: str = "rest") -> dict[str, Seconds]:
        """Seconds by name in the order of their first use; `rest`: between `start` and `stop`, but
        in no part."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        sums: dict[str, Seconds] = {}
        for (name, begun, busy), (_, ended, busy_after) in zip(
            self._marks, self._marks[1:], strict=False
        ):
            if name is not None:
                wall = (
                    ended - begun if isinstance(begun, float) else begun.elapsed_time(ended) / 1000
                )
                sums[name or rest] = sums.get(name or rest, Seconds()) + Seconds(
                    wall, busy_after - busy
                )
        return sums

    def _mark(self, name: str | None) -> None:
        """From here on time belongs to `name`; "": to no part; None: it is not counted."""
        if not self.running:
            return
        if self.device.type == "cuda":
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self._marks.append((name, now, time.process_time()))
