"""Pictures side by side on the CPU, in threads that share torch's among themselves."""

import ctypes
import glob
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch


class SideBySide:
    """`map` over pictures on the CPU, several at once where torch has several threads.

    A batch would be slower: its feature maps leave the caches, and a second thread helps one
    network less than a second picture does (docs/performance.md). The pool is made at its first use
    and kept; callers' threads and the process's number of threads stay as they are.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def map(self, look: Callable[[Any], Any], pictures: list[Any]) -> list[Any]:
        """`look` at every picture, in order; the first error is raised when all are done."""
        threads = torch.get_num_threads()
        workers = min(len(pictures), threads)
        limit = openmp_limit() if workers > 1 else None
        if limit is None:
            return [look(picture) for picture in pictures]

        def work(picture: Any) -> Any:
            # torch gives a new thread the process's number when it is first asked; asked later, it
            # would overwrite the share
            torch.get_num_threads()
            limit(threads // workers)
            return look(picture)

        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(threads, thread_name_prefix="humanquery-look")
            waiting = [self._pool.submit(work, picture) for picture in pictures]
        problems = [p for future in waiting if (p := future.exception()) is not None]
        if problems:
            raise problems[0]
        return [future.result() for future in waiting]


def openmp_limit() -> Callable[[int], None] | None:
    """Sets how many OpenMP threads the calling thread may start, and nobody else's number; None
    where torch's OpenMP library cannot be found.

    `torch.set_num_threads` would do it too, but also decides for all threads that come later.
    """
    for path in _openmp_libraries():
        try:
            library = ctypes.CDLL(path)
            return library.omp_set_num_threads
        except (OSError, AttributeError):
            continue
    return None


def _openmp_libraries() -> list[str]:
    """Files of the OpenMP library that torch itself has loaded."""
    beside = [
        path
        for name in ("libgomp*", "libomp*", "libiomp*")
        for folder in ("lib", "../torch.libs")
        for path in glob.glob(str(Path(torch.__file__).parent / folder / name))
    ]
    try:
        mapped = Path("/proc/self/maps").read_text().split()
    except OSError:  # not Linux
        return beside
    return [path for path in dict.fromkeys(mapped) if "libgomp" in path or "libiomp" in path]


class HeapTrimmer:
    """Gives freed memory back to the system every so many pictures: pictures of ever new sizes
    would otherwise leave the C library's heap in pieces that are never returned. Only glibc has
    the call; elsewhere nothing is done."""

    def __init__(self, every: int = 32):
        self.every = every
        self._count = 0
        try:
            self._trim = ctypes.CDLL(None).malloc_trim
        except (OSError, AttributeError, TypeError):
            self._trim = None

    def done(self, pictures: int) -> None:
        """Counts pictures that were looked at."""
        self._count += pictures
        if self._trim is not None and self._count >= self.every:
            self._count = 0
            self._trim(0)
