"""Short clips: everybody is followed from frame to frame."""

import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from humanquery.core.errors import VideoError
from humanquery.media.video import Frame, VideoReader, open_video
from humanquery.predict.track_video import track_config, track_frames
from humanquery.serve.answers import ClipOptions, ask_of, people_json
from humanquery.serve.batcher import Batcher, QueuedPredictor
from humanquery.serve.config import ServiceConfig
from humanquery.serve.problems import Problem
from humanquery.tracking import TrackBook

AHEAD = 2
"""decoded frames that wait: a clip may be large"""


class Deadline:
    """When work must be done; `left()` raises TimeoutError once that is past or `stop` was set."""

    def __init__(self, seconds: float | int):
        self._until, self._stopped = time.monotonic() + seconds, threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0 or self._stopped.is_set():
            raise TimeoutError
        return left


def follow(
    content: bytes,
    name: str,
    kind: str,
    batcher: Batcher,
    config: ServiceConfig,
    options: ClipOptions,
    deadline: Deadline,
) -> dict[str, Any]:
    """Frame by frame who is where in a clip, given as the bytes of its file; ids of people are
    `track_id`.

    Problem 413 for more frames or larger ones than `config` allows, VideoError for a clip that
    cannot be played, TimeoutError at the deadline. Blocks; for a thread of its own.
    """
    ask = ask_of(batcher.predictor, options)
    predictor = QueuedPredictor(batcher, deadline.left)
    book = TrackBook(track_config(predictor, options.score))
    with tempfile.NamedTemporaryFile(suffix=f".{kind}") as file:
        file.write(content)
        file.flush()
        try:
            with open_video(file.name, ahead=AHEAD) as video:
                _check_size(video, name, config)
                frames = _chosen(video, name, config, options.every, deadline)
                looked = track_frames(
                    predictor, frames, book, batch_size=batcher.batch_size, tasks=ask.outputs
                )
                found = [
                    {"index": frame.index, "seconds": round(frame.seconds, 4)}
                    | people_json(people, options)
                    for frame, people in looked
                ]
                return {
                    "frame_rate": round(float(video.info.frame_rate), 4),
                    "identities": len({p["track_id"] for f in found for p in f["persons"]}),
                    "problems": [p.replace(file.name, name) for p in video.problems],
                    "frames": found,
                }
        except VideoError as problem:  # the temporary file's name is nobody's business
            raise VideoError(str(problem).replace(file.name, name)) from problem


def _check_size(video: VideoReader, name: str, config: ServiceConfig) -> None:
    height, width = video.info.size
    if height * width > config.max_pixels:
        raise Problem(
            413,
            "pixels",
            f"{name}: frames of {width} x {height}, at most {config.max_pixels / 1e6:g} million "
            "pixels are taken; scale the clip down",
        )


def _chosen(
    video: VideoReader, name: str, config: ServiceConfig, every: int, deadline: Deadline
) -> Iterator[Frame]:
    """Every n-th frame, as long as they are not too many."""
    for count, frame in enumerate(video):
        deadline.left()
        if count % every:
            continue
        if count // every >= config.max_frames:
            raise Problem(
                413,
                "frames",
                f"{name}: more than {config.max_frames} frames to look at; send a shorter clip, "
                f"or look at fewer with ?every={2 * every}",
            )
        yield frame
