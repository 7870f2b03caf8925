"""What a video costs beside the model: time of tracking, throughput of the whole, and memory
over ten thousand frames.

    python -m benchmarks.video --out video.json

* `tracking`: time of `TrackBook.update` for 10 and 50 people over the time of one prediction (at
  most 5 % is wanted).
* `throughput`: frames per second of `track_video` (decode, predict, track, paint, write) over those
  of its slowest stage alone (at least 85 % is wanted). Needs as many free cores as there are busy
  stages.
* `memory`: growth of the resident memory from frame 500 to the last of 10,000 (at most 50 MB is
  wanted). A stand-in that finds the same twelve walkers in every picture takes the model's place:
  the pipeline is what is measured.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.memory import resident_mb
from benchmarks.results import save
from benchmarks.tracking import walk
from humanquery import load
from humanquery.core.persons import Persons
from humanquery.data.scenes.clips import GeneratedClips
from humanquery.data.scenes.clips import open as open_clips
from humanquery.draw import draw
from humanquery.media.video import open_video
from humanquery.media.video_writer import VideoWriter
from humanquery.predict.base import BasePredictor
from humanquery.predict.track_video import track_config, track_frames, track_video
from humanquery.tracking import TrackBook

PERIOD = 200
"""frames after which the walkers of the stand-in start again"""
NOTED = 20
"""frames between two readings of the resident memory"""
WARM = 500
"""the frame from which growth is counted: until then caches fill"""


class StandIn(BasePredictor):
    """Finds made-up walkers in any picture, and notes the resident memory after every `NOTED`."""

    def __init__(self, people: int = 12):
        self.card, self.outputs = {"score_threshold": 0.5}, {}
        self._walkers = [persons for persons, _ in walk(people, PERIOD)]
        self.pictures = 0
        self.memory: dict[int, float] = {}
        """MB by number of pictures"""

    def predict_many(self, pictures: Iterable, **_) -> Iterator[Persons]:
        for picture in pictures:
            step = self.pictures % (2 * PERIOD)
            people = self._walkers[min(step, 2 * PERIOD - 1 - step)]  # there and back again
            self.pictures += 1
            if self.pictures % NOTED == 0:
                self.memory[self.pictures] = resident_mb()
            yield people.replace(image_size=picture.shape[:2])


def film(path: Path, frames: int, size: tuple[int, int], painted: int = 40) -> Path:
    """A video of walking people; after `painted` frames it starts again."""
    clip = open_clips(
        GeneratedClips(count=1, frames=min(painted, frames), size=size, people=(4, 4))
    )
    pictures = [sample.image for sample in clip.clip(0)]
    with VideoWriter(path, 25) as writer:
        for t in range(frames):
            writer.write(pictures[t % len(pictures)])
    return path


def per_call(calls: Iterable) -> float:
    """Median seconds from one item to the next."""
    seconds, begun = [], time.perf_counter()
    for _ in calls:
        now = time.perf_counter()
        seconds.append(now - begun)
        begun = now
    return statistics.median(seconds)


def tracking(predictor, pictures: list[np.ndarray]) -> dict[str, float]:
    """Milliseconds of one prediction, and the share of it that the association of so many people
    takes."""
    predict = per_call(predictor.predict_many(iter(pictures), batch_size=1))
    found = {"predict, ms": predict * 1e3}
    for people in (10, 50):
        book, clip = TrackBook(), [persons for persons, _ in walk(people, 100)]
        track = per_call(map(book.update, clip))
        found |= {
            f"track {people} people, ms": track * 1e3,
            f"share with {people} people": track / predict,
        }
    return found


def throughput(predictor, clip: Path, out: Path) -> dict[str, float]:
    """Frames per second of every stage alone and of the whole."""
    rates, frames = {}, []

    def timed(name: str, step) -> None:
        begun = time.perf_counter()
        step()
        rates[name] = len(frames) / (time.perf_counter() - begun)

    def decode() -> None:
        with open_video(clip) as video:
            frames.extend(video)

    followed: list = []
    timed("decode", decode)
    book = TrackBook(track_config(predictor))
    timed("predict and track", lambda: followed.extend(track_frames(predictor, iter(frames), book)))

    def write() -> None:
        with VideoWriter(out / "alone.mp4", 25) as writer:
            for frame, people in followed:
                writer.write(draw(frame.image, people), frame.seconds)

    timed("paint and write", write)
    timed(
        "everything",
        lambda: track_video(predictor, clip, out, save=("video", "json"), progress=False),
    )
    return rates | {
        "share": rates["everything"] / min(v for k, v in rates.items() if k != "everything")
    }


def memory(
    clip: Path, out: Path, stand_in: StandIn | None = None, warm: int = WARM
) -> dict[str, float]:
    """MB at frame `warm` and at the end, and the growth between."""
    stand_in = stand_in or StandIn()
    begun = time.perf_counter()
    result = track_video(stand_in, clip, out, save=("video", "json", "mot", "coco"), progress=False)
    early, late = stand_in.memory[warm], stand_in.memory[max(stand_in.memory)]
    seconds = time.perf_counter() - begun
    return {
        "frames": result.frames,
        f"at {warm}, MB": early,
        "at the end, MB": late,
        "growth, MB": late - early,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", help="a name or a file; default: the shipped model")
    parser.add_argument("--only", nargs="+", choices=("tracking", "throughput", "memory"))
    parser.add_argument("--frames", type=int, default=60, help="of tracking and throughput")
    parser.add_argument("--long", type=int, default=10_000, help="frames of memory")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    wanted, results = given.only or ("tracking", "throughput", "memory"), {}

    def report(name: str, found: dict[str, float]) -> None:
        results[name] = found
        print("\n".join([name, *(f"  {k:<26}{v:>12.4g}" for k, v in found.items())]), flush=True)
        save(given.out, given, results=results)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        if {"tracking", "throughput"} & set(wanted):
            predictor = load(given.weights)
            clip = film(out / "clip.mp4", given.frames, (360, 480))
            if "tracking" in wanted:
                with open_video(clip) as video:
                    report("tracking", tracking(predictor, [frame.image for frame in video]))
            if "throughput" in wanted:
                report("throughput", throughput(predictor, clip, out / "whole"))
        if "memory" in wanted:
            report("memory", memory(film(out / "long.mp4", given.long, (120, 160)), out / "long"))


if __name__ == "__main__":
    main()
