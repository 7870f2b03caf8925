"""Videos: decoding, looking and tracking, drawing and writing side by side."""

import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor

from humanquery.blur import blur_faces
from humanquery.core.config import to_plain
from humanquery.core.errors import CheckpointError
from humanquery.core.persons import Persons
from humanquery.core.system import Look
from humanquery.draw import draw
from humanquery.engine.checkpoint import atomic
from humanquery.engine.train_config import differences
from humanquery.media.output_names import OutputFolder
from humanquery.media.pictures import path_of
from humanquery.media.video import Frame, open_video
from humanquery.media.video_writer import VideoWriter
from humanquery.predict.base import BasePredictor
from humanquery.predict.pipeline import Sink, one_ahead
from humanquery.predict.track_files import FILES, checked_formats, open_files
from humanquery.tracking import TRACKERS, MSIMConfig, TrackBook, TrackConfig, Tracker
from humanquery.tracking.attributes import RefreshConfig, TrackAttributes
from humanquery.tracking.identity import IdentityEvidence
from humanquery.tracking.zones import ZoneCounter

STATE, VIDEO, BEFORE = "state.safetensors", "tracked.mp4", "tracked.before.mp4"
COUNTS = "counts.json"
STATE_EVERY = 100
"""frames between two states that `--resume` can go on from"""
AHEAD = 8
"""pictures that wait for the painter"""
ENCODERS_DELAY = 64
"""pictures that an H.264 encoder looks at together, at most"""


@dataclass
class VideoResult:
    """What became of a video."""

    frames: int = 0
    people: int = 0
    """seen in all frames together"""
    identities: int = 0
    seconds: float = 0.0
    files: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    """`field: old -> new` of what `allow_changes` let pass when the run was resumed"""


def track_frames(
    predictor: BasePredictor,
    frames: Iterator[Frame],
    book: Tracker | None = None,
    *,
    batch_size: int = 4,
    tasks: Iterable[str] | None = None,
    attributes: bool = True,
    known: TrackAttributes | None = None,
) -> Iterator[tuple[Frame, Persons]]:
    """Each frame with its people and their `track_ids`; `book` (default: a new one, see
    `track_config`) goes on with its ids.

    What a model can say late (`BasePredictor.late`) it is asked only about people who are given:
    masks in every frame, gender and age as `known` (default: a new `TrackAttributes`) says, whose
    means are given in between. The next pictures are looked at while these are followed.
    """
    book = book or TrackBook(track_config(predictor))
    known = known or TrackAttributes()
    score = book.config.keep_score
    wanted = predictor.ask(score, tasks, attributes).outputs & predictor.late
    specs = predictor.outputs
    rare = frozenset(name for name in wanted if specs[name].attribute)

    def look(group: list[Frame]) -> list[tuple[Frame, Look]]:
        images = [frame.image for frame in group]
        looks = predictor.look_many(images, score=score, tasks=tasks, attributes=attributes)
        return list(zip(group, looks, strict=True))

    for group in one_ahead(look, frames, batch_size):
        while group:  # a look is dropped as soon as it has answered: it holds maps of its picture
            frame, seen = group.pop(0)
            people = book.update(seen.persons)
            yield frame, _completed(people, seen, book, known, wanted - rare, rare)


def _completed(
    people: Persons,
    seen: Look,
    book: Tracker,
    known: TrackAttributes,
    often: frozenset[str],
    rare: frozenset[str],
) -> Persons:
    """The followed people with the outputs `often` of now, and `rare` ones as they are known."""
    if not len(people) or not often | rare:
        return people
    ids = people.track_ids.tolist()
    if often:
        people = _with_late(people, seen.more(book.given, often))
    if not rare:
        return people
    due = known.due(book.frame, ids)
    if due.any():
        asked = seen.more(book.given[due], rare).replace(track_ids=people.track_ids[due])
        known.take(book.frame, asked, rare)
    known.forget(book.confirmed_ids)
    return _with_late(people, known.means(ids, rare))


