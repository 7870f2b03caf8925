"""A model that is ready to look at pictures."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from humanquery.core.batch import Batch
from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons
from humanquery.core.system import System
from humanquery.media.letterbox import on_canvas
from humanquery.predict.base import BasePredictor, Picture, as_array
from humanquery.predict.cuda_graphs import Graphed

LAYOUT = torch.channels_last


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
        where = _device(device)
        if graphs and (where.type != "cuda" or not hasattr(system, "first_look")):
            raise ConfigError(
                f"graphs=True: CUDA graphs need a CUDA device and an HQNet; this is {where}, "
                f"{type(system).__name__}"
            )
        self.system = system.to(where).to(memory_format=LAYOUT).eval()
        self.card = card or {}
        self.batches = where.type != "cpu"
        if graphs:
            self.system.first_look = Graphed(self.system.first_look)

    def _look(self, pictures: list[Picture], score: float, tasks: tuple[str, ...]) -> list[Persons]:
        if self.batches:
            return self._batch(pictures, score, tasks)
        return side_by_side(lambda picture: self._batch([picture], score, tasks)[0], pictures)

    @torch.inference_mode()
    def _batch(
        self, pictures: list[Picture], score: float, tasks: tuple[str, ...]
    ) -> list[Persons]:
        samples = [on_canvas(as_array(p), self.system.config.input) for p in pictures]
        device = next(self.system.parameters()).device
        batch = Batch.collate(samples, divisor=32).to(device).contiguous(LAYOUT)
        return [people.to("cpu") for people in self.system.predict(batch, score=score, tasks=tasks)]


def side_by_side(look: Callable[[Any], Any], pictures: list) -> list:
    """`look` at every picture on the CPU, in order, several at once if torch has several threads,
    which they share.

    A batch would be slower: its feature maps leave the caches, and a second thread helps one
    network less than a second picture does (docs/performance.md). A thread of somebody else's that
    first asks torch while this runs gets a worker's share of the threads.
    """
    threads = torch.get_num_threads()
    workers = min(len(pictures), threads)
    if workers < 2:
        return [look(picture) for picture in pictures]
    try:
        with ThreadPoolExecutor(
            workers, initializer=torch.set_num_threads, initargs=(threads // workers,)
        ) as pool:
            return list(pool.map(look, pictures))
    finally:
        torch.set_num_threads(
            threads
        )  # threads that come later start with what was set last anywhere


def _device(name: str) -> torch.device:
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
