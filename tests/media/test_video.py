import gc
import os
import socket
import sys
import threading
import time
import weakref
from fractions import Fraction
from itertools import islice

import av
import numpy as np
import pytest
from PIL import Image

from humanquery.core.errors import VideoError
from humanquery.media import video as video_module
from humanquery.media import video_streams
from humanquery.media.images import write_image
from humanquery.media.video import open_video
from humanquery.media.video_writer import VideoWriter
from tests.paths import DATA, needs_data


def picture(i: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Red top left, blue bottom left, green bottom right; top right a grey of the frame's
    number."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2, 0] = 255
    image[height // 2 :, : width // 2, 2] = 255
    image[height // 2 :, width // 2 :, 1] = 255
    image[: height // 2, width // 2 :] = 20 + 2 * (i % 100)
    return image


def number_of(image: np.ndarray) -> float:
    height, width = image.shape[:2]
    return float((image[4 : height // 2 - 4, width // 2 + 4 : -4].mean() - 20) / 2)


def encode(
    path,
    count=25,
    *,
    codec="libx264",
    kind=None,
    times=None,
    size=(48, 64),
    turned=None,
    options=None,
):
    """A clip of `picture`s made by PyAV alone; `times` in seconds."""
    with av.open(str(path), "w", format=kind, options=options or {}) as out:
        stream = out.add_stream(
            codec, rate=25, options={"preset": "veryfast"} if codec == "libx264" else {}
        )
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000) if times else Fraction(1, 25)
        if turned is not None:
            stream.set_display_rotation(turned)
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(picture(i, *size), format="rgb24")
            frame.pts = round(times[i] * 1000) if times else i
            frame.time_base = stream.codec_context.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def read(source, **options):
    with open_video(source, **options) as video:
        return video, list(video)


def threads_of_videos() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("video ")]


def gone(condition, seconds=3.0) -> bool:
    end = time.monotonic() + seconds
    while condition() and time.monotonic() < end:
        time.sleep(0.01)
    return not condition()


# ---- files


@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        ("mp4", "libx264"),
        ("mkv", "libx264"),
        ("avi", "libx264"),
        ("avi", "mpeg4"),
        ("ts", "libx264"),
        ("webm", "libvpx-vp9"),
    ]
    + [("mov", "mjpeg"), ("flv", "libx264")],
)
def test_every_common_kind_gives_its_frames_in_order(tmp_path, kind, codec):
    video, frames = read(encode(tmp_path / f"clip.{kind}", 30, codec=codec))
    assert video.info.size == (48, 64) and video.info.frame_rate == 25 and not video.info.live
    assert not video.info.has_audio and video.info.source == str(tmp_path / f"clip.{kind}")
    assert abs(video.info.num_frames - 30) <= 2 and abs(video.info.seconds - 1.2) < 0.1
    assert [frame.index for frame in frames] == list(range(30)) and video.problems == []
    assert np.allclose([frame.seconds for frame in frames], np.arange(30) / 25, atol=2e-3)
    assert frames[0].image.dtype == np.uint8 and frames[0].image.shape == (48, 64, 3)
    assert np.allclose([number_of(frame.image) for frame in frames], range(30), atol=2.5)
    assert np.abs(frames[0].image[10, 10].astype(int) - (255, 0, 0)).max() < 8


def test_a_raw_stream_tells_no_length(tmp_path):
    video, frames = read(encode(tmp_path / "clip.h264", 30, kind="h264"))
    assert (video.info.num_frames, video.info.seconds, len(frames)) == (None, None, 30)
    assert np.allclose([frame.seconds for frame in frames], np.arange(30) / 25)


def test_times_of_a_variable_frame_rate_are_kept_and_start_at_0(tmp_path):
    times = [0.5 + 0.02 * i * i for i in range(12)]
    _, frames = read(encode(tmp_path / "clip.mkv", 12, times=times))
    assert np.allclose([frame.seconds for frame in frames], np.array(times) - 0.5, atol=2e-3)


@pytest.mark.parametrize(
    ("turned", "turn"),
    [
        (90, lambda x: np.rot90(x)),
        (180, lambda x: np.rot90(x, 2)),
        (-90, lambda x: np.rot90(x, -1)),
    ],
)
def test_frames_are_turned_upright(tmp_path, turned, turn):
    video, frames = read(encode(tmp_path / "clip.mp4", 3, turned=turned))
    expected = turn(picture(0))
    assert video.info.size == expected.shape[:2] == frames[0].image.shape[:2]
    assert np.median(np.abs(frames[0].image.astype(int) - expected)) < 5 and video.problems == []
    assert frames[0].image.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize(
    ("matrix", "change"),
    [
        ((1, 0, 0, 1), lambda x: x),
        ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
        ((1, 0, 0, -1), lambda x: x[::-1]),
        ((-1, 0, 0, -1), lambda x: x[::-1, ::-1]),
        ((0, 1, 1, 0), lambda x: x.transpose(1, 0, 2)),
        ((0, 1, -1, 0), lambda x: x.transpose(1, 0, 2)[:, ::-1]),
        ((0, -1, 1, 0), lambda x: x.transpose(1, 0, 2)[::-1]),
        ((0, -1, -1, 0), lambda x: x.transpose(1, 0, 2)[::-1, ::-1]),
    ],
)
def test_all_eight_orientations_of_a_display_matrix(matrix, change):
    assert np.array_equal(video_streams._upright(picture(3), matrix), change(picture(3)))


def test_a_gif_is_a_video_with_the_times_of_its_frames(tmp_path):
    pictures = [Image.fromarray(picture(10 * i)) for i in range(4)]
    pictures[0].save(
        tmp_path / "x.gif",
        save_all=True,
        append_images=pictures[1:],
        duration=[100, 250, 50, 100],
        loop=0,
    )
    video, frames = read(tmp_path / "x.gif")
    assert [round(frame.seconds, 3) for frame in frames] == [0, 0.1, 0.35, 0.4]
    assert video.info.num_frames == 4 and abs(video.info.seconds - 0.5) < 0.1
    assert np.allclose([number_of(frame.image) for frame in frames], [0, 10, 20, 30], atol=1)


@pytest.mark.parametrize("start", [0, 1, 7, 19, 20])
def test_start_frame_leaves_out_frames_and_keeps_number_and_time(tmp_path, start):
    path = encode(tmp_path / "clip.mp4", 20)
    video, frames = read(path, start_frame=start)
    assert [frame.index for frame in frames] == list(range(start, 20)) and video.problems == []
    assert all(abs(frame.seconds - frame.index / 25) < 1e-3 for frame in frames)
    assert all(abs(number_of(frame.image) - frame.index) < 2.5 for frame in frames)


def test_a_start_past_the_end_gives_nothing_and_says_so(tmp_path):
    video, frames = read(encode(tmp_path / "clip.mp4", 5), start_frame=9)
    assert frames == [] and video.problems == [
        "start_frame 9 lies past the end: there are 5 frames"
    ]


# ---- picture sequences


def sequence(folder, names):
    for i, name in enumerate(names):
        write_image(folder / name, picture(10 * i))


def test_a_folder_of_pictures_is_read_in_natural_order(tmp_path):
    sequence(tmp_path, ["f1.png", "f2.png", "f10.png", "f11.jpg"])
    (tmp_path / "notes.txt").write_text("no picture")
    video, frames = read(tmp_path, frame_rate=10)
    assert (video.info.size, video.info.num_frames, video.info.frame_rate) == ((48, 64), 4, 10)
    assert video.info.seconds == 0.4 and not video.info.live
    assert [(frame.index, frame.seconds) for frame in frames] == [
        (0, 0),
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
    ]
    assert np.allclose([number_of(frame.image) for frame in frames], [0, 10, 20, 30], atol=1)
    assert [frame.index for frame in read(tmp_path, start_frame=2)[1]] == [2, 3]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a_%03d.png", [0, 20, 30]),
        ("a_%d.png", [0, 10, 20, 30]),
        ("a_0*.png", [0, 20]),
        ("[a]_*.png", [0, 10, 20, 30]),
    ],
)
def test_patterns_of_pictures(tmp_path, pattern, expected):
    sequence(tmp_path, ["a_001.png", "a_2.png", "a_003.png", "a_1000.png", "b_004.png"])
    _, frames = read(tmp_path / pattern)
    assert np.allclose([number_of(frame.image) for frame in frames], expected, atol=1)


def test_one_picture_is_a_sequence_of_one(tmp_path):
    sequence(tmp_path, ["one.jpg"])
    video, frames = read(tmp_path / "one.jpg")
    assert len(frames) == 1 and video.info.num_frames == 1


def test_an_unreadable_picture_leaves_a_gap_and_is_named(tmp_path):
    sequence(tmp_path, ["1.png", "2.png", "3.png"])
    (tmp_path / "2.png").write_bytes(b"broken")
    video, frames = read(tmp_path)
    assert [frame.index for frame in frames] == [0, 2]
    assert (
        len(video.problems) == 1
        and "frame 1 is left out" in video.problems[0]
        and "2.png" in video.problems[0]
    )


def test_pictures_of_different_sizes_keep_theirs(tmp_path):
    write_image(tmp_path / "1.png", picture(0))
    write_image(tmp_path / "2.png", picture(0, 40, 30))
    video, frames = read(tmp_path)
    assert [frame.image.shape for frame in frames] == [(48, 64, 3), (40, 30, 3)]
    assert video.problems == ["frame 1 has another size: 30 x 40 px (width x height)"]


def test_no_picture_and_no_readable_picture_are_errors(tmp_path):
    with pytest.raises(VideoError, match="no picture found"):
        open_video(tmp_path)
    with pytest.raises(VideoError, match="no picture found"):
        open_video(tmp_path / "f_%04d.jpg")
    (tmp_path / "1.png").write_bytes(b"broken")
    with pytest.raises(VideoError, match="none of 1 pictures can be read; the last: .*1.png"):
        open_video(tmp_path)


# ---- bad files


def test_missing_empty_and_other_files_are_told_apart(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello " * 100)
    for name, message in [
        ("none.mp4", "none.mp4: no such file; check the path"),
        ("empty.mp4", r"empty.mp4: the file is empty \(0 bytes\)"),
        ("text.mp4", r"text.mp4: not a video \(it begins with b'hello hello '; Invalid data"),
    ]:
        with pytest.raises(VideoError, match=message):
            open_video(tmp_path / name)


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "x.wav"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 800), np.int16), format="s16", layout="mono"
        )
        frame.sample_rate, frame.pts = 8000, 0
        out.mux(stream.encode(frame))
    with pytest.raises(
        VideoError, match=r"x.wav: holds no video stream \(audio\); expected a video"
    ):
        open_video(tmp_path / "x.wav")


