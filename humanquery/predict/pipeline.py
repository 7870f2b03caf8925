"""Work in stages, each in a thread of its own, with queues of bounded length between them."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

END = object()
TICK = 0.1
"""seconds after which a thread that waits for a full queue looks whether anybody still wants it"""


class Sink:
    """The last stage: `consume` is given everything that is `put`, in a thread of its own.

    `put` waits while `capacity` items are waiting (back-pressure), and raises what `consume` has
    raised. As a context manager it starts with the block and ends with it: all items are consumed
    first, and a problem is raised unless the block raises itself.
    """

    def __init__(self, name: str, consume: Callable[[Iterator[Any]], None], capacity: int = 8):
        self._waiting: queue.Queue[Any] = queue.Queue(capacity)
        self._consume, self._problem = consume, None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __enter__(self) -> "Sink":
        self._thread.start()
        return self

    def __exit__(self, kind, *_) -> None:
        self._waiting.put(END)
        self._thread.join()
        if self._problem is not None and kind is None:
            raise self._problem

    @property
    def whole(self) -> bool:
        """Everything that was put is consumed, without a problem."""
        return self._problem is None and not self._thread.is_alive()

    def put(self, item: Any) -> None:
        if self._problem is not None:
            raise self._problem
        self._waiting.put(item)

    def _work(self) -> None:
        try:
            self._consume(iter(self._waiting.get, END))
        except BaseException as problem:  # raised again by the one who puts
            self._problem = problem
            while self._waiting.get() is not END:  # nobody who puts may wait for ever
                pass


class Pipeline:
    """Results of `source`'s items after all `stages`, in order.

    `stages` are (name, function of one item). While the consumer has one result, each stage works
    on a later item, and at most `capacity` wait before each stage, so that memory stays flat
    however long the source is. What a stage or the source raises is raised to the consumer in
    that item's place, with the stage's name as a note; nothing after it comes. Leaving the
    iteration early (break, Ctrl-C, `close`) ends all threads.
    """

    def __init__(
        self,
        source: Iterable[Any],
        stages: Sequence[tuple[str, Callable[[Any], Any]]],
        capacity: int = 4,
    ):
        self.source, self.stages = source, stages
        self._stopped = threading.Event()
        self._queues = [queue.Queue(capacity) for _ in range(len(stages) + 1)]
        self._threads: list[threading.Thread] = []

    def __iter__(self) -> Iterator[Any]:
        self._start("source", self._feed)
        for i, (name, work) in enumerate(self.stages):
            self._start(name, self._work, i, name, work)
        try:
            while (item := self._get(self._queues[-1])) is not END:
                if isinstance(item, _Failed):
                    raise item.problem
                yield item
        finally:
            self.close()

    def close(self) -> None:
        """Ends all threads; items under way are finished and dropped."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _start(self, name: str, target: Callable, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _feed(self) -> None:
        items = iter(self.source)
        try:
            for item in items:
                if not self._put(self._queues[0], item):
                    return
            self._put(self._queues[0], END)
        except BaseException as problem:
            self._put(self._queues[0], _Failed(problem))
        finally:
            if hasattr(items, "close"):
                items.close()

    def _work(self, i: int, name: str, work: Callable[[Any], Any]) -> None:
        while (item := self._get(self._queues[i])) is not END:
            if not isinstance(item, _Failed):
                try:
                    item = work(item)
                except BaseException as problem:
                    problem.add_note(f"in the stage {name!r}")
                    item = _Failed(problem)
            if not self._put(self._queues[i + 1], item) or isinstance(item, _Failed):
                return
        self._put(self._queues[i + 1], END)

    def _put(self, to: queue.Queue, item: Any) -> bool:
        """False where nobody wants it any more."""
        while not self._stopped.is_set():
            try:
                to.put(item, timeout=TICK)
                return True
            except queue.Full:
                continue
        return False

    def _get(self, where: queue.Queue) -> Any:
        while not self._stopped.is_set():
            try:
                return where.get(timeout=TICK)
            except queue.Empty:
                continue
        return END


class _Failed:
    """Stands in an item's place for what was raised."""

    def __init__(self, problem: BaseException):
        self.problem = problem


def one_ahead(work: Callable[[list[Any]], Any], items: Iterator[Any], size: int) -> Iterator[Any]:
    """`work` of groups of `size` items; the next group is worked on, in a thread of its own, while
    the caller has one. Items are read in the caller's thread. What reading or working raises
    comes in that group's place."""
    with ThreadPoolExecutor(1, thread_name_prefix="one ahead") as ahead:
        pending: Future | None = None
        problem: Exception | None = None
        while True:
            try:
                group = [] if problem else list(islice(items, size))
            except Exception as raised:  # after what was read before
                group, problem = [], raised
            coming = ahead.submit(work, group) if group else None
            if pending is not None:
                yield pending.result()
            if coming is None:
                break
            pending = coming
        if problem is not None:
            raise problem
