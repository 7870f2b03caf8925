"""A model that is ready to look at pictures."""

import contextlib
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from humanquery.core.batch import Batch
from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons
from humanquery.core.system import Ask, Look, LooksTwice, System
from humanquery.media.letterbox import on_canvas
from humanquery.predict.base import BasePredictor, Picture, as_array
from humanquery.predict.cuda_graphs import Graphed
from humanquery.predict.threads import HeapTrimmer, SideBySide

LAYOUT = torch.channels_last
SIDE_STEP = 32
"""both sides of a canvas batch are multiples of this, the coarsest stride of all backbones"""


class Predictor(BasePredictor):
    """Looks at pictures with a system; `card` is what its weights file says about itself.

    Weights and pictures are laid out channels-last: with a single CPU thread PyTorch has fast
    convolutions for that layout only, and it never is the slower one.
    """

    def __init__(
        self,
        system: System,
        card: dict[str, Any] | None = None,
        device: str = "auto",
        *,
        graphs: bool = False,
    ):
        where = choose_device(device)
        if graphs and (where.type != "cuda" or not hasattr(system, "first_look")):
            raise ConfigError(
                f"graphs=True: CUDA graphs need a CUDA device and an HQNet; this is {where}, "
                f"{type(system).__name__}"
            )
        self.system = system.to(where).to(memory_format=LAYOUT).eval()
        self.outputs = system.outputs
        self.card = card or {}
        self.batches = where.type != "cpu"
        self._side_by_side, self._heap = SideBySide(), HeapTrimmer()
        self._turn = threading.Lock() if graphs else contextlib.nullcontext()
        if graphs:  # a graph's results are its own memory: one caller at a time
            self.system.first_look = Graphed(self.system.first_look)

    def _persons(self, pictures: list[Picture], ask: Ask) -> list[Persons]:
        if self.batches:
            with self._turn:
                found = self._batch(pictures, ask)
        else:
            found = self._side_by_side.map(lambda p: self._batch([p], ask)[0], pictures)
        self._heap.done(len(pictures))
        return found

    @property
    def late(self) -> frozenset[str]:
        """See `BasePredictor.late`; nothing with CUDA graphs, whose results the next picture
        replaces."""
        graphs = isinstance(getattr(self.system, "first_look", None), Graphed)
        return (
            self.system.late if isinstance(self.system, LooksTwice) and not graphs else frozenset()
        )

    def look_many(
        self,
        pictures: list[Picture],
        *,
        score: float | None = None,
        tasks: Iterable[str] | None = None,
        attributes: bool = True,
    ) -> list[Look]:
        """See `BasePredictor.look_many`."""
        wanted = {"score": score, "tasks": tasks, "attributes": attributes}
        if not self.late:
            return super().look_many(pictures, **wanted)
        ask = self.ask(**wanted)
        looks = self._side_by_side.map(lambda picture: self._look(picture, ask), pictures)
        self._heap.done(len(pictures))
        return looks

    @torch.inference_mode()
    def _look(self, picture: Picture, ask: Ask) -> Look:
        return _OnCpu(self.system.look(self._canvases([picture]), ask))

    @torch.inference_mode()
    def _batch(self, pictures: list[Picture], ask: Ask) -> list[Persons]:
        found = self.system.predict(self._canvases(pictures), ask)
        return [picture.persons.to("cpu") for picture in found]

    def _canvases(self, pictures: list[Picture]) -> Batch:
        samples = [on_canvas(as_array(p), self.system.input) for p in pictures]
        device = next(self.system.parameters()).device
        return _laid_out(Batch.collate(samples, divisor=SIDE_STEP).to(device))


class _OnCpu:
    """A system's look whose people are on the CPU, wherever the system is."""

    def __init__(self, look: Look):
        self._look, self.persons = look, look.persons.to("cpu")

    @torch.inference_mode()
    def more(self, rows: Tensor, outputs: frozenset[str]) -> Persons:
        return self._look.more(rows, outputs).to("cpu")


def _laid_out(batch: Batch) -> Batch:
    """The batch with its pictures channels-last, as the weights are."""
    views = {
        name: replace(view, images=view.images.contiguous(memory_format=LAYOUT))
        for name, view in batch.views.items()
    }
    return replace(batch, images=batch.images.contiguous(memory_format=LAYOUT), views=views)


def choose_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as problem:
        raise ConfigError(
            f"device {name!r} cannot be used: {str(problem).splitlines()[0]}; try 'cpu'"
        ) from None
    return device
