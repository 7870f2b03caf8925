"""Stages side by side against one after the other, and memory over many pictures.

    python -m benchmarks.whole_body_pipeline --weights body.safetensors --boxes hqnet-small \\
        --clip FILE [--frames 60] [--repeat 1] [--out numbers.json]

Prints seconds of wall and processor time per frame of both ways, whether their poses are equal,
and the resident memory after each quarter of the frames.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from benchmarks.memory import resident_mb
from benchmarks.results import save
from humanquery.core.persons import Persons
from humanquery.media.video import open_video
from humanquery.predict import load
from humanquery.predict.whole_body import Job, WholeBodyPredictor


def one_by_one(predictor: WholeBodyPredictor, frames: Iterator[np.ndarray]) -> Iterator[Persons]:
    """All stages of a frame before the next one is touched."""
    ask = predictor.ask()
    for frame in frames:
        job = Job(frame, frame)
        for stage in (lambda j: predictor._find(j, ask.score), predictor._crop, predictor._pose):
            job = stage(job)
        yield predictor._join(job, ask).people


def timed(
    look: Callable, frames: list[np.ndarray], repeat: int
) -> tuple[list, dict[str, float | list[int]]]:
    """Joints of every frame's people, and what a frame cost."""
    people, memory = [], []
    total = len(frames) * repeat
    wall, processor = time.perf_counter(), time.process_time()
    source = (frame for _ in range(repeat) for frame in frames)
    for i, found in enumerate(look(source)):
        if i < len(frames):
            people.append(found.keypoints)
        if (i + 1) % max(1, total // 4) == 0:
            memory.append(round(resident_mb()))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    cost = {"wall ms": 1e3 * wall / total, "CPU ms": 1e3 * processor / total, "memory MB": memory}
    print(f"  {cost['wall ms']:8.1f} ms wall, {cost['CPU ms']:8.1f} ms CPU, memory {memory} MB")
    return people, cost


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", required=True)
    parser.add_argument("--boxes", default=None)
    parser.add_argument("--clip", required=True)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON of all numbers")
    options = parser.parse_args()
    predictor = load(options.weights, "cpu", boxes=options.boxes)
    with open_video(options.clip) as video:
        frames = [frame.image for frame in islice(iter(video), options.frames)]
    list(predictor.predict_many(frames[:2]))
    print(f"{len(frames)} frames x {options.repeat}, {torch.get_num_threads()} thread(s) per stage")
    print("one after the other:")
    alone, before = timed(lambda f: one_by_one(predictor, f), frames, 1)
    print("stages side by side:")
    together, after = timed(predictor.predict_many, frames, options.repeat)
    equal = all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    ratio = before["wall ms"] / after["wall ms"]
    print(f"equal poses: {equal}; {ratio:.2f} times as fast")
    save(options.out, options, alone=before, stages=after, equal=equal, ratio=ratio)


if __name__ == "__main__":
    main()