def _with_late(people: Persons, late: Persons | dict[str, Tensor]) -> Persons:
    """People with the fields that they lack and that the same people have in `late`."""
    given = late if isinstance(late, dict) else {name: v for name, _, v in late.filled()}
    lacking = {name: v for name, v in given.items() if people.get(name) is None}
    return people.replace(**lacking)


def track_config(predictor: BasePredictor, score: float | None = None, **fields) -> TrackConfig:
    """The tracker's numbers for this model: births from `score` on (default: the model's
    threshold), half of it is enough to be kept. Human queries are compared (`appearance`) if the
    model's card says what they are worth (`commands.identity`): else motion alone is surer."""
    score = predictor.default_score if score is None else score
    config = TrackConfig(birth_score=score, keep_score=score / 2, appearance=False)
    said = predictor.card.get("identity")
    if said is not None:
        evidence = IdentityEvidence(said["offset"], said["slope"])
        config = replace(config, appearance=True, identity=evidence)
    return replace(config, **fields)


def track_video(
    predictor: BasePredictor,
    source: str | Path,
    out: Path,
    *,
    save: tuple[str, ...] = ("video", "json"),
    config: TrackConfig | MSIMConfig | None = None,
    tasks: Iterable[str] | None = None,
    attributes: bool = True,
    batch_size: int = 4,
    resume: bool = False,
    max_frames: int = 0,
    progress: bool = True,
    overwrite: bool = False,
    allow_changes: bool = False,
    blur: bool = False,
    counter: ZoneCounter | None = None,
    refresh: RefreshConfig | None = None,
) -> VideoResult:
    """Follows everybody through a video (anything `open_video` opens) and writes what `save`
    names into the folder `out`.

    Ctrl-C and kill leave files that are valid up to some frame; with `resume` the run goes on
    from the last state. One that belongs to another video, model, tracker or choice of outputs is
    refused field by field (CheckpointError), or taken with `allow_changes`, which is written into
    the state. `max_frames` stops early; 0 looks at all.
    `blur` makes faces in the video unrecognisable (see `humanquery.blur`).
    `counter` counts who crosses its lines and visits its zones, into `counts.json`. Files
    are named as `media.output_names` says: the video that is read is never written over.
    `refresh`: how often the followed are asked about gender and age.
    """
    config = config or track_config(predictor)
    save, out = checked_formats(save), Path(out)
    folder = OutputFolder(out, "track", [source], overwrite=overwrite)
    for name in (STATE, *output_files(save), *([COUNTS] if counter else [])):
        folder.fixed(name)
    identity = {
        "source": source_facts(source),
        "model": predictor.identity(),
        "outputs": sorted(predictor.ask(None, tasks, attributes).outputs or ()),
        "save": list(save),
        "config": to_plain(config),
    }
    if blur:
        identity["blur"] = True
    if counter is not None:
        identity["counted"] = to_plain([*counter.lines, *counter.zones])
    identity["refresh"] = to_plain(refresh or RefreshConfig())
    run = _Run(identity, out, config)
    book, result = run.start(resume, allow_changes)
    known = TrackAttributes(refresh)
    known.restore(run.known)
    if counter is not None and run.counts is not None:
        counter.restore(run.counts)
    begun, seen = time.perf_counter(), set(run.identities)
    painter = None
    try:
        with ExitStack() as stack:
            video = stack.enter_context(open_video(source, start_frame=result.frames))
            files = open_files(out, save, run.marks)
            for opened in files.values():
                stack.callback(opened.close)
            if "video" in save:
                painter = stack.enter_context(
                    _Painter(run, video.info, source, result.frames, blur)
                )
            bar = stack.enter_context(_bar(video.info.num_frames, result.frames, progress))
            frames = (
                iter(video) if not max_frames else islice(video, max(max_frames - result.frames, 0))
            )
            looking = {"batch_size": batch_size, "tasks": tasks, "attributes": attributes}
            following = track_frames(predictor, frames, book, known=known, **looking)
            stack.enter_context(closing(following))  # its thread ends before the video closes
            for frame, people in following:
                for opened in files.values():
                    opened.write(frame.index, frame.seconds, people)
                if painter is not None:
                    painter.put((frame, people))
                if counter is not None:
                    counter.update(people, frame.seconds)
                seen |= set(people.track_ids.tolist())
                result.frames, result.people = frame.index + 1, result.people + len(people)
                bar(result)
                if result.frames % STATE_EVERY == 0:
                    marks = {name: opened.mark() for name, opened in files.items()}
                    counts = None if counter is None else counter.state()
                    run.keep(book, known, result, seen, marks, counts)
                    run.commit(result.frames - (0 if painter is None else painter.delay))
            result.problems = list(video.problems)
    except BaseException:
        if painter is None or painter.whole:  # interrupted, but all that was done is on disk
            run.commit(result.frames)
        raise
    finally:
        if counter is not None:
            (out / COUNTS).write_text(json.dumps(counter.report(), indent=1) + "\n")
    run.finish()
    result.changes = run.changes
    result.identities, result.seconds = len(seen), time.perf_counter() - begun
    result.files = [opened.path for opened in files.values()] + (
        [run.video] if painter is not None else []
    )
    result.files += [out / COUNTS] if counter is not None else []
    return result


