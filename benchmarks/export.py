"""Seconds per picture of the network in PyTorch and of its exported files, alternating picture by picture in one run.

python -m benchmarks.export model.onnx [model.pt2 ...] [--weights hqnet-small] [--threads 1] [--out export.json]
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from humanquery.data.scenes import Scenes, street_scenes
from humanquery.engine.report import machine
from humanquery.predict import Looker, load
from humanquery.predict.exported import open_exported

PICTURES = 20


def measure(lookers: dict[str, Looker], pictures: int = PICTURES) -> dict[str, float]:
    """Median seconds from a picture in memory to its `Persons`, masks at the picture's size included."""
    scenes = Scenes(street_scenes(seed=11))
    times: dict[str, list[float]] = {name: [] for name in lookers}
    for i in range(pictures + 1):
        image = scenes[i % len(scenes)].image
        for name, looker in lookers.items():
            start = time.perf_counter()
            looker.predict(image)
            if i:  # the first picture warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--weights", default="")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lookers: dict[str, Looker] = {"torch": load(arguments.weights or None, "cpu")}
    lookers |= {path.name: open_exported(path, "cpu", arguments.threads) for path in arguments.files}
    seconds = measure(lookers)
    for name, median in seconds.items():
        print(f"{name:30}{1000 * median:10.1f} ms{seconds['torch'] / median:8.2f}x")
    if arguments.out:
        said = {"machine": machine(), "threads": arguments.threads, "seconds": seconds}
        arguments.out.write_text(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
