"""Frames of one container, camera or network stream: presentation times, orientation, damage,
lost connections."""

import glob
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from humanquery.core.errors import VideoError
from humanquery.core.size import Size

_BACKOFF = 0.5  # seconds before the first attempt to connect again; doubles with every attempt
_LONGEST_BACKOFF = 8.0


@dataclass(frozen=True, eq=False)
class Frame:
    """One upright picture of a video."""

    image: UInt8[np.ndarray, "h w 3"]
    """RGB"""
    index: int
    """0-based; of a picture sequence the place in the list (an unreadable picture leaves a gap)
    """
    seconds: float
    """when it is shown; the video's first frame is at 0, and every frame is later than the one
    before"""


@dataclass(frozen=True)
class VideoInfo:
    """What is known before the frames have been seen."""

    size: Size
    """(height, width) px of the first frame, upright"""
    frame_rate: Fraction
    """frames per second, on average where it varies"""
    num_frames: int | None
    """from the container, or estimated from its duration; None where neither is told"""
    seconds: float | None
    has_audio: bool
    live: bool
    """a camera or a stream without an end: nothing of it comes twice"""
    source: str
    """as given, without a password"""


def make_frame(
    image: UInt8[np.ndarray, "h w 3"],
    index: int,
    seconds: float,
    seen: set[Size],
    problems: list[str],
) -> Frame:
    """A frame; a size that was not `seen` before is added there and told. (Called inside a
    yield, so that the generator that waits there holds no picture.)"""
    height, width = image.shape[:2]
    if (height, width) not in seen:
        seen.add((height, width))
        problems.append(f"frame {index} has another size: {width} x {height} px (width x height)")
    return Frame(image, index, seconds)


def note_start(start_frame: int, num_frames: int, problems: list[str]) -> None:
    if start_frame > num_frames:
        problems.append(
            f"start_frame {start_frame} lies past the end: there are {num_frames} frames"
        )


@dataclass(frozen=True)
class Where:
    """What FFmpeg is told, and how people call it."""

    address: str
    name: str
    kind: str
    """file, camera or stream"""
    timeout: float | int


def locate(source: str, timeout: float | int) -> Where:
    """Refuses what can be refused without opening it."""
    if re.match(r"[A-Za-z][\w+.-]*://", source) and not source.startswith("file://"):
        return Where(
            source, re.sub(r"://([^/@:]*):[^/]*@", r"://\1:***@", source), "stream", timeout
        )
    path = Path(source.removeprefix("file://"))
    if (source.isdigit() and not path.exists()) or re.fullmatch(r"/dev/video\d+", source):
        device = f"/dev/video{source}" if source.isdigit() else source
        if not os.path.exists(device):
            present = ", ".join(sorted(glob.glob("/dev/video*"))) or "none"
            raise VideoError(
                f"{source}: no camera at {device}; cameras present: {present}. Is it plugged in?"
            )
        return Where(device, source, "camera", timeout)
    if not path.exists():
        raise VideoError(f"{source}: no such file; check the path")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise VideoError(f"{source}: the file is empty (0 bytes); fetch it again")
    except OSError as problem:
        raise VideoError(
            f"{source}: cannot be opened ({problem.strerror}); check its permissions"
        ) from problem
    return Where(f"file:{path}", source, "file", timeout)


def _open_container(where: Where) -> av.container.InputContainer:
    if where.kind == "file":
        return av.open(where.address)
    options = {"rtsp_flags": "prefer_tcp"} if where.address.startswith("rtsp") else {}
    kind = "v4l2" if where.kind == "camera" else None
    return av.open(
        where.address, format=kind, options=options, timeout=(where.timeout, where.timeout)
    )