def output_files(save: tuple[str, ...]) -> list[str]:
    """Names of the files (and folders) that a run with these formats writes, the state aside."""
    videos = [VIDEO, BEFORE] if "video" in save else []
    return [*videos, *(FILES[name][0] for name in save if name in FILES)]


def source_facts(source: str | Path) -> dict[str, Any]:
    """What tells one video from another: its name, and of a file its size and the hash of its first
    megabyte (all of a long one would take minutes), wherever it lies."""
    path = path_of(source)
    facts: dict[str, Any] = {"name": str(source)}
    if path is not None and path.is_file():
        facts["name"] = path.name  # it may lie elsewhere when the run goes on
        with open(path, "rb") as opened:
            start = hashlib.sha256(opened.read(1 << 20)).hexdigest()
        facts |= {"bytes": path.stat().st_size, "first_megabyte": start}
    return facts


def check_video(source: str | Path) -> None:
    """Raises VideoError for a file that cannot be played, before a model is loaded for it; streams
    and cameras are only asked when they are followed."""
    path = path_of(source)
    if path is not None and not str(source).isdigit():
        with open_video(source):
            pass


def msim_config(predictor: BasePredictor, score: float | None = None, **fields) -> MSIMConfig:
    """As `track_config`, for AlphaPose's multi-stage identity matching."""
    score = predictor.default_score if score is None else score
    return replace(MSIMConfig(birth_score=score, keep_score=score / 2), **fields)


