"""Who keeps identities best? Query and motion, motion only, ByteTrack and OC-SORT on the same
detections.

    python -m benchmarks.tracking_quality --data DATA/tracking --out tracking_quality.json

Three kinds of detections: what a model finds in real clips (`--weights`, default the shipped
one), the true boxes of the same clips with jitter, drop-outs and false alarms (no queries
there), and what a model finds in generated clips with crossings and things in the way
(`--clip-weights`). A model looks once; all trackers then see the same people, and with `--cache
FOLDER` the next run sees them too without looking. ByteTrack and OC-SORT need
`humanquery[trackers]` and are left out where it is missing. Births start at the same score
everywhere.
"""

import argparse
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from benchmarks.results import save
from humanquery import load
from humanquery.core.batch import Sample
from humanquery.core.boxes import clip as clipped
from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons
from humanquery.core.skeleton import Skeleton
from humanquery.core.target import Target
from humanquery.data.readers.mot import MotSource
from humanquery.data.readers.posetrack import read_pose_clip
from humanquery.data.scenes.clips import GeneratedClips
from humanquery.data.scenes.clips import open as open_clips
from humanquery.evaluation.posetrack_ap import PoseReport, evaluate_poses
from humanquery.evaluation.track_metrics import TrackingScores, evaluate_tracking
from humanquery.media.images import read_image
from humanquery.predict.base import find_weights
from humanquery.predict.predictor import Predictor
from humanquery.predict.track_video import track_config
from humanquery.tracking import TrackBook, TrackConfig, Tracker
from humanquery.tracking.peers import PeerConfig, PeerTracker

CROSSINGS = GeneratedClips(
    seed=11, count=6, split="test", size=(160, 160), people=(2, 3), height_fraction=(0.6, 0.9)
)
"""people as large as those that the tiny recipe learns from"""
SHOWN = {"mota": "MOTA", "idf1": "IDF1", "hota": "HOTA", "assa": "AssA"}
Asked = Callable[[TrackConfig], Tracker]
TRACKERS: dict[str, Asked] = {
    "query and motion": lambda config: TrackBook(replace(config, appearance=True)),
    "motion only": lambda config: TrackBook(_without_query(config)),
    "ByteTrack": lambda config: PeerTracker(
        PeerConfig("bytetrack", config.birth_score, config.patience)
    ),
    "OC-SORT": lambda config: PeerTracker(
        PeerConfig("ocsort", config.birth_score, config.patience)
    ),
}


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip's truth and what was found in it, frame by frame."""

    name: str
    truth: list[Target]
    found: list[Persons]


def _without_query(config: TrackConfig) -> TrackConfig:
    return replace(config, appearance=False)


def real_clips(folder: Path) -> dict[str, tuple[list[Target], Callable[[], Iterator]]]:
    """Truth by name of every clip, and a function that gives its pictures one by one."""
    found = {}
    for path in sorted(folder.iterdir()):
        if (path / "poses.json").is_file():
            frames = read_pose_clip(path / "poses.json")
            pictures = [path / "img1" / frame.file_name for frame in frames]
            found[path.name] = (
                [f.target for f in frames],
                lambda pictures=pictures: map(read_image, pictures),
            )
        elif (path / "gt" / "gt.txt").is_file():
            source = MotSource(path)
            truth = [frame.target(source.image_size) for frame in source.frames]
            found[path.name] = (
                truth,
                lambda source=source: (source[i].image for i in range(len(source))),
            )
    return found


@dataclass(frozen=True, eq=False)
class Model:
    """A model, and where what it found is kept for the next run (None: nowhere)."""

    predictor: Predictor
    cache: Path | None = None

    @property
    def config(self) -> TrackConfig:
        return track_config(self.predictor)

    def people_in(self, name: str, pictures: Callable[[], Iterable]) -> list[Persons]:
        """Boxes, queries and (where the model has them) joints that it finds in the pictures of
        the clip of this name."""
        kept = None if self.cache is None else self.cache / f"{name}.pt"
        if kept is not None and kept.exists():
            return [_unpacked(frame) for frame in torch.load(kept, weights_only=True)]
        score = self.config.keep_score
        tasks = [name for name in ("keypoints",) if name in self.predictor.outputs]
        found = list(self.predictor.predict_many(pictures(), score=score, tasks=tasks))
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            torch.save([_packed(people) for people in found], kept)
        return found


def open_model(weights: str | None, cache: Path | None = None) -> Model:
    """The model of these weights; what it finds is kept in a folder of `cache` that is named
    after the file's contents."""
    if cache is not None:
        cache = cache / hashlib.sha256(find_weights(weights).read_bytes()).hexdigest()[:12]
    return Model(load(weights), cache)


def _packed(people: Persons) -> dict:
    skeleton = people.skeleton.name if people.skeleton else None
    values = {name: value.clone() for name, _, value in people.filled()}
    return {"image_size": tuple(people.image_size), "skeleton": skeleton, "values": values}


def _unpacked(frame: dict) -> Persons:
    skeleton = Skeleton.named(frame["skeleton"]) if frame["skeleton"] else None
    return Persons(image_size=frame["image_size"], skeleton=skeleton, **frame["values"])