class Opened:
    """An open container and its decoder, with the first frame already decoded: only that tells
    rotation and size."""

    def __init__(self, where: Where, stop: threading.Event):
        self.where, self.damaged, self._stop = where, 0, stop
        self.converter = (
            VideoReformatter()
        )  # kept: setting up a new one takes longer than a conversion
        try:
            self.container = _open_container(where)
        except (av.FFmpegError, OSError, ValueError) as problem:
            raise VideoError(_why_closed(where, problem)) from problem
        self.stream = self.container.streams.best("video")
        if self.stream is None:
            kinds = (
                ", ".join(sorted({stream.type for stream in self.container.streams}))
                or "an empty container"
            )
            self.close()
            raise VideoError(f"{where.name}: holds no video stream ({kinds}); expected a video")
        self._start()

    def _start(self) -> None:
        if self.where.kind == "file":
            self.stream.thread_type = (
                "AUTO"  # more cores, but frames come later: not for what is live
            )
        self._decoded = self._decode()
        try:
            self._first = next(self._decoded, None)
        except av.FFmpegError as problem:
            self.close()
            raise VideoError(_why_closed(self.where, problem)) from problem
        if self._first is None:
            self.close()
            damaged = f"; {self.damaged} packets are damaged" if self.damaged else ""
            raise VideoError(
                f"{self.where.name}: no frame can be decoded (codec "
                f"{self.stream.codec_context.name}{damaged}); "
                "the video is empty or broken, fetch or record it again"
            )

    def _decode(self) -> Iterator[av.VideoFrame]:
        for packet in self.container.demux(self.stream):
            if self._stop.is_set():
                return
            try:
                frames = packet.decode()
            except (av.FFmpegError, ValueError) as problem:
                if isinstance(problem, av.error.EOFError):
                    return
                self.damaged += 1
                continue
            self.damaged += sum(frame.is_corrupt for frame in frames)
            yield from frames

    def frames(self) -> Iterator[av.VideoFrame]:
        first, self._first = self._first, None
        return chain([first], self._decoded)

    def close(self) -> None:
        self.container.close()

    @property
    def rate(self) -> Fraction:
        """frames per second; 25 where nothing tells it"""
        return Fraction(self.stream.average_rate or self.stream.guessed_rate or 25)

    def duration(self) -> tuple[float | None, float]:
        """Seconds of the video, and how many of them may be missing without anything being
        wrong."""
        stream, tag = self.stream, self.stream.metadata.get("DURATION", "")
        clock = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", tag)
        if stream.duration:
            seconds = float(stream.duration * stream.time_base)
        elif clock:
            seconds = int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3])
        elif self.container.duration:  # of the longest stream, which may be the sound
            seconds = self.container.duration / av.time_base
            return seconds, max(1.0, 0.05 * seconds)
        else:
            return None, 0.0
        return seconds, max(3 / float(self.rate), 0.02 * seconds)

    def describe(self) -> VideoInfo:
        seconds, _ = self.duration()
        live = self.where.kind != "file" and seconds is None
        live = live and (self.where.kind == "camera" or (self.container.size or 0) <= 0)
        num_frames = self.stream.frames or None
        if seconds is not None:
            guess = round(seconds * self.rate)
            if (
                not num_frames or num_frames < guess / 2
            ):  # a file whose writer died tells only its first fragment
                num_frames = guess
        elif num_frames:
            seconds = float(num_frames / self.rate)
        size = _upright(
            np.empty((self._first.height, self._first.width, 0), np.uint8), _matrix(self._first)
        ).shape[:2]
        has_audio = bool(self.container.streams.audio)
        return VideoInfo(size, self.rate, num_frames, seconds, has_audio, live, self.where.name)


class _Clock:
    """Presentation times that start at `begin` and grow with every frame, whatever the container
    says."""

    def __init__(self, opened: Opened, begin: float):
        self.period = 1 / float(opened.rate)
        self._decoding_times = opened.container.format.name == "avi"  # AVI stores no other
        self._begin, self._zero, self._last = begin, None, None

    def seconds(self, raw: av.VideoFrame) -> float:
        stamp = raw.dts if self._decoding_times else raw.pts
        at = None if stamp is None or raw.time_base is None else float(stamp * raw.time_base)
        if self._last is None:
            self._last, self._zero = self._begin, at
            return self._last
        if self._zero is None and at is not None:
            self._zero = at - (self._last + self.period - self._begin)
        now = self._last if at is None else self._begin + at - self._zero
        self._last = now if now > self._last else self._last + self.period
        return self._last


def stream_frames(where, opened, info, start_frame, reconnect, stop, problems) -> Iterator[Frame]:
    """Frames of a container; of a stream that breaks off also those after connecting again (a
    finite one is read from its beginning again, and what has been given is dropped)."""
    seen, done, last, damaged = {info.size}, 0, 0.0, 0
    begin, fresh, attempts = 0.0, time.monotonic(), 0
    offset = 0
    try:
        while True:
            clock, lost = _Clock(opened, begin), None
            try:
                for index, raw in enumerate(opened.frames(), offset):
                    seconds = clock.seconds(raw)
                    if stop.is_set():
                        return
                    if index < done:
                        continue
                    done, last, fresh, attempts = index + 1, seconds, time.monotonic(), 0
                    if index < start_frame:
                        continue
                    yield make_frame(
                        _upright(_rgb(raw, opened), _matrix(raw)), index, seconds, seen, problems
                    )
            except av.FFmpegError as problem:
                lost = problem
            if stop.is_set():
                return
            if where.kind == "file" or (lost is None and not info.live):
                break
            damaged, opened.damaged = damaged + opened.damaged, 0
            opened.close()
            attempts, opened = _connect_again(
                where, lost, done, attempts, reconnect, stop, problems
            )
            if opened is None:
                return
            if info.live:
                offset, begin = done, last + max(clock.period, time.monotonic() - fresh)
        _note_end(opened, lost, done, last + clock.period, problems)
        note_start(start_frame, done, problems)
    finally:
        if opened is not None:
            damaged += opened.damaged
            opened.close()
        if damaged:
            problems.append(
                f"{damaged} damaged packets: skipped, or shown as far as they could be decoded"
            )


