"""What does looking at slices bring for small people, and what does it cost?

    python -m benchmarks.slices --data DATA/people/val.json --pictures 40 --slices 2 3

Of an annotation file, the first so many pictures that have people smaller than 32² px. The same
pictures are looked at without slices and with each number of them; box AP and CPU s a picture.
"""

import argparse
import time
from pathlib import Path

import torch

from benchmarks.results import save
from humanquery import load
from humanquery.core.target import Target
from humanquery.data.readers.coco import CocoSource, CocoSourceConfig
from humanquery.evaluation.coco_ap import CocoEvaluator
from humanquery.predict.base import BasePredictor
from humanquery.predict.slices import SliceConfig, Sliced

SMALL = 32.0**2
LEAST = 0.05
"""score from which people are scored"""


def with_small_people(source: CocoSource, most: int) -> list[int]:
    """Indices of the first pictures in which somebody who counts is small."""
    found = []
    for i in range(len(source)):
        if len(found) == most:
            break
        if has_small(source[i].target):
            found.append(i)
    return found


def has_small(target: Target) -> bool:
    return bool(((target.areas < SMALL) & ~target.ignore).any())


def scored(predictor: BasePredictor, source: CocoSource, chosen: list[int]) -> dict[str, float]:
    """Box AP of all and of small people, and the CPU time."""
    evaluator, cpu = CocoEvaluator(None), 0.0
    for i in chosen:
        sample = source[i]
        begun = time.process_time()
        people = predictor.predict(sample.image, score=LEAST, tasks=())
        cpu += time.process_time() - begun
        evaluator.add(sample.target, people)
    sizes = evaluator.scores(None).families["box"].sizes
    return {
        "ap": sizes["all"].ap,
        "small": sizes["small"].ap,
        "cpu_seconds": cpu / max(len(chosen), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", help="a name or a file")
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--slices", type=int, nargs="+", default=[2])
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    source = CocoSource(CocoSourceConfig(str(given.data)))
    predictor = load(given.weights)
    chosen = with_small_people(source, given.pictures)
    print(f"{len(chosen)} pictures\n| slices | box AP | of small | CPU s a picture |")
    print("|---|---|---|---|")
    results = {}
    for count in (1, *given.slices):
        way = predictor if count == 1 else Sliced(predictor, SliceConfig(count))
        results[str(count)] = one = scored(way, source, chosen)
        print(
            f"| {count} | {one['ap']:.3f} | {one['small']:.3f} | {one['cpu_seconds']:.2f} |",
            flush=True,
        )
        save(given.out, given, pictures=len(chosen), results=results)


if __name__ == "__main__":
    main()
