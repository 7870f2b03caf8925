"""How fast is `humanquery track`, and does what makes it fast cost identities?

    python -m benchmarks.track_speed --clip street.mp4 --data DATA/tracking --cache FOLDER

Each way follows the same frames of the clip with drawing and encoding, in turns of `--rounds`:

* `everything`: masks, gender and age of everybody found, in every frame (what `track` did until
  they could be asked for late);
* `late`: masks of those who are followed, gender and age now and then (what `track` does);
* `late, fast`: the same with `hqnet-small-fast`, which looks for joints at one size of picture.

With `--data` the ids are scored on labelled clips, once for each set of detections: `late` has
those of `everything` (a test holds that they are equal), the fast model has others. `--cache` as in
`benchmarks.tracking_quality`.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.results import save
from benchmarks.tracking_quality import SHOWN, Clip, Model, compare, open_model, real_clips
from humanquery.core.persons import Persons
from humanquery.predict.base import BasePredictor
from humanquery.predict.track_video import track_video

MODELS = ("hqnet-small", "hqnet-small-fast")
WAYS = {
    "everything": ("hqnet-small", False),
    "late": ("hqnet-small", True),
    "late, fast": ("hqnet-small-fast", True),
}
"""name of a way -> the model, and whether it is asked late"""


class AtOnce(BasePredictor):
    """The same model, with nothing that it says late."""

    def __init__(self, predictor: BasePredictor):
        self._predictor, self.card, self.outputs = predictor, predictor.card, predictor.outputs
        self.path = predictor.path

    def predict_many(self, pictures: Iterable, **wanted) -> Iterator[Persons]:
        return self._predictor.predict_many(pictures, **wanted)


@dataclass(frozen=True)
class Speed:
    """Of a whole run: decoding, looking, following, drawing, encoding."""

    frames: int
    people: int
    seconds: float
    cpu_seconds: float

    def row(self, name: str) -> str:
        rate, cost = self.frames / self.seconds, self.cpu_seconds / self.frames
        per_frame = self.people / self.frames
        return f"| {name} | {per_frame:.1f} | {rate:.2f} | {cost:.2f} |"


def followed(predictor: BasePredictor, clip: Path, frames: int) -> Speed:
    with tempfile.TemporaryDirectory() as out:
        wall, cpu = time.perf_counter(), time.process_time()
        found = track_video(predictor, clip, Path(out), max_frames=frames, progress=False)
        return Speed(
            found.frames, found.people, time.perf_counter() - wall, time.process_time() - cpu
        )


def speeds(
    models: dict[str, Model], clip: Path, frames: int, rounds: int
) -> dict[str, list[Speed]]:
    """Each way's runs, in turns."""
    found: dict[str, list[Speed]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, (weights, late) in WAYS.items():
            predictor = models[weights].predictor
            found[name].append(followed(predictor if late else AtOnce(predictor), clip, frames))
    return found


def identities(models: dict[str, Model], data: Path) -> dict[str, dict[str, float | int | None]]:
    """Scores over all labelled clips, by the model that found the people."""
    scores = {}
    for weights, model in models.items():
        real = real_clips(data).items()
        clips = [Clip(name, truth, model.people_in(name, look)) for name, (truth, look) in real]
        (by_clip,) = compare(clips, model.config, ["motion only"]).values()
        one = by_clip["combined"]
        scores[weights] = {k: getattr(one, k) for k in (*SHOWN, "switches")}
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clip", type=Path, required=True, help="a video of several people")
    parser.add_argument("--data", type=Path, help="labelled clips, see benchmarks.tracking_quality")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument("--cache", type=Path, help="folder where what the models find is kept")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    models = {name: open_model(name, given.cache and given.cache / name) for name in MODELS}
    runs = speeds(models, given.clip, given.frames, given.rounds)
    print("| | people a frame | frames/s | CPU s a frame |\n|---|---|---|---|")
    for name, of_way in runs.items():
        for one in of_way:
            print(one.row(name), flush=True)
    results = {"speeds": {name: [vars(one) for one in of_way] for name, of_way in runs.items()}}
    if given.data:
        results["identities"] = identities(models, given.data)
        print(f"\n| detections | {' | '.join(SHOWN.values())} | switches |\n" + "|---" * 6 + "|")
        for weights, by_name in results["identities"].items():
            cells = [f"{by_name[k]:.3f}" for k in SHOWN]
            print(f"| {weights} | {' | '.join(cells)} | {by_name['switches']} |")
    save(given.out, given, **results)


if __name__ == "__main__":
    main()
