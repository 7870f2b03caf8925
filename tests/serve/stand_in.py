"""A predictor that finds two people in every picture, at once or when it is let."""

import io
import threading
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from humanquery.core.persons import Persons
from humanquery.predict.base import BasePredictor
from tests.predict.fake import people

POISON = 200
"""grey level of a picture that this predictor cannot take"""


class StandIn(BasePredictor):
    """Scores 0.9 and 0.2; keeps how many pictures came at once, and what was asked."""

    def __init__(self):
        self.outputs = {n: Persons.specs()[n] for n in ("masks", "keypoints", "gender", "age")}
        self.card = {"name": "stand-in"}
        self.batches: list[int] = []
        self.asks = []
        self.entered, self.free = threading.Event(), threading.Event()
        self.free.set()

    def hold(self) -> None:
        """From now on pictures wait for `free.set()`."""
        self.entered.clear()
        self.free.clear()

    def _persons(self, pictures, ask) -> list[Persons]:
        self.entered.set()
        assert self.free.wait(20)
        if any((picture == POISON).all() for picture in pictures):
            raise ValueError("a picture that nobody foresaw")
        self.batches.append(len(pictures))
        self.asks.append(ask)
        return [people(p.shape[:2], ask.outputs).above(ask.score) for p in pictures]


def picture(size=(60, 80), grey: int = 90, kind: str = "JPEG") -> bytes:
    """The bytes of a grey picture of (height, width)."""
    written = io.BytesIO()
    Image.fromarray(np.full((*size, 3), grey, np.uint8)).save(written, kind)
    return written.getvalue()


def comes(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether something becomes true."""
    until = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < until:
        time.sleep(0.01)
    return found
