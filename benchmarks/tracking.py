"""How fast people are associated: frames per second of `TrackBook.update` on one core, without any
network.

Counted in processor time of the thread, so that other work on the machine disturbs little.

    python -m benchmarks.tracking --people 10 50 200 --out tracking.json

Made-up walkers with queries of 256 numbers, 17 joints and a pixel of noise, in random order; the
ids are checked.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from benchmarks.results import save
from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17
from humanquery.tracking import SmoothConfig, TrackBook, TrackConfig

SIZE = (1080, 1920)
CONFIGS = {
    "query": TrackConfig(),
    "query, smoothed": TrackConfig(smooth=SmoothConfig()),
    "motion only": TrackConfig(appearance=False),
}


def walk(people: int, frames: int, seed: int = 0) -> list[tuple[Persons, torch.Tensor]]:
    """Frames with the number of each person in them."""
    random = torch.Generator().manual_seed(seed)
    start = torch.rand(people, 2, generator=random) * torch.tensor([1700.0, 900.0])
    step = torch.randn(people, 2, generator=random)
    queries = torch.randn(people, 256, generator=random)
    joints = torch.rand(people, 17, 2, generator=random) * torch.tensor([40.0, 100.0])
    made = []
    for t in range(frames):
        corner = start + step * t + torch.randn(people, 2, generator=random)
        order = torch.randperm(people, generator=random)
        made.append(
            (
                Persons(
                    image_size=SIZE,
                    boxes=torch.cat([corner, corner + torch.tensor([40.0, 100.0])], 1)[order],
                    scores=torch.full((people,), 0.9),
                    keypoints=(corner[:, None] + joints)[order],
                    keypoint_scores=torch.ones(people, 17),
                    embeddings=(queries + 0.2 * torch.randn(people, 256, generator=random))[order],
                    gender=torch.full((people,), 0.5),
                    age=torch.full((people,), 30.0),
                    skeleton=COCO17,
                ),
                order,
            )
        )
    return made


def measure(config: TrackConfig, clip: list[tuple[Persons, torch.Tensor]]) -> dict[str, float]:
    """Frames per second over the clip, at the median frame, and the share of people with their
    first id at the end."""
    book, seconds = TrackBook(config), []
    first: dict[int, int] = {}
    for persons, order in clip:
        start = time.thread_time()
        found = book.update(persons)
        seconds.append(time.thread_time() - start)
        named = (
            dict(zip(order.tolist(), found.track_ids.tolist(), strict=True))
            if len(found) == len(order)
            else {}
        )
        first = first or named
    kept = sum(first[k] == name for k, name in named.items()) / max(len(first), 1)
    return {
        "fps": len(clip) / sum(seconds),
        "fps_median": 1 / statistics.median(seconds),
        "ids_kept": kept,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict[str, dict[str, float]]] = {}
    print(f"{'':20}{'people':>8}{'frames/s':>11}{'at median':>11}{'ids kept':>10}")
    for people in given.people:
        clip = walk(people, given.frames)
        for name, config in CONFIGS.items():
            found = measure(config, clip)
            results.setdefault(name, {})[str(people)] = found
            print(
                f"{name:20}{people:>8}{found['fps']:>11.0f}{found['fps_median']:>11.0f}{found['ids_kept']:>10.1%}"
            )
    save(given.out, given, results=results)


if __name__ == "__main__":
    main()