def test_a_video_without_frames_is_an_error(tmp_path):
    with av.open(str(tmp_path / "zero.avi"), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        out.start_encoding()
    with pytest.raises(
        VideoError,
        match=r"zero.avi: no frame can be decoded \(codec mpeg4\); the video is empty or broken",
    ):
        open_video(tmp_path / "zero.avi")


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_a_truncated_file_gives_its_frames_and_a_note(tmp_path, kind):
    path = encode(
        tmp_path / f"clip.{kind}", 100, options={"movflags": "faststart"} if kind == "mp4" else None
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    video, frames = read(path)
    assert 5 < len(frames) < 90 and [frame.index for frame in frames] == list(range(len(frames)))
    assert f"ended after {len(frames)} frames (" in video.problems[0]
    assert "of 4.00 s that the file should have; it is truncated or damaged" in video.problems[0]


def test_an_mp4_cut_before_its_index_is_named_truncated(tmp_path):
    path = encode(tmp_path / "clip.mp4", 50)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        VideoError, match=r"clip.mp4: an mp4 or mov file without its index .*; it is truncated"
    ):
        open_video(path)


def damaged_clip(path, bad):
    """Motion JPEG in which some packets are noise."""
    encode(path.with_suffix(".avi"), 30, codec="mjpeg")
    noise = np.random.default_rng(0)
    with av.open(str(path.with_suffix(".avi"))) as clip, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(clip.streams.video[0])
        for i, packet in enumerate(clip.demux(video=0)):
            if not packet.size:
                continue
            if i in bad:
                broken = av.Packet(noise.bytes(packet.size))
                broken.pts, broken.dts, broken.time_base = packet.pts, packet.dts, packet.time_base
                packet = broken
            packet.stream = stream
            out.mux(packet)
    return path


def test_damaged_packets_are_skipped_and_counted(tmp_path):
    video, frames = read(damaged_clip(tmp_path / "clip.mkv", {5, 6, 20}))
    assert len(frames) == 27 and [frame.index for frame in frames] == list(range(27))
    assert video.problems == [
        "3 damaged packets: skipped, or shown as far as they could be decoded"
    ]
    assert abs(number_of(frames[5].image) - 7) < 1.5 and abs(frames[5].seconds - 7 / 25) < 2e-3
    assert abs(number_of(frames[-1].image) - 29) < 1.5


def test_damaged_packets_at_the_beginning_are_skipped_too(tmp_path):
    video, frames = read(damaged_clip(tmp_path / "clip.mkv", {0, 1}))
    assert len(frames) == 28 and video.problems[0].startswith("2 damaged packets")


def test_nothing_but_damage_is_an_error(tmp_path):
    with pytest.raises(
        VideoError, match=r"no frame can be decoded \(codec mjpeg; 30 packets are damaged\)"
    ):
        open_video(damaged_clip(tmp_path / "clip.mkv", set(range(30))))


def test_bytes_overwritten_in_the_middle_do_not_end_the_video(tmp_path):
    path = encode(tmp_path / "clip.ts", 100)
    content = bytearray(path.read_bytes())
    content[12_000:12_400] = np.random.default_rng(0).bytes(400)
    path.write_bytes(content)
    _, frames = read(path)
    assert len(frames) >= 90 and abs(frames[-1].seconds - 3.96) < 0.05


def test_a_new_size_in_the_middle_is_followed_and_noted(tmp_path):
    first, second = (
        encode(tmp_path / "a.h264", 20, kind="h264"),
        encode(tmp_path / "b.h264", 10, kind="h264", size=(64, 96)),
    )
    (tmp_path / "two.h264").write_bytes(first.read_bytes() + second.read_bytes())
    video, frames = read(tmp_path / "two.h264")
    assert [frame.image.shape for frame in frames] == [(48, 64, 3)] * 20 + [(64, 96, 3)] * 10
    assert video.problems == ["frame 20 has another size: 96 x 64 px (width x height)"]
    assert video.info.size == (48, 64)


def test_times_grow_where_two_recordings_were_joined(tmp_path):
    part = encode(tmp_path / "a.ts", 20)
    (tmp_path / "two.ts").write_bytes(part.read_bytes() * 2)
    _, frames = read(tmp_path / "two.ts")
    assert len(frames) == 40 and (np.diff([frame.seconds for frame in frames]) > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ahead": 0}, "ahead is 0, expected at least 1"),
        ({"start_frame": -1}, "start_frame is -1, expected at least 0"),
        ({"reconnect": -1}, "reconnect is -1"),
        ({"timeout": 0}, "timeout is 0 s"),
        ({"frame_rate": 0}, "frame_rate 0, expected both to be above 0"),
    ],
)
def test_wrong_options_are_told(options, message):
    with pytest.raises(VideoError, match=message):
        open_video("clip.mp4", **options)