class _Run:
    """What a run can go on from: the book, how far it came, and where each file stood then."""

    def __init__(self, identity: dict[str, Any], out: Path, config: TrackConfig | MSIMConfig):
        self.path, self.video, self.before = out / STATE, out / VIDEO, out / BEFORE
        self.identity, self.config = identity, config
        self.changes: list[str] = []
        """differences that `allow_changes` let pass, of this and earlier parts of the run"""
        self.marks: dict[str, int] | None = None
        self.identities: list[int] = []
        self.counts: dict[str, Any] | None = None
        self.known: list[list[Any]] = []
        """`TrackAttributes.state`"""
        self._kept: list[tuple[dict, dict]] = []

    def start(self, resume: bool, allow_changes: bool) -> tuple[Tracker, VideoResult]:
        """A new book, or the one of the last state."""
        if not resume or not self.path.exists():
            self.path.unlink(missing_ok=True)
            self.before.unlink(missing_ok=True)
            return TRACKERS[type(self.config)](self.config), VideoResult()
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as opened:
            said = json.loads(opened.metadata()["run"])
        changed = differences(said["identity"], self.identity)
        if changed and not allow_changes:
            raise CheckpointError(
                f"{self.path}: this run was begun otherwise; its results would mix the two:\n  "
                + "\n  ".join(changed)
                + "\nResume with the same, allow it with --allow-changes, or start anew without "
                "--resume"
            )
        self.changes = [*said.get("changes", []), *changed]
        self.marks, self.identities = said["marks"], said["identities"]
        self.counts, self.known = said.get("counts"), said.get("known", [])
        if self.video.exists() and not self.before.exists():
            self.video.rename(self.before)
        result = VideoResult(frames=said["frames"], people=said["people"])
        tracker = TRACKERS[type(self.config)]
        return tracker.resumed(load_file(self.path), self.config), result

    def keep(
        self,
        book: Tracker,
        known: TrackAttributes,
        result: VideoResult,
        seen: set[int],
        marks: dict[str, int],
        counts: dict[str, Any] | None = None,
    ) -> None:
        """Remembers the state after this frame; `commit` writes it."""
        said = {
            "identity": self.identity,
            "changes": self.changes,
            "frames": result.frames,
            "people": result.people,
            "identities": sorted(seen),
            "marks": marks,
            "counts": counts,
            "known": json.loads(json.dumps(known.state())),  # as it is now
        }
        self._kept.append((said, {name: value.clone() for name, value in book.state().items()}))

    def commit(self, frames: int) -> None:
        """Writes the latest state of at most so many frames: those that are in the video for
        good."""
        done = [(said, tensors) for said, tensors in self._kept if said["frames"] <= frames]
        if done:
            said, tensors = done[-1]
            self._kept = self._kept[len(done) :]
            with atomic(self.path) as unfinished:
                save_file(tensors, unfinished, {"run": json.dumps(said)})

    def finish(self) -> None:
        self.path.unlink(missing_ok=True)
        self.before.unlink(missing_ok=True)


class _Painter(Sink):
    """Draws and encodes in a thread of its own; `put` waits while too many pictures wait for it."""

    def __init__(self, run: _Run, info, source: str | Path, already: int, blur: bool):
        super().__init__("painter", self._paint, AHEAD)
        audio = str(source) if info.has_audio and not info.live else None
        self._writer = VideoWriter(run.video, info.frame_rate, audio_from=audio)
        self._before, self._already, self._blur = run.before, already, blur
        self.delay = AHEAD + ENCODERS_DELAY + 2 * math.ceil(info.frame_rate)
        """frames after which a picture is certainly in the file, in a fragment that is complete
        """

    def _paint(self, painted: Iterator[tuple[Frame, Persons]]) -> None:
        with self._writer as writer:
            self._repeat(writer)
            for frame, people in painted:
                image = blur_faces(frame.image, people)[0] if self._blur else frame.image
                writer.write(draw(image, people), frame.seconds)

    def _repeat(self, writer: VideoWriter) -> None:
        """The frames that an interrupted run had already painted."""
        if self._already and self._before.exists():
            with open_video(self._before) as video:
                for frame in islice(video, self._already):
                    writer.write(np.ascontiguousarray(frame.image), frame.seconds)


class _bar:
    """Frames, frames per second and the time that remains."""

    def __init__(self, total: int | None, already: int, shown: bool):
        columns = (
            TextColumn("tracking"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        self._progress = Progress(
            *columns, TimeRemainingColumn(), disable=not shown, transient=True
        )
        self._total, self._already = total, already

    def __enter__(self):
        self._begun = time.perf_counter()
        self._progress.start()
        self._task = self._progress.add_task(
            "", total=self._total, completed=self._already, rate=""
        )
        return self._show

    def __exit__(self, *_) -> None:
        self._progress.stop()

    def _show(self, result: VideoResult) -> None:
        rate = (result.frames - self._already) / max(time.perf_counter() - self._begun, 1e-6)
        self._progress.update(self._task, completed=result.frames, rate=f"{rate:.1f} fps")
