"""CPU seconds per picture of the network in PyTorch and of its exported files, in turns within
one run.

    python -m benchmarks.export model.onnx model.pt2 --photos FOLDER --out export.json

From a picture in memory to its `Persons`, masks at the picture's size included: of the people
over the model's threshold, and of everybody whom the model can give (`score=0`), which is what
each picture would cost if a graph could not stop at the threshold.
"""

import argparse
import sys
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results import save
from benchmarks.whole_model import compared, in_turns, table
from humanquery.data.scenes.scenes import Scenes, street_scenes
from humanquery.media.images import read_image
from humanquery.predict import BasePredictor, load
from humanquery.predict.exported_predictor import open_exported
from humanquery.predict.predict_folder import find_pictures

SCORES = {"people over the threshold": None, "everybody": 0.0}


def pictures_of(photos: Path | None, count: int) -> list[np.ndarray]:
    """The first pictures of a folder, or generated streets."""
    if photos:
        return [read_image(path) for path in find_pictures([str(photos)])[:count]]
    scenes = Scenes(street_scenes(seed=11))
    return [scenes[i % len(scenes)].image for i in range(count)]


def measure(
    predictors: dict[str, BasePredictor], pictures: list[np.ndarray], rounds: int
) -> dict[str, dict[str, Any]]:
    """Each round looks at one picture with every predictor, at both scores."""
    cases = {}
    for name, predictor in predictors.items():
        for what, score in SCORES.items():
            turn = cycle(pictures)
            cases[f"{name}, {what}"] = lambda p=predictor, t=turn, s=score: p.predict(
                next(t), score=s
            )
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
    predictors: dict[str, BasePredictor] = {"PyTorch": load(given.weights or None, "cpu")}
    predictors |= {path.name: open_exported(path, "cpu", threads=1) for path in given.files}
    rows = measure(predictors, pictures_of(given.photos, given.rounds + 1), given.rounds)
    print(table("picture to people", rows))
    save(given.out, given, seconds=rows)


if __name__ == "__main__":
    main()