# ---- the thread


def test_closing_early_ends_the_thread_at_once(tmp_path):
    path = encode(tmp_path / "clip.mp4", 100)
    with open_video(path, ahead=2) as video:
        assert [frame.index for frame in islice(video, 3)] == [0, 1, 2]
        assert len(threads_of_videos()) == 1
        begin = time.monotonic()
    assert time.monotonic() - begin < 1 and threads_of_videos() == []
    assert list(video) == []


def test_a_reader_that_is_never_read_or_read_to_the_end_leaves_no_thread(tmp_path):
    path = encode(tmp_path / "clip.mp4", 10)
    with open_video(path):
        pass
    video = open_video(path)
    assert len(list(video)) == 10 and threads_of_videos() == []
    video.close()
    video.close()


def test_a_forgotten_reader_ends_its_thread(tmp_path):
    video = open_video(encode(tmp_path / "clip.mp4", 60))
    next(video)
    del video
    gc.collect()
    assert gone(threads_of_videos)


def test_two_readers_do_not_notice_each_other(tmp_path):
    path = encode(tmp_path / "clip.mp4", 20)
    with open_video(path) as first, open_video(path, start_frame=5) as second:
        pairs = [(a.index, b.index) for a, b in zip(second, first, strict=False)]
    assert pairs == [(i + 5, i) for i in range(15)]


