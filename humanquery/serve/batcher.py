"""One thread owns the model; pictures of all clients wait in one queue and are looked at in
batches."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8

from humanquery.core.errors import HumanQueryError
from humanquery.core.persons import Persons
from humanquery.core.system import Ask
from humanquery.media.images import read_image
from humanquery.predict.base import BasePredictor, Picture

END = object()
NEWS = 0.2
"""weight of the last batch in the running mean of seconds per picture"""


class Busy(HumanQueryError):
    """More is waiting than a service takes; `retry_after` is in how many whole seconds to ask
    again."""

    def __init__(self, message: str, retry_after: int = 1):
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture and its people."""

    image: UInt8[np.ndarray, "h w 3"]
    people: Persons


@dataclass(frozen=True, eq=False)
class _Job:
    picture: bytes | np.ndarray
    name: str
    ask: Ask
    max_pixels: int
    answer: "Future[Seen]" = field(default_factory=Future)


class Batcher:
    """Gathers pictures into batches of at most `batch_size` and is the only one that calls
    `predictor`.

    A batch is made when the model is free: it is what waits then, or what comes within `wait`
    seconds of its first picture. Each picture is read in a pool beside the owner's thread, so that
    a damaged one fails alone. `on_batch` is told pictures and seconds of every batch.
    """

    def __init__(
        self,
        predictor: BasePredictor,
        *,
        batch_size: int = 4,
        wait: float | int = 0.005,
        on_batch: Callable[[int, float], None] = lambda pictures, seconds: None,
    ):
        self.predictor = predictor
        self.batch_size, self.wait, self._on_batch = batch_size, wait, on_batch
        self.seconds_per_picture = 0.0
        """running mean, 0 until it is known: for `Retry-After`"""
        self._batches = 0
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(min(batch_size, 8), thread_name_prefix="reader")
        self._lock, self._closed, self._begun = threading.Lock(), False, None
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def submit(
        self,
        picture: bytes | np.ndarray,
        ask: Ask,
        *,
        name: str = "picture",
        max_pixels: int = 50_000_000,
    ) -> "Future[Seen]":
        """The people of a picture (the bytes of its file, or RGB), later. A future that is
        cancelled while it waits costs the model nothing. After `close` Busy is raised."""
        job = _Job(picture, name, ask, max_pixels)
        with self._lock:
            if self._closed:
                raise Busy("the service is being stopped; ask again in a few seconds", 5)
            self._waiting.put(job)
        return job.answer

    def close(self) -> None:
        """Looks at everything that was submitted, then ends the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._waiting.put(END)
        self._thread.join()
        self._readers.shutdown()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def busy_seconds(self) -> float:
        """How long the present batch has taken so far; 0 where the model is free."""
        begun = self._begun
        return 0.0 if begun is None else time.monotonic() - begun

    def _work(self) -> None:
        while (first := self._waiting.get()) is not END:
            group, ended = self._gather(first)
            self._begun = time.monotonic()
            taken = [job for job in group if job.answer.set_running_or_notify_cancel()]
            alike: dict[Ask, list[_Job]] = {}
            for job in taken:  # the model is asked one thing of a whole batch
                alike.setdefault(job.ask, []).append(job)
            for jobs in alike.values():
                self._look(jobs)
            if taken:
                self._told(len(taken), time.monotonic() - self._begun)
            self._begun = None
            if ended:
                return

    def _told(self, pictures: int, seconds: float) -> None:
        """Counts a batch. The first is slower than all others and says nothing about them."""
        if self._batches:
            news = NEWS if self.seconds_per_picture else 1.0
            self.seconds_per_picture += news * (seconds / pictures - self.seconds_per_picture)
        self._batches += 1
        self._on_batch(pictures, seconds)

    def _gather(self, first: _Job) -> tuple[list[_Job], bool]:
        """A batch, and whether the end came behind it."""
        group, until = [first], time.monotonic() + self.wait
        while len(group) < self.batch_size:
            try:
                job = self._waiting.get(timeout=max(until - time.monotonic(), 0))
            except queue.Empty:
                break
            if job is END:
                return group, True
            group.append(job)
        return group, False

    def _look(self, jobs: list[_Job]) -> None:
        read = [self._readers.submit(_read, job) for job in jobs]
        good = []
        for job, reading in zip(jobs, read, strict=True):
            problem = reading.exception()
            if problem is not None:
                job.answer.set_exception(problem)
            else:
                good.append((job, reading.result()))
        if not good:
            return
        try:
            self._answer(good)
        except Exception as problem:
            if len(good) == 1:
                good[0][0].answer.set_exception(problem)
                return
            for one in good:  # whose fault it is shows when each is alone
                try:
                    self._answer([one])
                except Exception as own:
                    one[0].answer.set_exception(own)

    def _answer(self, good: Sequence[tuple[_Job, np.ndarray]]) -> None:
        images, ask = [image for _, image in good], good[0][0].ask
        asked = {"score": ask.score, "tasks": ask.outputs, "batch_size": len(images)}
        found = list(self.predictor.predict_many(images, **asked))
        for (job, image), people in zip(good, found, strict=True):
            job.answer.set_result(Seen(image, people))


class QueuedPredictor(BasePredictor):
    """A predictor whose pictures wait in a `Batcher`'s queue like everybody's: what follows a clip
    in a thread of its own uses it in place of the model."""

    def __init__(self, batcher: Batcher, seconds: Callable[[], float]):
        self._batcher, self._seconds = batcher, seconds
        self.outputs, self.card = batcher.predictor.outputs, batcher.predictor.card

    def _persons(self, pictures: list[Picture], ask: Ask) -> list[Persons]:
        waiting = [self._batcher.submit(picture, ask) for picture in pictures]
        try:
            return [answer.result(max(self._seconds(), 0)).people for answer in waiting]
        finally:
            cancel(waiting)


def cancel(waiting: Iterable[Future]) -> None:
    """Takes back what nobody looks at yet."""
    for answer in waiting:
        answer.cancel()


def _read(job: _Job) -> np.ndarray:
    if isinstance(job.picture, np.ndarray):
        return job.picture
    # not read_picture: it looks whether the bytes are the name of a file
    return read_image(job.picture, name=job.name, max_pixels=job.max_pixels)
