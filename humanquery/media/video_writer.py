"""Video out: H.264 in an mp4 that stays playable whatever happens to the process, with the sound
of the source.

with VideoWriter("out.mp4", info.frame_rate, audio_from="street.mp4") as out:
    for frame in video:
        out.write(frame.image, frame.seconds)
"""

import errno
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from humanquery.core.errors import VideoError
from humanquery.core.size import Size
from humanquery.media.video import open_video

SUFFIXES = (".mp4", ".m4v", ".mov")

_ENCODERS = ("libx264", "mpeg4")
"""the first that this build of PyAV has"""
_COPIED_SOUND = ("aac", "mp3", "alac", "opus")
"""codecs whose packets an mp4 takes as they are and players know; any other becomes AAC"""
# at least so many ticks of the file's clock per second; mpeg4 knows no clock beyond 65,535
_TICKS = 60_000
_BT709 = 1  # of FFmpeg's numbers for colour spaces, primaries and transfer curves
_SOUND_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)


class VideoWriter:
    """Writes pictures to `path` (.mp4); a context manager. The folder is made, a file that is
    there is replaced.

    `frame_rate` in frames per second is the rate of pictures without a time; pictures with times
    keep theirs (variable frame rate). `quality` 0..100: 100 loses nothing, each step down costs
    a little. The first picture gives the size, later ones of another size are scaled to fit and
    framed in black. H.264 with 4:2:0 colour has even sizes only: an odd width or height grows by
    one column or row, a copy of the last one. `audio_from` is a file whose sound is laid under
    the pictures, copied where an mp4 can hold it and turned into AAC otherwise; a file without
    sound is fine.

    The file is written in fragments of at most a second, each complete in itself: after a crash,
    `kill -9` or a full disk it plays up to there. `close` (also after Ctrl-C, at the end of the
    with block) makes an ordinary mp4 of it. Raises VideoError for a path that cannot be written,
    times that do not grow, and a full disk (what was saved stays).
    """

    def __init__(
        self,
        path: str | Path,
        frame_rate: float | int | Fraction,
        *,
        audio_from: str | Path | None = None,
        quality: int = 60,
    ):
        self.path = Path(path)
        self.num_frames = 0
        """written so far"""
        self.size: Size | None = None
        """(height, width) px of the file, once the first picture is known"""
        self.problems: list[str] = []
        """what went wrong without stopping the writing (damaged sound)"""
        if not (math.isfinite(frame_rate) and 0 < frame_rate <= 1000):
            raise VideoError(
                f"{path}: frame_rate is {frame_rate}, expected frames per second above 0 and up to "
                f"1000"
            )
        if not 0 <= quality <= 100:
            raise VideoError(
                f"{path}: quality is {quality}, expected 0 (smallest file) to 100 (no loss)"
            )
        self.frame_rate = Fraction(frame_rate).limit_denominator(1001)
        self._quality = quality
        _make_place(self.path, audio_from)
        self._sound = None if audio_from is None else _open_sound(Path(audio_from), self.problems)
        ticks = self.frame_rate.numerator
        self._clock = Fraction(1, ticks * max(1, _TICKS // ticks))
        self._converter = (
            VideoReformatter()
        )  # kept: setting up a new one takes longer than a conversion
        self._file: av.container.OutputContainer | None = None
        self._origin = self._last = self._last_key = 0.0
        self._broken = self._closed = False

    def write(self, image: UInt8[np.ndarray, "h w 3"], seconds: float | None = None) -> None:
        """Adds an RGB picture, shown at `seconds` (of the source: the first one's time becomes 0
        here, for the sound too), or one frame after the picture before."""
        if self._closed or self._broken:
            raise VideoError(f"{self.path}: is closed, nothing can be written any more")
        if not image.size:
            raise VideoError(
                f"{self.path}: got an empty picture of shape {image.shape}, expected at least one "
                f"pixel"
            )
        first = self.num_frames == 0
        if seconds is None:
            seconds = 0.0 if first else self._last + float(1 / self.frame_rate)
        elif not first and not seconds > self._last:
            raise VideoError(
                f"{self.path}: frame {self.num_frames} is to be shown at {seconds:g} s, not after "
                f"the frame before it "
                f"({self._last:g} s); give times that grow, or none"
            )
        self._guard(self._put, image, float(seconds), first)

    def close(self) -> None:
        """Writes what the encoder still holds and finishes the file; twice is fine. Without a
        picture there is no file."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._file is not None and not self._broken:
                self._guard(self._finish)
        finally:
            if self._sound is not None:
                self._sound.close()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _guard(self, step, *arguments) -> None:
        """Runs one step; when the system refuses to write, lets go of the file and says what is
        there."""
        try:
            step(*arguments)
        except (av.FFmpegError, OSError) as problem:
            self._broken = True
            self._let_go()
            raise VideoError(self._why_broken(problem)) from problem

    def _put(self, image: np.ndarray, seconds: float, first: bool) -> None:
        if first:
            self.size = (image.shape[0] + image.shape[0] % 2, image.shape[1] + image.shape[1] % 2)
            self._origin, self._last_key = seconds, -math.inf
            self._open()
        frame = av.VideoFrame.from_ndarray(_fitted(image, self.size), format="rgb24")
        frame = self._converter.reformat(frame, format="yuv420p", dst_colorspace=_BT709)
        tick = round((seconds - self._origin) / self._clock)
        frame.pts = tick if first else max(tick, self._last_tick + 1)
        frame.time_base = self._clock
        if (
            seconds - self._last_key > 1 - 0.5 / self.frame_rate
        ):  # a fragment, and what a crash can take, is a second
            frame.pict_type = av.video.frame.PictureType.I
            self._last_key = seconds
        self._last, self._last_tick = seconds, frame.pts
        if self._sound is not None:
            self._sound.write(self._file, seconds - self._origin)
        self._mux(self._stream.encode(frame))
        self.num_frames += 1

    def _open(self) -> None:
        # hybrid_fragmented: the fragments become an ordinary mp4, with an index, when the file
        # is closed
        recent = av.library_versions["libavformat"] >= (61, 7)
        options = {
            "movflags": "hybrid_fragmented"
            if recent
            else "frag_keyframe+empty_moov+default_base_moof",
            "flush_packets": "1",
            # us: sound that has ended must not hold back the pictures
            "max_interleave_delta": "1000000",
        }
        self._file = av.open(f"file:{self.path}", "w", format="mp4", options=options)
        encoder = next(name for name in _ENCODERS if name in av.codec.codecs_available)
        self._stream = stream = self._file.add_stream(encoder, rate=self.frame_rate)
        stream.height, stream.width = self.size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = self._clock
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = 1
        context.gop_size = max(1, round(self.frame_rate))
        loss = 1 - self._quality / 100
        if encoder == "libx264":
            context.options = {
                "preset": "veryfast",
                "crf": f"{51 * loss:.1f}",
                "bf": "0",
                "forced-idr": "1",
            }
        else:
            context.options = {"qmin": "1", "qmax": str(1 + round(30 * loss)), "bf": "0"}
        if self._sound is not None:
            self._sound.begin(self._file, self._origin)

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            if not packet.duration:
                packet.duration = round(1 / self.frame_rate / packet.time_base)
            self._file.mux(packet)

    def _finish(self) -> None:
        self._mux(self._stream.encode())
        if self._sound is not None:
            self._sound.write(self._file, self._last - self._origin + float(1 / self.frame_rate))
        self._file.close()

    def _let_go(self) -> None:
        """Closes a file that cannot be finished."""
        try:
            if self._file is not None:
                self._file.close()
        except (av.FFmpegError, OSError):
            pass  # the first error is the one to tell

    def _saved_seconds(self) -> float:
        if not self.path.is_file():
            return 0.0
        try:
            with open_video(self.path) as saved:
                return saved.info.seconds or 0.0
        except VideoError:
            return 0.0

    def _why_broken(self, problem: Exception) -> str:
        reason = _reason(problem)
        seconds = self._saved_seconds()
        saved = (
            f"the first {seconds:.1f} s are saved and can be played"
            if seconds
            else "nothing was saved"
        )
        full = getattr(problem, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = f"the disk is full ({reason})" if full else f"cannot be written ({reason})"
        todo = (
            "Free space or choose another place" if full else "Check the place and its permissions"
        )
        return f"{self.path}: {what} at frame {self.num_frames}; {saved}. {todo}"


def _make_place(path: Path, audio_from: str | Path | None) -> None:
    """The folder, or VideoError before anything is computed for a file that cannot be."""
    if path.suffix.lower() not in SUFFIXES:
        raise VideoError(f"{path}: cannot write a video of kind {path.suffix!r}; use .mp4")
    if path.is_dir():
        raise VideoError(f"{path}: a folder, expected the name of a file to write")
    if (
        audio_from is not None
        and path.exists()
        and os.path.exists(audio_from)
        and path.samefile(audio_from)
    ):
        raise VideoError(f"{path}: is the file whose sound is wanted; write to another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise VideoError(
            f"{path}: its folder cannot be made ({problem.strerror}); choose another place"
        ) from problem
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise VideoError(f"{path}: no permission to write there; choose another place")


def _fitted(image: UInt8[np.ndarray, "h w 3"], size: Size) -> UInt8[np.ndarray, "h2 w2 3"]:
    """`image` on a picture of `size`: with its last row or column doubled, or scaled and framed
    in black."""
    height, width = image.shape[:2]
    below, beside = size[0] - height, size[1] - width
    if (below, beside) == (0, 0):
        return np.ascontiguousarray(image)
    if below in (0, 1) and beside in (0, 1):
        return np.pad(image, ((0, below), (0, beside), (0, 0)), mode="edge")
    scale = min(size[0] / height, size[1] / width)
    new = (max(1, min(size[1], round(width * scale))), max(1, min(size[0], round(height * scale))))
    scaled = cv2.resize(image, new, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - new[1]) // 2, (size[1] - new[0]) // 2
    canvas[top : top + new[1], left : left + new[0]] = scaled
    return canvas


def _reason(problem: Exception) -> str:
    return getattr(problem, "strerror", None) or str(problem)


# ---- sound


def _open_sound(path: Path, problems: list[str]) -> "_Sound | None":
    if path.is_dir():
        return None  # pictures are silent
    if not path.exists():
        raise VideoError(
            f"{path}: no such file to take the sound from; give a file, or no audio_from"
        )
    try:
        source = av.open(f"file:{path}")
    except (av.FFmpegError, OSError, ValueError) as problem:
        raise VideoError(
            f"{path}: its sound cannot be read ({_reason(problem)}); give another file, or no "
            f"audio_from"
        ) from problem
    if not source.streams.audio:
        source.close()
        return None
    return _Sound(source, path, problems)


class _Sound:
    """The sound of a file, written in step with the pictures. Times count from the source's
    first picture."""

    def __init__(self, source: av.container.InputContainer, path: Path, problems: list[str]):
        self._source, self._path, self._problems = source, path, problems
        self._stream = source.streams.best("audio")
        picture = source.streams.best("video")
        first = picture if picture is not None and picture.start_time is not None else self._stream
        self._zero = float((first.start_time or 0) * first.time_base)
        codec = self._stream.codec_context
        kind = codec.codec.canonical_name
        self._copied = kind in _COPIED_SOUND and (kind != "aac" or bool(codec.extradata))

    def begin(self, file: av.container.OutputContainer, origin: float) -> None:
        """`origin`: seconds of the source that are left out before the first picture."""
        self._zero += origin
        if self._copied:
            self._out = file.add_stream_from_template(self._stream)
            self._packets = self._copies()
        else:
            codec = self._stream.codec_context
            rate = codec.sample_rate if codec.sample_rate in _SOUND_RATES else 48000
            layout = "mono" if codec.layout.nb_channels == 1 else "stereo"
            self._out = file.add_stream("aac", rate=rate, layout=layout)
            self._packets = self._encoded(av.AudioResampler("fltp", layout, rate))
        self._next: tuple[float, av.Packet] | None = None
        self._ended = False

    def write(self, file: av.container.OutputContainer, until: float) -> None:
        """Writes what sounds before `until`."""
        while not self._ended:
            if self._next is None:
                self._next = next(self._packets, None)
                self._ended = self._next is None
                continue
            if self._next[0] >= until:
                return
            file.mux(self._next[1])
            self._next = None

    def close(self) -> None:
        self._source.close()

    def _read(self) -> Iterator[av.Packet]:
        """Packets of the source; the sound ends where it is broken."""
        try:
            yield from self._source.demux(self._stream)
        except av.FFmpegError as problem:
            self._problems.append(
                f"{self._path}: its sound breaks off ({problem.strerror}); the rest is silent"
            )

    def _copies(self) -> Iterator[tuple[float, av.Packet]]:
        last = -1
        for packet in self._read():
            if packet.dts is None or packet.pts is None:
                continue
            at = float(packet.pts * packet.time_base) - self._zero
            shift = round(self._zero / packet.time_base)
            packet.pts = packet.dts = packet.pts - shift
            if at < 0 or packet.pts <= last:
                continue
            last = packet.pts
            packet.stream = self._out
            yield at, packet

    def _encoded(self, resampler: av.AudioResampler) -> Iterator[tuple[float, av.Packet]]:
        begun, sample = None, 0
        for frame in self._decoded(resampler):
            if begun is None:
                at = (
                    float(frame.pts * frame.time_base) - self._zero
                    if frame.pts is not None
                    else 0.0
                )
                if at < 0:
                    continue
                begun = at
                sample = round(at * frame.sample_rate)
            frame.pts, frame.time_base = sample, Fraction(1, frame.sample_rate)
            sample += frame.samples
            yield from _timed(self._out.encode(frame))
        if begun is not None:
            yield from _timed(self._out.encode())

    def _decoded(self, resampler: av.AudioResampler) -> Iterator[av.AudioFrame]:
        damaged = 0
        for packet in self._read():
            try:
                frames = packet.decode()
            except (av.FFmpegError, ValueError):
                damaged += 1
                continue
            for frame in frames:
                yield from resampler.resample(frame)
        yield from resampler.resample(None)
        if damaged:
            self._problems.append(
                f"{self._path}: {damaged} damaged packets of its sound were left out"
            )


def _timed(packets: list[av.Packet]) -> Iterator[tuple[float, av.Packet]]:
    """Without the encoder's run-up before 0, which would push the pictures back."""
    for packet in packets:
        if packet.pts >= 0:
            yield float(packet.pts * packet.time_base), packet