def test_what_goes_wrong_in_the_thread_reaches_the_consumer(tmp_path, monkeypatch):
    def broken(raw, opened):
        if raw.pts > 3000:
            raise RuntimeError("out of film")
        return np.zeros((48, 64, 3), np.uint8)

    path = encode(tmp_path / "clip.mp4", 20)
    monkeypatch.setattr(video_streams, "_rgb", broken)
    got = []
    with pytest.raises(RuntimeError, match="out of film"), open_video(path) as video:
        for frame in video:
            got.append(frame.index)
    assert 0 < len(got) < 20 and threads_of_videos() == []


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "clip.mp4"
    with VideoWriter(path, 25) as out:
        for i in range(600):
            out.write(np.full((16, 16, 3), i % 256, np.uint8))
    return path


@pytest.mark.parametrize("ahead", [1, 4])
def test_few_frames_of_a_long_clip_are_alive_at_once(long_clip, monkeypatch, ahead):
    alive, most = 0, 0
    lock = threading.Lock()

    def count(change):
        nonlocal alive, most
        with lock:
            alive += change
            most = max(most, alive)

    convert = video_streams._rgb

    def counted(raw, opened):
        image = convert(raw, opened).copy()
        count(+1)
        weakref.finalize(image, count, -1)
        return image

    monkeypatch.setattr(video_streams, "_rgb", counted)
    number = 0
    with open_video(long_clip, ahead=ahead) as video:
        for frame in video:
            number = frame.index + 1
            if number % 60 == 0:
                time.sleep(0.02)  # let the thread run ahead as far as it may
    del frame
    assert number == 600 and ahead <= most <= ahead + 2
    assert gone(lambda: alive)


