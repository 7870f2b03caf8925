"""Frames out of videos, picture sequences, webcams and network streams, decoded in one bounded
thread beside the consumer.

with open_video("street.mp4") as video:
    for frame in video:
        ...  # frame.image, frame.index, frame.seconds
"""

import glob
import os
import queue
import re
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from humanquery.core.errors import ImageError, VideoError
from humanquery.media.images import read_image, read_size
from humanquery.media.video_streams import (
    Frame,
    Opened,
    VideoInfo,
    locate,
    make_frame,
    note_start,
    stream_frames,
)

__all__ = ["PICTURES", "Frame", "VideoInfo", "VideoReader", "open_video"]

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".gif")
"""what a folder's frames are made of; a .gif given by itself is a video"""

# seconds that close() waits for the thread; only a read from a dead network can take longer
_GOODBYE = 2.0


def open_video(
    source: str | Path | int,
    *,
    start_frame: int = 0,
    ahead: int = 8,
    timeout: float | int = 10,
    reconnect: int = 3,
    frame_rate: float | int | Fraction = 25,
) -> "VideoReader":
    """Opens a video; VideoError says what is wrong with a source that cannot be opened or holds
    no frame.

    `source` is a file of any kind that FFmpeg reads, a GIF, a folder of pictures (in natural
    order), a glob or a printf pattern of pictures (`frame_%04d.jpg`), a camera (`0` or
    `/dev/video0`), or the address of a stream (rtsp://, http://). Frames before `start_frame`
    are decoded and dropped (pictures of a sequence: not even read). At most `ahead` frames wait
    for the consumer. A stream that sends nothing for `timeout` seconds, or breaks off, is
    connected to again, up to `reconnect` times in a row with growing pauses; then VideoError is
    raised. `frame_rate` is that of picture sequences, which do not tell theirs. Damage that does
    not stop the reading is told in `VideoReader.problems`.
    """
    for what, value, least in (
        ("start_frame", start_frame, 0),
        ("ahead", ahead, 1),
        ("reconnect", reconnect, 0),
    ):
        if value < least:
            raise VideoError(f"{what} is {value}, expected at least {least}")
    if not timeout > 0 or not frame_rate > 0:
        raise VideoError(
            f"timeout is {timeout} s and frame_rate {frame_rate}, expected both to be above 0"
        )
    stop = threading.Event()
    problems: list[str] = []
    pictures = _find_pictures(str(source))
    if pictures is not None:
        info = _describe_pictures(
            pictures, str(source), Fraction(frame_rate).limit_denominator(1001)
        )
        frames = _picture_frames(pictures, info, start_frame, stop, problems)
        return VideoReader(info, frames, ahead, stop, problems, release=lambda: None)
    where = locate(str(source), timeout)
    opened = Opened(where, stop)
    info = opened.describe()
    frames = stream_frames(where, opened, info, start_frame, reconnect, stop, problems)
    return VideoReader(info, frames, ahead, stop, problems, release=opened.close)


class VideoReader:
    """Frames in order, once; a context manager. Made by `open_video`."""

    def __init__(self, info, frames, ahead, stop, problems, release):
        self.info: VideoInfo = info
        self.problems: list[str] = problems
        """what went wrong without stopping the reading: damaged packets, an early end, another
        size, lost connections; complete when the last frame has been given"""
        self._stop, self._release = stop, release
        self._slots = threading.Semaphore(
            ahead
        )  # frames that may exist beside those the consumer holds
        self._waiting: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=_fill,
            args=(frames, self._waiting, self._slots, stop),
            name=f"video {info.source}",
            daemon=True,
        )
        self._started = self._finished = False

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        if self._finished or self._stop.is_set():
            raise StopIteration
        if not self._started:
            self._started = True
            self._thread.start()
        came = self._waiting.get()
        self._slots.release()
        if isinstance(came, Frame):
            return came
        self._finished = True
        self._thread.join()
        if came is not None:
            raise came
        raise StopIteration

    def close(self) -> None:
        """Ends the thread and closes the file. A thread that waits for a silent network ends
        after its time-out."""
        self._stop.set()
        self._slots.release()
        self._waiting.put(None)  # for a consumer in another thread
        if not self._started:
            self._release()
        elif self._thread is not threading.current_thread():
            self._thread.join(_GOODBYE)

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_started"):
            self.close()


def _fill(
    frames: Iterator[Frame],
    waiting: queue.SimpleQueue,
    slots: threading.Semaphore,
    stop: threading.Event,
):
    """The thread. It keeps no frame for itself: what it made is in the queue, and nothing is
    made without a slot."""
    end = None
    try:
        while True:
            slots.acquire()
            if stop.is_set():
                break
            waiting.put(next(frames))
    except StopIteration:
        pass
    except BaseException as problem:  # whatever it is, the consumer has to hear of it
        end = problem
    finally:
        frames.close()
        waiting.put(end)


# ---- picture sequences


def _find_pictures(source: str) -> list[Path] | None:
    """The files of a picture sequence in natural order, or None if `source` is no sequence."""
    path = Path(source)
    number = re.search(r"%(?:0?(\d+))?d", path.name)
    if path.is_dir():
        found = [
            file for file in path.iterdir() if file.suffix.lower() in PICTURES and file.is_file()
        ]
    elif path.exists():
        return [path] if path.suffix.lower() in PICTURES[:-1] else None
    elif "://" in source:
        return None
    elif number:
        before, after = re.escape(path.name[: number.start()]), re.escape(path.name[number.end() :])
        pattern = re.compile(rf"{before}\d{{{number[1] or 1},}}{after}")
        found = [file for file in path.parent.glob("*") if pattern.fullmatch(file.name)]
    elif glob.has_magic(source):
        found = [Path(name) for name in glob.glob(source) if os.path.isfile(name)]
    else:
        return None
    if not found:
        raise VideoError(
            f"{source}: no picture found; expected files such as .jpg or .png. Check the folder or "
            f"pattern"
        )
    return sorted(found, key=lambda file: _natural(file.name))


def _natural(name: str) -> list[tuple[int, str]]:
    """Orders 2 before 10."""
    return [
        (int(part), "") if part.isdigit() else (0, part) for part in re.split(r"([0-9]+)", name)
    ]


def _describe_pictures(paths: list[Path], source: str, rate: Fraction) -> VideoInfo:
    for path in paths:
        try:
            size = read_size(path)
        except ImageError as problem:
            first = problem
            continue
        return VideoInfo(
            size,
            rate,
            len(paths),
            float(len(paths) / rate),
            has_audio=False,
            live=False,
            source=source,
        )
    raise VideoError(f"{source}: none of {len(paths)} pictures can be read; the last: {first}")


def _picture_frames(paths, info, start_frame, stop, problems) -> Iterator[Frame]:
    seen, given = {info.size}, 0
    for index in range(start_frame, len(paths)):
        if stop.is_set():
            return
        try:
            yield make_frame(
                read_image(paths[index]), index, float(index / info.frame_rate), seen, problems
            )
        except ImageError as problem:
            problems.append(f"frame {index} is left out: {problem}")
            continue
        given += 1
    if not given and start_frame < len(paths):
        raise VideoError(f"{info.source}: no picture can be read; {problems[0]}")
    note_start(start_frame, len(paths), problems)