def _connect_again(
    where, lost, done, attempts, reconnect, stop, problems
) -> tuple[int, Opened | None]:
    reason = "the stream ended" if lost is None else _reason(where, lost)
    while attempts < reconnect:
        attempts += 1
        if stop.wait(min(_BACKOFF * 2 ** (attempts - 1), _LONGEST_BACKOFF)):
            return attempts, None
        try:
            opened = Opened(where, stop)
        except VideoError as problem:
            reason = str(problem).removeprefix(f"{where.name}: ")
            continue
        problems.append(
            f"the connection was lost after frame {done - 1} ({reason}) and made again (attempt "
            f"{attempts})"
        )
        return attempts, opened
    tried = (
        f"{attempts} attempts to connect again failed"
        if attempts
        else "it was not connected to again (reconnect is 0)"
    )
    raise VideoError(
        f"{where.name}: lost after {done} frames: {reason}; {tried}. "
        "Check the camera and the network, or raise timeout and reconnect"
    )


def _rgb(raw: av.VideoFrame, opened: Opened) -> UInt8[np.ndarray, "h w 3"]:
    try:
        return opened.converter.reformat(raw, format="rgb24").to_ndarray()
    except (av.FFmpegError, ValueError) as problem:
        raise VideoError(
            f"{opened.where.name}: pixels of kind {raw.format.name} cannot be turned into RGB "
            f"({problem}); "
            "convert the video to yuv420p"
        ) from problem


def _matrix(raw: av.VideoFrame) -> tuple[int, int, int, int] | None:
    """a, b, c, d of the display matrix: what is at (x, y) is to be shown at (a x + c y, b x + d
    y)."""
    stored = raw.side_data.get("DISPLAYMATRIX")
    if stored is None:
        return None
    a, b, _, c, d = np.frombuffer(bytes(stored), np.int32)[:5].tolist()
    return a, b, c, d


def _upright(
    image: UInt8[np.ndarray, "h w c"], matrix: tuple[int, int, int, int] | None
) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Turned and mirrored as the display matrix says, to the nearest quarter turn."""
    if matrix is None:
        return image
    a, b, c, d = matrix
    if abs(a) + abs(d) < abs(b) + abs(c):
        image, a, d = image.swapaxes(0, 1), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _note_end(
    opened: Opened, lost: Exception | None, done: int, seconds: float, problems: list[str]
) -> None:
    expected, slack = opened.duration()
    if lost is not None:
        problems.append(
            f"reading stopped after {done} frames ({seconds:.2f} s): {_reason(opened.where, lost)}"
        )
    elif expected is not None and seconds < expected - slack:
        problems.append(
            f"ended after {done} frames ({seconds:.2f} s) of {expected:.2f} s that the file should "
            f"have; "
            "it is truncated or damaged"
        )


def _reason(where: Where, problem: Exception) -> str:
    if isinstance(problem, av.error.ExitError):
        return f"nothing came for {where.timeout:g} s"
    return getattr(problem, "strerror", None) or str(problem)


def _why_closed(where: Where, problem: Exception) -> str:
    reason = _reason(where, problem)
    if where.kind == "camera":
        if isinstance(problem, PermissionError):
            return (
                f"{where.name}: no permission to use the camera {where.address}; "
                "add yourself to the group 'video'"
            )
        return (
            f"{where.name}: the camera {where.address} gives no video ({reason}); "
            "is another program using it?"
        )
    if where.kind == "stream":
        return (
            f"{where.name}: cannot be opened: {reason}; check the address, the network and the "
            "password"
        )
    with open(where.address.removeprefix("file:"), "rb") as file:
        head = file.read(12)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free"):
        return (
            f"{where.name}: an mp4 or mov file without its index ({reason}); it is truncated, "
            "fetch or record it again"
        )
    return (
        f"{where.name}: not a video (it begins with {head!r}; {reason}); expected a video, GIF or "
        "pictures"
    )