# ---- cameras and streams


class Server:
    """A tiny HTTP server: answers the n-th request with the n-th reply, (bytes, what then), the
    last one for ever."""

    def __init__(self, *replies, length=None):
        self.requests, self._replies, self._length = 0, replies, length
        self._over = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/live.ts"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            reply = self._replies[min(self.requests, len(self._replies) - 1)]
            self.requests += 1
            threading.Thread(target=self._answer, args=(connection, *reply), daemon=True).start()

    def _answer(self, connection, content, then):
        head = "HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nConnection: close\r\n"
        head += f"Content-Length: {self._length}\r\n\r\n" if self._length else "\r\n"
        try:
            connection.recv(4096)
            connection.sendall(head.encode() + content)
            if then == "stall":
                self._over.wait(10)
        except OSError:
            pass
        connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._over.set()
        self._socket.close()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(video_streams, "_BACKOFF", 0.01)


@pytest.fixture(scope="module")
def broadcast(tmp_path_factory) -> bytes:
    return encode(tmp_path_factory.mktemp("broadcast") / "live.ts", 100).read_bytes()


def test_a_stream_that_stalls_is_an_error_after_its_time(broadcast):
    with Server((broadcast[: len(broadcast) // 2], "stall")) as server:
        got = []
        begin = time.monotonic()
        with open_video(server.url, timeout=0.5, reconnect=0) as video:
            assert video.info.live and video.info.num_frames is None
            with pytest.raises(
                VideoError,
                match=r"lost after \d+ frames: nothing came for 0.5 s; it was not connected to "
                r"again",
            ):
                for frame in video:
                    got.append(frame.index)
    assert len(got) > 20 and 0.4 < time.monotonic() - begin < 3 and threads_of_videos() == []


def test_a_stream_that_breaks_off_is_connected_to_again(broadcast, quick):
    half = broadcast[: len(broadcast) // 2]
    with Server((half, "die"), (half, "die"), (b"", "die")) as server:
        got = []
        with open_video(server.url, timeout=2, reconnect=2) as video:
            with pytest.raises(
                VideoError,
                match=r"live.ts: lost after \d+ frames: .*; 2 attempts to connect again failed",
            ):
                for frame in video:
                    got.append((frame.index, frame.seconds))
    assert server.requests == 4 and len(got) > 60
    assert [index for index, _ in got] == list(range(len(got))), "the numbers go on"
    assert (np.diff([seconds for _, seconds in got]) > 0).all()
    assert len(video.problems) == 1 and "the connection was lost after frame" in video.problems[0]
    assert "made again (attempt 1)" in video.problems[0]


def test_a_finite_video_over_http_goes_on_where_the_connection_broke(broadcast, quick):
    with Server(
        (broadcast[: len(broadcast) // 2], "die"), (broadcast, "end"), length=len(broadcast)
    ) as server:
        video, frames = read(server.url, timeout=2)
    assert not video.info.live and [frame.index for frame in frames] == list(range(100))
    assert np.allclose([frame.seconds for frame in frames], np.arange(100) / 25, atol=2e-3)
    assert np.allclose([number_of(frame.image) for frame in frames], np.arange(100), atol=2.5)
    assert len(video.problems) == 1 and "the connection was lost" in video.problems[0]


def test_closing_while_waiting_to_connect_again_is_prompt(broadcast, monkeypatch):
    monkeypatch.setattr(video_streams, "_BACKOFF", 5.0)
    with Server((broadcast[: len(broadcast) // 2], "die")) as server:
        with open_video(server.url, timeout=2) as video:
            next(video)
            time.sleep(0.2)
            begin = time.monotonic()
    assert time.monotonic() - begin < 1 and threads_of_videos() == []


def test_closing_a_silent_stream_does_not_wait_for_its_time_out(broadcast, monkeypatch):
    monkeypatch.setattr(video_module, "_GOODBYE", 0.2)
    with Server((broadcast[: len(broadcast) // 2], "stall")) as server:
        with open_video(server.url, timeout=1.0, ahead=200) as video:
            next(video)
            time.sleep(0.2)
            begin = time.monotonic()
        assert time.monotonic() - begin < 0.6
        assert gone(threads_of_videos), "the thread ends by itself when its read times out"


def test_an_address_that_nobody_answers_is_told_without_its_password():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(
        VideoError, match="cannot be opened: Connection refused; check the address"
    ) as caught:
        open_video(f"rtsp://me:secret@127.0.0.1:{port}/stream")
    assert "secret" not in str(caught.value) and f"rtsp://me:***@127.0.0.1:{port}/stream" in str(
        caught.value
    )


def test_a_server_that_accepts_and_says_nothing_is_told():
    with (
        Server((b"", "stall")) as server,
        pytest.raises(VideoError, match="cannot be opened: nothing came for 0.3 s"),
    ):
        open_video(server.url, timeout=0.3)


def test_a_camera_that_is_not_there_is_told():
    with pytest.raises(
        VideoError, match="^77: no camera at /dev/video77; cameras present: .*Is it plugged in"
    ):
        open_video(77)
    with pytest.raises(VideoError, match="no camera at /dev/video78"):
        open_video("/dev/video78")


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (
            PermissionError(13, "Permission denied"),
            "0: no permission to use the camera /dev/video0; add yourself to the group",
        ),
        (
            OSError(16, "Device or resource busy"),
            "the camera /dev/video0 gives no video .Device or resource busy.; is another",
        ),
    ],
)
def test_a_camera_that_cannot_be_used_is_told(monkeypatch, problem, message):
    def refuse(*_, **__):
        raise problem

    monkeypatch.setattr(os.path, "exists", lambda path: True)
    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(VideoError, match=message):
        open_video(0)


def test_a_camera_is_live_and_its_times_come_from_its_clock(tmp_path, monkeypatch):
    times = [100.0, 100.05, 100.2, 100.21]
    path = encode(tmp_path / "camera.mkv", 4, times=times)
    plain, asked = av.open, []

    def camera(address, format, options, timeout):
        asked.append((address, format))
        return plain(str(path))

    monkeypatch.setattr(os.path, "exists", lambda path: True)
    monkeypatch.setattr(av, "open", camera)
    video = open_video("/dev/video0", reconnect=0)
    frames = list(islice(video, 4))
    video.close()
    assert asked == [("/dev/video0", "v4l2")]
    assert np.allclose([frame.seconds for frame in frames], [0, 0.05, 0.2, 0.21], atol=2e-3)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_told(tmp_path):
    path = encode(tmp_path / "clip.mp4", 2)
    path.chmod(0)
    with pytest.raises(
        VideoError, match="clip.mp4: cannot be opened .Permission denied.; check its permissions"
    ):
        open_video(path)


# ---- real clips


@needs_data
@pytest.mark.parametrize(
    ("name", "size", "rate", "num_frames", "sound"),
    [
        ("clips/intel__one-by-one-person-detection.mp4", (432, 768), 10, 1394, False),
        ("clips/mmpose__posetrack18_000001_mpiinew_test.mp4", (720, 1280), 30, 5, False),
        ("clips/openpose__video.avi", (720, 1280), 50, 205, True),
        ("tracking/TUD-Stadtmitte/img1", (480, 640), 25, 179, False),
        ("tracking/PETS-S3MF1/img1", None, 25, None, False),
        ("tracking/posetrack-060470979/img1", None, 25, None, False),
    ],
)
def test_real_clips_open_and_give_frames(name, size, rate, num_frames, sound):
    with open_video(DATA / name) as video:
        frames = list(islice(video, 5))
    assert video.info.frame_rate == rate and video.info.has_audio == sound and not video.info.live
    assert size in (None, video.info.size) and num_frames in (None, video.info.num_frames)
    assert [frame.index for frame in frames] == list(range(5)) and video.problems == []
    assert np.allclose([frame.seconds for frame in frames], np.arange(5) / rate, atol=1e-3)
    assert all(
        frame.image.shape[:2] == video.info.size and frame.image.std() > 10 for frame in frames
    )
