"""CPU seconds per picture of the network in PyTorch and of its exported files, in turns within
one run.

python -m benchmarks.export model.onnx [model.pt2 ...] [--weights hqnet-small] [--photos DIR] [--rounds 20] [--out export.json]

From a picture in memory to its `Persons`, masks at the picture's size included: of the people
over the model's threshold, and of everybody whom the model can give (`score=0`), which is what
each picture would cost if a graph could not stop at the threshold.
"""

import argparse
import json
import sys
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.whole_model import compared, in_turns, table
from humanquery.data.scenes.scenes import Scenes, street_scenes
from humanquery.engine.curves import machine
from humanquery.media.images import read_image
from humanquery.predict import BasePredictor, load
from humanquery.predict.exported_predictor import open_exported
from humanquery.predict.predict_folder import find_pictures

SCORES = {"people over the threshold": None, "everybody": 0.0}


def looked_at(photos: Path | None, count: int) -> list[np.ndarray]:
    """The first pictures of a folder, or generated streets."""
    if photos:
        return [read_image(path) for path in find_pictures([str(photos)])[:count]]
    scenes = Scenes(street_scenes(seed=11))
    return [scenes[i % len(scenes)].image for i in range(count)]


def measure(
    lookers: dict[str, BasePredictor], pictures: list[np.ndarray], rounds: int
) -> dict[str, dict[str, Any]]:
    """Each round looks at one picture with every looker, at both scores."""
    cases = {}
    for name, looker in lookers.items():
        for what, score in SCORES.items():
            turn = cycle(pictures)
            cases[f"{name}, {what}"] = lambda a=looker, b=turn, c=score: a.predict(next(b), score=c)
    return compared(in_turns(cases, rounds), next(iter(cases)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--weights", default="")
    parser.add_argument("--photos", type=Path, help="default: generated streets")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--openvino", type=Path, help="folder that holds the package openvino")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.openvino:
        sys.path.append(str(given.openvino))
    lookers: dict[str, BasePredictor] = {"PyTorch": load(given.weights or None, "cpu")}
    lookers |= {path.name: open_exported(path, "cpu", threads=1) for path in given.files}
    rows = measure(lookers, looked_at(given.photos, given.rounds + 1), given.rounds)
    print(table("picture to people", rows))
    if given.out:
        said = {"machine": machine(), "rounds": given.rounds, "seconds": rows}
        given.out.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
