"""Predicting on the CPU: folded norms, padding inside convolutions, pictures side by side,
feed-forward in parts.

    python -m benchmarks.predicting --out predicting.json

What is compared runs in turns; ratios are to the first row of a part, in the same round, of CPU
seconds for one thread and of the clock's where pictures share the threads. Page faults: run it once
more with THP_MEM_ALLOC_ENABLE=1.
"""

import argparse
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.results import save
from benchmarks.whole_model import compared, in_turns, table
from humanquery.data.scenes.scenes import open as open_scenes
from humanquery.data.scenes.scenes import street_scenes
from humanquery.nn import transformer
from humanquery.nn.inference import fold_norms
from humanquery.predict.loading import look_once, trained
from humanquery.predict.predictor import Predictor

TOKENS = ((100, 136), (50, 68), (25, 34), (13, 17))  # of a picture of 800 x 1088, strides 8 to 64


def predictor(name: str, *, norms: bool) -> Predictor:
    """The model of a weights file, with its norms folded, or as it was trained."""
    system, card = trained(name)
    if norms:
        fold_norms(system.backbone, lambda: look_once(system.backbone))
    return Predictor(system, card, "cpu")


def network_part(name: str, pictures: list, rounds: int) -> dict[str, Any]:
    """One thread, one picture at a time."""
    torch.set_num_threads(1)
    built = {
        "as trained": predictor(name, norms=False),
        "norms folded": predictor(name, norms=True),
    }
    cases = {k: lambda p=p: [p.predict(picture) for picture in pictures] for k, p in built.items()}
    return compared(_each(in_turns(cases, rounds), len(pictures)), "as trained")


def pictures_part(name: str, pictures: list, rounds: int, threads: int) -> dict[str, Any]:
    """Groups of four: as one batch, one after the other with all threads, side by side (what
    `predict_many` does)."""
    torch.set_num_threads(threads)
    model = predictor(name, norms=True, padding=True)
    ask = model.ask()
    groups = [pictures[i : i + 4] for i in range(0, len(pictures), 4)]
    cases = {
        "batches of four": lambda: [model._batch(group, ask) for group in groups],
        "one by one": lambda: [model.predict(picture) for picture in pictures],
        "side by side": lambda: list(model.predict_many(pictures, batch_size=4)),
    }
    return compared(_each(in_turns(cases, rounds), len(pictures)), "batches of four", "clock")


def feed_forward_part(rounds: int, threads: int) -> dict[str, Any]:
    """An encoder layer of the paper's size on a picture of 800 x 1088."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    layer = transformer.EncoderLayer(transformer.LayerConfig()).eval()
    count = sum(h * w for h, w in TOKENS)
    memory, position = torch.randn(2, 1, count, 256).unbind()
    given = (
        memory,
        position,
        torch.rand(1, count, 4, 2),
        torch.zeros(1, count, dtype=torch.bool),
        TOKENS,
    )

    def run(rows: int) -> None:
        with mock.patch.object(transformer, "TOGETHER", rows):
            layer(*given)

    cases = {
        f"{rows} rows a thread": lambda r=rows: run(r)
        for rows in (count, 4096, transformer.TOGETHER, 256)
    }
    return compared(in_turns(cases, rounds), f"{count} rows a thread", "clock")


def _each(
    seconds: dict[str, dict[str, list[float]]], count: int
) -> dict[str, dict[str, list[float]]]:
    return {
        name: {k: [s / count for s in v] for k, v in kinds.items()}
        for name, kinds in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="hqnet-small", help="a shipped name or a weights file")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    scenes = open_scenes(street_scenes(seed=1, size=(480, 640)))
    pictures = [scenes[i].image for i in range(given.pictures)]
    parts: dict[str, Any] = {}
    with torch.inference_mode():
        for part, run in {
            "one thread": lambda: network_part(given.model, pictures, given.rounds),
            f"{given.threads} threads": lambda: pictures_part(
                given.model, pictures, given.rounds, given.threads
            ),
            "feed-forward": lambda: feed_forward_part(given.rounds, given.threads),
        }.items():
            parts[part] = run()
            print(table(part, parts[part]), flush=True)
            save(given.out, given, parts=parts)


if __name__ == "__main__":
    main()
