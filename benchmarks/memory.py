"""Memory of a process that predicts for long, each picture of a size of its own.

    python -m benchmarks.memory --out memory.json
    python -m benchmarks.memory --interval 8       give freed memory back more often
    python -m benchmarks.memory --no-trim          never, for comparison

Freed memory is given back to the system every `HeapTrimmer.every` pictures, so the resident size
is a saw tooth, and a sample says little unless it is known where on the tooth it stands. A row
holds the size right before and right after one trim, and the largest after any picture since the
trim before. Growth is the slope of each of the three by least squares over the second half of the
rows: the first pictures fill caches. Resident size is read from /proc, so it runs on Linux only.
"""

import argparse
import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.results import save
from humanquery import load
from humanquery.data.scenes.scenes import open as open_scenes
from humanquery.data.scenes.scenes import street_scenes
from humanquery.predict.threads import HeapTrimmer

SHORTEST, LONGEST = 160, 1280
"""sides of the pictures, px"""
SERIES = ("before_mb", "after_mb", "peak_mb")
Row = dict[str, float]


def resident_mb(pids: Iterable[int | str] = ("self",)) -> float:
    """Resident size of processes together, by default of this one, MB (10⁶ bytes); those that are
    gone count 0. Linux."""
    pages = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def pictures(count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Street scenes, each resized to a size of its own."""
    scenes, draw = open_scenes(street_scenes(seed=1, size=(480, 640))), np.random.default_rng(seed)
    kept = [scenes[i].image for i in range(min(count, 8))]
    for i in range(count):
        width, height = (int(side) for side in draw.integers(SHORTEST, LONGEST, 2, endpoint=True))
        yield cv2.resize(kept[i % len(kept)], (width, height))


class NotedTrim:
    """Stands in for `malloc_trim` and notes the resident size before and after it; with `trim`
    None the memory is left alone, and both are the same number."""

    def __init__(self, trim: Callable[[int], Any] | None, size: Callable[[], float] = resident_mb):
        self.trim, self.size = trim, size
        self.before = self.after = 0.0
        self.milliseconds = 0.0
        self.calls = 0

    def __call__(self, pad: int) -> None:
        self.before, start = self.size(), time.perf_counter()
        if self.trim is not None:
            self.trim(pad)
        self.milliseconds = (time.perf_counter() - start) * 1e3
        self.after = self.size()
        self.calls += 1


def measured(
    predict: Callable[[np.ndarray], Any],
    noted: NotedTrim,
    given: Iterator[np.ndarray],
    show: Callable[[str], None] = print,
) -> list[Row]:
    """A row for every trim that `predict` caused: pictures so far, MB before and after it, the
    largest MB after any picture since the trim before, milliseconds of the trim."""
    rows: list[Row] = []
    peak = 0.0
    show(f"{'pictures':>9}{'before':>9}{'after':>9}{'peak':>9}{'trim':>11}")
    for i, picture in enumerate(given, 1):
        predict(picture)
        if noted.calls == len(rows):
            peak = max(peak, noted.size())
            continue
        peak = max(peak, noted.before)
        rows.append(
            {
                "pictures": i,
                "before_mb": round(noted.before, 1),
                "after_mb": round(noted.after, 1),
                "peak_mb": round(peak, 1),
                "trim_ms": round(noted.milliseconds, 1),
            }
        )
        peak = 0.0
        line = "{pictures:>9}{before_mb:>9.0f}{after_mb:>9.0f}{peak_mb:>9.0f}{trim_ms:>8.1f} ms"
        show(line.format(**rows[-1]))
    return rows


def slope(pictures: Sequence[float], megabytes: Sequence[float]) -> float | None:
    """Growth in MB per 1,000 pictures: least squares over the second half of a series; None where
    that half has fewer than two samples."""
    half = len(pictures) // 2
    x, y = (np.asarray(v[half:], dtype=float) for v in (pictures, megabytes))
    if len(x) < 2:
        return None
    x -= x.mean()
    return float(1000 * (x @ (y - y.mean())) / (x @ x))


def summary(rows: list[Row]) -> dict[str, dict[str, float | None]]:
    """Of each series: mean over the second half of the rows, largest of all, and `slope`."""
    counts, half = [row["pictures"] for row in rows], rows[len(rows) // 2 :]
    return {
        name: {
            "mean": float(np.mean([row[name] for row in half])) if half else None,
            "largest": max((row[name] for row in rows), default=None),
            "slope": slope(counts, [row[name] for row in rows]),
        }
        for name in SERIES
    }


def table(found: dict[str, dict[str, float | None]]) -> str:
    def cell(value: float | None, form: str = ".0f") -> str:
        return f"{'-' if value is None else format(value, form):>9}"

    lines = [f"\n{'MB':<10}{'mean':>9}{'largest':>9}{'slope':>9}  (MB per 1,000 pictures)"]
    for name, of in found.items():
        numbers = cell(of["mean"]) + cell(of["largest"]) + cell(of["slope"], "+.0f")
        lines.append(f"{name.removesuffix('_mb'):<10}{numbers}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="hqnet-small", help="a shipped name or a weights file")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument(
        "--interval", type=int, help="pictures between two trims; default: the predictor's own"
    )
    parser.add_argument("--no-trim", action="store_true", help="leave the C library's heap alone")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    predictor = load(given.model, "cpu")
    heap = HeapTrimmer(given.interval) if given.interval else HeapTrimmer()
    noted = NotedTrim(None if given.no_trim else heap._trim)
    heap._trim, predictor._heap = noted, heap
    show = lambda line: print(line, flush=True)  # noqa: E731
    rows = measured(predictor.predict, noted, pictures(given.pictures), show)
    print(table(summary(rows)))
    save(given.out, given, interval=heap.every, rows=rows, summary=summary(rows))


if __name__ == "__main__":
    main()
