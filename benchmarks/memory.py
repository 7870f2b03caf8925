"""Memory of a process that predicts for long: resident size after every so many pictures, each of
a size of its own.

    python -m benchmarks.memory --out memory.json
    python -m benchmarks.memory --no-trim    # without giving freed memory back to the system

Growth is of the mean of the last quarter of the rows against that of the second quarter: the first
pictures fill caches. Resident size is read from /proc, so it runs on Linux only.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from humanquery import load
from humanquery.data.scenes.scenes import open as open_scenes
from humanquery.data.scenes.scenes import street_scenes
from humanquery.engine.curves import machine

SHORTEST, LONGEST = 160, 1280
"""sides of the pictures, px"""


def resident_mb() -> float:
    """Resident size of this process, MB (10⁶ bytes)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def pictures(count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Street scenes, each resized to a size of its own."""
    scenes, draw = open_scenes(street_scenes(seed=1, size=(480, 640))), np.random.default_rng(seed)
    kept = [scenes[i].image for i in range(8)]
    for i in range(count):
        width, height = (int(side) for side in draw.integers(SHORTEST, LONGEST, 2, endpoint=True))
        yield cv2.resize(kept[i % len(kept)], (width, height))


def measured(predictor: Any, count: int, every: int) -> list[dict[str, float]]:
    """A row after every `every` pictures: how many, resident MB, seconds since the start."""
    begin, rows = time.perf_counter(), []
    for i, picture in enumerate(pictures(count), 1):
        predictor.predict(picture)
        if i % every == 0:
            rows.append(
                {
                    "pictures": i,
                    "resident_mb": round(resident_mb(), 1),
                    "seconds": round(time.perf_counter() - begin, 1),
                }
            )
            print(
                "{pictures:>8} {resident_mb:>8.0f} MB {seconds:>6.0f} s".format(**rows[-1]),
                flush=True,
            )
    return rows


def growth(rows: list[dict[str, float]]) -> float | None:
    """Mean of the last quarter against the second quarter, as a share; None for fewer than four
    rows."""
    sizes, quarter = [row["resident_mb"] for row in rows], len(rows) // 4
    if not quarter:
        return None
    early = float(np.mean(sizes[quarter : 2 * quarter]))
    return float(np.mean(sizes[-quarter:])) / early - 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="hqnet-small", help="a shipped name or a weights file")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--no-trim", action="store_true", help="leave the C library's heap alone")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    predictor = load(given.model, "cpu")
    if given.no_trim:
        predictor._heap._trim = None
    rows = measured(predictor, given.pictures, given.every)
    share = growth(rows)
    asked = {k: str(v) if isinstance(v, Path) else v for k, v in vars(given).items()}
    results = {"machine": machine(), "asked": asked, "rows": rows, "growth": share}
    if share is not None:
        print(f"growth {share:+.1%} (last against second quarter)")
    if given.out:
        given.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
