import os
import signal
import subprocess
import sys
import textwrap
from fractions import Fraction

import av
import numpy as np
import pytest

from humanquery.core.errors import VideoError
from humanquery.media import video_writer as video_write
from humanquery.media.video import open_video
from humanquery.media.video_writer import VideoWriter
from tests.paths import ROOT


def picture(i: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Red above blue, with a grey bar on the right whose brightness is the frame's number."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, :, 0] = 255
    image[height // 2 :, :, 2] = 255
    image[:, width // 2 :] = 20 + 2 * i
    return image


def write(path, images, frame_rate=25, times=None, **options) -> VideoWriter:
    with VideoWriter(path, frame_rate, **options) as out:
        for i, image in enumerate(images):
            out.write(image, None if times is None else times[i])
    return out


def read(path):
    with open_video(path) as video:
        return video, list(video)


def click_at(path, second: float, *, codec="aac", rate=44100, video=True, length=3.0) -> None:
    """A clip with silence but for a tone of 50 ms that begins at `second`."""
    with av.open(str(path), "w") as out:
        if video:
            pictures = out.add_stream("libx264", rate=25, options={"bf": "0"})
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        sound = out.add_stream(codec, rate=rate, layout="stereo")
        resampler = av.AudioResampler(sound.codec_context.format.name, "stereo", rate)
        for i in range(round(length * 25)):
            if video:
                frame = av.VideoFrame.from_ndarray(picture(i % 100), format="rgb24")
                frame.pts, frame.time_base = i, Fraction(1, 25)
                out.mux(pictures.encode(frame))
            at = (np.arange(rate // 25) + i * (rate // 25)) / rate
            tone = 0.5 * np.sin(2 * np.pi * 1000 * at) * ((at >= second) & (at < second + 0.05))
            frame = av.AudioFrame.from_ndarray(
                np.stack([tone, tone]).astype(np.float32), format="fltp", layout="stereo"
            )
            frame.sample_rate, frame.pts, frame.time_base = (
                rate,
                i * (rate // 25),
                Fraction(1, rate),
            )
            for piece in resampler.resample(frame):
                out.mux(sound.encode(piece))
        if video:
            out.mux(pictures.encode())
        out.mux(sound.encode())


def heard_at(path) -> tuple[str, float, float]:
    """Codec of the sound, second at which the loud part begins, and second at which the sound
    ends."""
    with av.open(str(path)) as clip:
        stream = clip.streams.audio[0]
        loud, end = None, 0.0
        for frame in clip.decode(stream):
            values = np.abs(frame.to_ndarray()).max(axis=0)
            if loud is None and values.max() > 0.2:
                loud = frame.time + int((values > 0.2).argmax()) / frame.sample_rate
            end = frame.time + frame.samples / frame.sample_rate
        return stream.codec_context.codec.canonical_name, loud, end


def test_what_is_written_is_read_again(tmp_path):
    pictures = [picture(i) for i in range(60)]
    out = write(tmp_path / "deep" / "er" / "clip.mp4", pictures, Fraction(30000, 1001))
    assert out.num_frames == 60 and out.size == (48, 64)
    video, frames = read(out.path)
    assert (video.info.size, video.info.frame_rate, video.info.num_frames) == (
        (48, 64),
        Fraction(30000, 1001),
        60,
    )
    assert (
        abs(video.info.seconds - 60 * 1001 / 30000) < 1e-6
        and not video.info.has_audio
        and video.problems == []
    )
    assert [frame.index for frame in frames] == list(range(60))
    assert np.allclose([frame.seconds for frame in frames], np.arange(60) * 1001 / 30000, atol=1e-6)
    for frame, image in zip(frames, pictures, strict=True):
        inside = (
            np.abs(frame.image.astype(int) - image)[4:20, 4:28],
            np.abs(frame.image.astype(int) - image)[:, 36:],
        )
        assert max(part.max() for part in inside) <= 6


def test_a_finished_file_is_an_ordinary_mp4_of_h264_in_bt709(tmp_path):
    path = write(tmp_path / "clip.mp4", [picture(i) for i in range(30)]).path
    with av.open(str(path)) as clip:
        stream = clip.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert stream.codec_context.colorspace == 1 and stream.frames == 30


def test_a_keyframe_comes_at_least_every_second_also_where_pictures_are_rare(tmp_path):
    path = write(tmp_path / "clip.mp4", [picture(0)] * 60).path
    with av.open(str(path)) as clip:
        keys = [
            packet.pts * packet.time_base
            for packet in clip.demux(video=0)
            if packet.is_keyframe and packet.size
        ]
    assert keys[:3] == [0, 1, 2]
    path = write(tmp_path / "rare.mp4", [picture(0)] * 8, times=[0.7 * i for i in range(8)]).path
    with av.open(str(path)) as clip:
        keys = [
            float(packet.pts * packet.time_base)
            for packet in clip.demux(video=0)
            if packet.is_keyframe and packet.size
        ]
    assert np.allclose(keys, [0, 1.4, 2.8, 4.2], atol=1e-4)


@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
def test_variable_times_are_kept(tmp_path, monkeypatch, encoder):
    monkeypatch.setattr(video_write, "_ENCODERS", (encoder,))
    times = [0.01 * i * i for i in range(20)]
    _, frames = read(
        write(tmp_path / "clip.mp4", [picture(i) for i in range(20)], times=times).path
    )
    assert np.allclose([frame.seconds for frame in frames], times, atol=1e-4)


def test_the_first_picture_is_at_0_whatever_its_time(tmp_path):
    video, frames = read(
        write(tmp_path / "clip.mp4", [picture(i) for i in range(3)], times=[7.0, 7.04, 7.5]).path
    )
    assert np.allclose([frame.seconds for frame in frames], [0, 0.04, 0.5], atol=1e-4)
    assert abs(video.info.seconds - 0.54) < 1e-3


def test_one_picture_is_a_video(tmp_path):
    video, frames = read(write(tmp_path / "clip.mp4", [picture(5)]).path)
    assert len(frames) == 1 and video.info.num_frames == 1


def test_no_picture_makes_no_file(tmp_path):
    write(tmp_path / "clip.mp4", [])
    assert not (tmp_path / "clip.mp4").exists()


@pytest.mark.parametrize(("height", "width"), [(49, 65), (1, 1), (49, 64), (48, 33)])
def test_odd_sizes_grow_by_a_copy_of_the_last_row_and_column(tmp_path, height, width):
    image = np.full((height, width, 3), 90, np.uint8)
    video, frames = read(write(tmp_path / "clip.mp4", [image] * 3).path)
    assert video.info.size == (height + height % 2, width + width % 2)
    assert all(np.abs(frame.image.astype(int) - 90).max() <= 3 for frame in frames)


def test_pictures_of_another_size_are_framed_in_black(tmp_path):
    wide = np.full((24, 64, 3), 200, np.uint8)
    large = np.full((96, 128, 3), 200, np.uint8)
    _, frames = read(write(tmp_path / "clip.mp4", [picture(0), wide, large]).path)
    assert [frame.image.shape for frame in frames] == [(48, 64, 3)] * 3
    assert frames[1].image[:10].max() < 12 and frames[1].image[38:].max() < 12
    assert abs(int(frames[1].image[24, 32, 0]) - 200) < 5
    assert frames[2].image.min() > 190


def test_a_file_that_is_there_is_replaced(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"x" * 100_000)
    _, frames = read(write(tmp_path / "clip.mp4", [picture(0)] * 2).path)
    assert len(frames) == 2


def test_more_quality_is_a_larger_file(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (48, 64, 3)).astype(np.uint8) for _ in range(5)]
    sizes = [
        write(tmp_path / f"{q}.mp4", images, quality=q).path.stat().st_size for q in (0, 60, 100)
    ]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize(
    ("kind", "codec", "expected"),
    [
        ("mp4", "aac", "aac"),
        ("mp4", "libmp3lame", "mp3"),
        ("avi", "pcm_s16le", "aac"),
        ("mkv", "flac", "aac"),
        ("ts", "aac", "aac"),
    ],
)
@pytest.mark.parametrize("start", [0.0, 0.6])
def test_sound_stays_with_the_pictures(tmp_path, kind, codec, expected, start):
    click_at(tmp_path / f"source.{kind}", 1.0, codec=codec)
    images, times = [picture(i) for i in range(50)], [start + i / 25 for i in range(50)]
    out = write(tmp_path / "clip.mp4", images, times=times, audio_from=tmp_path / f"source.{kind}")
    video, frames = read(out.path)
    assert video.info.has_audio and len(frames) == 50 and out.problems == []
    assert abs(video.info.seconds - 2.0) < 1e-3, "the pictures keep their duration"
    kept, heard, end = heard_at(out.path)
    assert kept == expected
    assert abs(heard - (1.0 - start)) < 0.06  # an MP3 packet and its decoder's delay are 26 ms each
    assert abs(end - 2.0) < 0.06, "the sound ends with the pictures"


def test_copied_packets_are_the_same_bytes(tmp_path):
    click_at(tmp_path / "source.mp4", 1.0)
    out = write(
        tmp_path / "clip.mp4", [picture(i) for i in range(50)], audio_from=tmp_path / "source.mp4"
    )
    packets = []
    for path in (tmp_path / "source.mp4", out.path):
        with av.open(str(path)) as clip:
            packets.append([bytes(packet) for packet in clip.demux(audio=0) if packet.size])
    assert len(packets[1]) > 80 and set(packets[1]) <= set(packets[0])


def test_sound_alone_can_be_laid_under_pictures_and_ends_before_them(tmp_path):
    click_at(tmp_path / "short.wav", 0.2, codec="pcm_s16le", video=False, length=0.4)
    out = write(tmp_path / "clip.mp4", [picture(0)] * 75, audio_from=tmp_path / "short.wav")
    video, frames = read(out.path)
    assert len(frames) == 75 and abs(heard_at(out.path)[1] - 0.2) < 0.03


def test_a_source_without_sound_is_fine(tmp_path):
    write(tmp_path / "silent.mp4", [picture(0)] * 3)
    for source in (tmp_path / "silent.mp4", tmp_path):
        video, frames = read(write(tmp_path / "clip.mp4", [picture(0)] * 3, audio_from=source).path)
        assert len(frames) == 3 and not video.info.has_audio


def run(code: str, *arguments: object) -> subprocess.CompletedProcess:
    head = (
        "import sys, os, signal, numpy as np\n"
        "from humanquery.media.video_writer import VideoWriter\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_killed_process_leaves_a_file_that_plays(tmp_path):
    click_at(tmp_path / "source.mp4", 1.0, length=6.0)
    done = run(
        """
        out = VideoWriter(sys.argv[1], 25, audio_from=sys.argv[2])
        for i in range(150):
            out.write(np.full((48, 64, 3), i, np.uint8))
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path / "clip.mp4",
        tmp_path / "source.mp4",
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    video, frames = read(tmp_path / "clip.mp4")
    assert 80 <= len(frames) < 150, (
        "at most a fragment of a second and what the encoder held are lost"
    )
    assert abs(video.info.num_frames - len(frames)) <= 1
    assert all(np.abs(frame.image.astype(int) - frame.index).max() <= 4 for frame in frames)
    assert abs(heard_at(tmp_path / "clip.mp4")[1] - 1.0) < 0.06


def test_an_interrupted_block_leaves_a_finished_file(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with VideoWriter(tmp_path / "clip.mp4", 25) as out:
            for i in range(40):
                out.write(picture(i))
            raise KeyboardInterrupt
    video, frames = read(tmp_path / "clip.mp4")
    assert len(frames) == 40 and video.info.num_frames == 40


def test_a_full_disk_is_told_with_what_was_saved(tmp_path):
    done = run(
        """
        import resource
        from humanquery.core.errors import VideoError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        rng = np.random.default_rng(0)
        try:
            with VideoWriter(sys.argv[1], 25) as out:
                for i in range(300):
                    out.write(rng.integers(0, 255, (48, 64, 3)).astype(np.uint8))
        except VideoError as problem:
            print(problem)
        """,
        tmp_path / "clip.mp4",
    )
    assert f"{tmp_path}/clip.mp4: the disk is full (File too large) at frame" in done.stdout, (
        done.stderr
    )
    assert "s are saved and can be played. Free space or choose another place" in done.stdout
    saved = float(done.stdout.split("the first ")[1].split()[0])
    _, frames = read(tmp_path / "clip.mp4")
    assert saved > 1 and abs(len(frames) / 25 - saved) < 0.15


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_disk_that_is_full_from_the_start_is_told(tmp_path):
    (tmp_path / "clip.mp4").symlink_to("/dev/full")
    with pytest.raises(
        VideoError,
        match=r"clip.mp4: the disk is full \(No space left on device\).*; nothing was saved",
    ):
        write(tmp_path / "clip.mp4", [picture(i % 100) for i in range(200)])


def test_after_an_error_nothing_more_is_written(tmp_path):
    out = write(tmp_path / "clip.mp4", [picture(0)])
    out.close()
    with pytest.raises(VideoError, match="clip.mp4: is closed"):
        out.write(picture(0))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("clip.mkv", {}, "clip.mkv: cannot write a video of kind '.mkv'; use .mp4"),
        ("clip", {}, "clip: cannot write a video of kind ''"),
        ("clip.mp4", {"frame_rate": 0}, "clip.mp4: frame_rate is 0, expected"),
        ("clip.mp4", {"frame_rate": float("nan")}, "frame_rate is nan"),
        ("clip.mp4", {"quality": 101}, "clip.mp4: quality is 101, expected 0"),
        ("clip.mp4", {"audio_from": "none.wav"}, "none.wav: no such file to take the sound from"),
        (
            "clip.mp4",
            {"audio_from": "text.wav"},
            "text.wav: its sound cannot be read .Invalid data",
        ),
        ("text.wav/clip.mp4", {}, "clip.mp4: its folder cannot be made"),
        ("folder.mp4", {}, "folder.mp4: a folder, expected the name of a file"),
        ("here.mp4", {"audio_from": "here.mp4"}, "here.mp4: is the file whose sound is wanted"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_first_picture(
    tmp_path, monkeypatch, name, options, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.wav").write_text("no sound at all" * 50)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "here.mp4").write_text("here")
    with pytest.raises(VideoError, match=message):
        VideoWriter(name, **({"frame_rate": 25} | options))


def test_times_that_do_not_grow_and_empty_pictures_are_refused(tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", 25) as out:
        out.write(picture(0), 1.0)
        with pytest.raises(
            VideoError,
            match=r"clip.mp4: frame 1 is to be shown at 1 s, not after the frame before it .1 s.",
        ):
            out.write(picture(1), 1.0)
        with pytest.raises(VideoError, match=r"empty picture of shape \(0, 5, 3\)"):
            out.write(np.zeros((0, 5, 3), np.uint8))
        out.write(picture(1), 1.04)
    assert len(read(out.path)[1]) == 2