def noisy(
    truth: list[Target], seed: int = 0, jitter: float = 0.03, missed: float = 0.1
) -> list[Persons]:
    """True boxes with every side moved by `jitter` of the box (standard deviation), some missed,
    and one false alarm in ten frames; scores of 0.5 to 1 (0.3 to 0.6 for a false one)."""
    random = torch.Generator().manual_seed(seed)
    frames = []
    for target in truth:
        people = target.people().boxes
        kept = people[torch.rand(len(people), generator=random) >= missed]
        sides = (kept[:, 2:] - kept[:, :2]).repeat(1, 2)
        boxes = kept + jitter * sides * torch.randn(len(kept), 4, generator=random)
        scores = 0.5 + 0.5 * torch.rand(len(kept), generator=random)
        if len(kept) and torch.rand(1, generator=random) < 0.1:
            place = torch.rand(2, generator=random) * torch.tensor(target.image_size[::-1])
            boxes = torch.cat([boxes, torch.cat([place, place + sides[0, :2]])[None]])
            scores = torch.cat([scores, 0.3 + 0.3 * torch.rand(1, generator=random)])
        order = scores.argsort(descending=True)
        size = target.image_size
        frames.append(
            Persons(image_size=size, boxes=clipped(boxes, size)[order], scores=scores[order])
        )
    return frames


def poses(folder: Path, config: TrackConfig, found: dict[str, list[Persons]]) -> PoseReport | None:
    """PoseTrack's scores of the clips with joints, followed by query and motion; None where
    there are none."""
    files = {path.parent.name: path for path in sorted(folder.glob("*/poses.json"))}
    if not files:
        return None
    book = {name: TRACKERS["query and motion"](config) for name in files}
    return evaluate_poses(
        {name: (read_pose_clip(f), followed(book[name], found[name])) for name, f in files.items()}
    )


def painted(
    config: GeneratedClips, seeds: Iterable[int] = (CROSSINGS.seed,)
) -> dict[str, list[Sample]]:
    """Clips by a name that says all about them."""
    clips = {}
    for seed in seeds:
        source = open_clips(replace(config, seed=seed))
        clips |= {
            f"generated {seed}-{i} of {config.frames}": list(source.clip(i))
            for i in range(len(source))
        }
    return clips


def generated(clips: dict[str, list[Sample]], model: Model) -> list[Clip]:
    """The painted clips as this model sees them."""
    return [
        Clip(
            name,
            [s.target for s in frames],
            model.people_in(name, lambda frames=frames: (s.image for s in frames)),
        )
        for name, frames in clips.items()
    ]


def followed(tracker: Tracker, found: list[Persons]) -> list[Persons]:
    return [tracker.update(people) for people in found]


def compare(
    clips: list[Clip], config: TrackConfig, names: Iterable[str]
) -> dict[str, dict[str, TrackingScores]]:
    """Scores of every tracker by clip, and "combined"."""
    found = {}
    for name in names:
        tracked = {
            clip.name: (clip.truth, followed(TRACKERS[name](config), clip.found)) for clip in clips
        }
        report = evaluate_tracking(tracked)
        found[name] = {**report.sequences, "combined": report.combined}
    return found


def show(title: str, scores: dict[str, dict[str, TrackingScores]]) -> str:
    lines = [f"\n{title}", "| clip | tracker | " + " | ".join(SHOWN.values()) + " | switches |"]
    lines.append("|---" * (len(SHOWN) + 3) + "|")
    for clip in next(iter(scores.values())):
        for name, by_clip in scores.items():
            one = by_clip[clip]
            cells = ["-" if getattr(one, k) is None else f"{getattr(one, k):.3f}" for k in SHOWN]
            lines.append(f"| {clip} | {name} | {' | '.join(cells)} | {one.switches} |")
    return "\n".join(lines)


def there(names: Iterable[str]) -> list[str]:
    """Those of the trackers that are installed."""
    kept = []
    for name in names:
        try:
            TRACKERS[name](TrackConfig())
        except ConfigError as problem:
            print(f"{name} is left out: {problem}")
            continue
        kept.append(name)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="folder with clips in MOT layout or with poses.json"
    )
    parser.add_argument("--weights", help="for the real clips; a name or a file")
    parser.add_argument(
        "--clip-weights", help="for the generated clips; without it they are left out"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=("found", "noisy", "generated"),
        default=["found", "noisy", "generated"],
    )
    parser.add_argument(
        "--clips", type=int, default=CROSSINGS.count, help="generated clips of each seed"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[CROSSINGS.seed], help="of the generated clips"
    )
    parser.add_argument(
        "--frames", type=int, default=CROSSINGS.frames, help="of each generated clip"
    )
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument(
        "--cache", type=Path, help="folder where what the models find is kept for the next run"
    )
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    names, results = there(TRACKERS), {}
    real = real_clips(given.data) if given.data else {}

    def report_on(title: str, clips: list[Clip], config: TrackConfig, trackers: list[str]) -> None:
        scores = compare(clips, config, trackers)
        print(show(title, scores), flush=True)
        results[title] = {
            name: {c: asdict(s) for c, s in by_clip.items()} for name, by_clip in scores.items()
        }
        save(given.out, given, results=results)

    if real and "noisy" in given.only:
        clips = [Clip(name, truth, noisy(truth)) for name, (truth, _) in real.items()]
        report_on(
            "true boxes with noise",
            clips,
            TrackConfig(),
            [n for n in names if n != "query and motion"],
        )
    if given.clip_weights and "generated" in given.only:
        model = open_model(given.clip_weights, given.cache)
        clips = painted(replace(CROSSINGS, count=given.clips, frames=given.frames), given.seeds)
        report_on("found in generated clips", generated(clips, model), model.config, names)
    if real and "found" in given.only:
        model = open_model(given.weights, given.cache)
        clips = [
            Clip(name, truth, model.people_in(name, look)) for name, (truth, look) in real.items()
        ]
        report_on("found in real clips", clips, model.config, names)
        report = poses(given.data, model.config, {clip.name: clip.found for clip in clips})
        if report is not None:
            print(f"\n{report}")
            results["poses"] = report.to_json()
            save(given.out, given, results=results)


if __name__ == "__main__":
    main()
