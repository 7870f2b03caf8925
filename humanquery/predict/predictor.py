"""A model that is ready to look at pictures."""

import contextlib
import threading
from dataclasses import replace
from typing import Any

import torch

from humanquery.core.batch import Batch
from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons
from humanquery.core.system import Ask, System
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

    @torch.inference_mode()
    def _batch(self, pictures: list[Picture], ask: Ask) -> list[Persons]:
        samples = [on_canvas(as_array(p), self.system.input) for p in pictures]
        device = next(self.system.parameters()).device
        batch = Batch.collate(samples, divisor=SIDE_STEP).to(device)
        return [found.persons.to("cpu") for found in self.system.predict(_laid_out(batch), ask)]


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
