"""Following people through a video: files, resuming, and what is told."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open

from humanquery.core.errors import CheckpointError, VideoError
from humanquery.core.persons import Persons
from humanquery.core.system import Picture
from humanquery.media.video import open_video
from humanquery.media.video_writer import VideoWriter
from humanquery.predict import Predictor
from humanquery.predict import track_video as video_module
from humanquery.predict.predict_folder import is_video
from humanquery.predict.track_video import track_config, track_frames, track_video
from humanquery.tracking import TrackBook, TrackConfig
from humanquery.tracking.attributes import RefreshConfig, TrackAttributes
from humanquery.tracking.zones import ZoneCounter, parse_line, parse_zone
from tests.media.test_video import damaged_clip
from tests.predict.fake import FakeSystem, people

SIZE = (48, 64)


class Bright(FakeSystem):
    """Sees one person where the picture is bright, with a query that never changes."""

    def predict(self, batch, ask=None):
        found = []
        for image, meta in zip(batch.images, batch.metas, strict=True):
            column = float(image.mean((0, 1)).argmax()) / image.shape[-1] * meta.image_size[1]
            box = torch.tensor([[column - 6, 8.0, column + 6, 40.0]])
            people = Persons(
                image_size=meta.image_size,
                boxes=box,
                scores=torch.tensor([0.9]),
                embeddings=torch.ones(1, 4),
            )
            found.append(Picture(people))
        return found


def bright(column: int) -> np.ndarray:
    picture = np.zeros((*SIZE, 3), np.uint8)
    picture[:, column - 3 : column + 3] = 255
    return picture


@pytest.fixture
def predictor():
    return Predictor(Bright(), {"score_threshold": 0.5}, "cpu")


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 20) as out:
        for t in range(30):
            out.write(bright(10 + t))
    return path


def lines(out):
    return [json.loads(line) for line in (out / "tracks.jsonl").read_text().splitlines()]


def test_everybody_keeps_one_id_and_every_asked_file_is_there(predictor, clip, tmp_path):
    out = tmp_path / "out"
    result = track_video(
        predictor, clip, out, save=("video", "json", "mot", "coco"), progress=False
    )
    assert (result.frames, result.people, result.identities, result.problems) == (30, 30, 1, [])
    said = lines(out)
    assert [line["frame"] for line in said] == list(range(30))
    assert said[7]["seconds"] == pytest.approx(7 / 20) and said[7]["persons"][0]["track_id"] == 1
    centers = [(p["box"][0] + p["box"][2]) / 2 for line in said for p in line["persons"]]
    assert np.corrcoef(centers, range(30))[0, 1] > 0.99
    assert (
        len((out / "tracks.txt").read_text().splitlines())
        == len(json.loads((out / "coco_results.json").read_text()))
        == 30
    )
    with open_video(out / "tracked.mp4") as video:
        assert video.info.size == SIZE and float(video.info.frame_rate) == 20
        painted = list(video)
    assert len(painted) == 30 and not np.allclose(
        painted[3].image, bright(13), atol=60
    )  # a box is on it
    assert sorted(p.name for p in out.iterdir()) == [
        ".humanquery.jsonl",
        "coco_results.json",
        "tracked.mp4",
        "tracks.jsonl",
        "tracks.txt",
    ]


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    predictor, clip, tmp_path, monkeypatch
):
    save = ("video", "json", "mot", "coco")
    track_video(predictor, clip, tmp_path / "whole", save=save, progress=False)
    monkeypatch.setattr(video_module, "STATE_EVERY", 8)
    real, count = TrackBook.update, [0]

    def breaking(book, persons):
        count[0] += 1
        if count[0] == 21:
            raise KeyboardInterrupt
        return real(book, persons)

    monkeypatch.setattr(TrackBook, "update", breaking)
    with pytest.raises(KeyboardInterrupt):
        track_video(predictor, clip, tmp_path / "cut", save=save, progress=False)
    assert [line["frame"] for line in lines(tmp_path / "cut")] == list(range(20))
    with open_video(tmp_path / "cut" / "tracked.mp4") as video:
        assert len(list(video)) == 20
    result = track_video(predictor, clip, tmp_path / "cut", save=save, resume=True, progress=False)
    assert (result.frames, result.people, result.identities) == (30, 30, 1)
    for name in ("tracks.jsonl", "tracks.txt", "coco_results.json"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()
    with open_video(tmp_path / "cut" / "tracked.mp4") as video:
        assert len(list(video)) == 30
    assert not (tmp_path / "cut" / "state.safetensors").exists()


def test_counts_at_a_line_go_on_with_an_interrupted_run(predictor, clip, tmp_path, monkeypatch):
    """The bright column walks from x 10 to 39, its feet on y 40."""
    line, area = parse_line("door=20,60,20,0", 1), parse_zone("15,0,30,0,30,64,15,64", 1)
    save, quiet = ("json",), {"progress": False}
    whole = ZoneCounter([line], [area])
    track_video(predictor, clip, tmp_path / "whole", save=save, counter=whole, **quiet)
    said = json.loads((tmp_path / "whole" / "counts.json").read_text())
    assert (said["lines"][0]["in"], said["lines"][0]["out"]) == (1, 0)
    assert said["zones"][0]["people"] == 1 and said["frames"] == 30
    monkeypatch.setattr(video_module, "STATE_EVERY", 8)
    part = ZoneCounter([line], [area])
    real = part.update

    def breaking(people, seconds):
        if seconds > 1.0:
            raise KeyboardInterrupt
        real(people, seconds)

    part.update = breaking
    out = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        track_video(predictor, clip, out, save=save, counter=part, **quiet)
    assert json.loads((out / "counts.json").read_text())["frames"] == 21
    rest = ZoneCounter([line], [area])
    track_video(predictor, clip, out, save=save, counter=rest, resume=True, **quiet)
    assert json.loads((out / "counts.json").read_text()) == said


def test_another_source_cannot_go_on_with_a_run(predictor, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(video_module, "STATE_EVERY", 5)
    out = tmp_path / "out"
    monkeypatch.setattr(
        video_module._Run, "finish", lambda run: None
    )  # as if it had been killed at the end
    track_video(predictor, clip, out, save=("json",), progress=False)
    with pytest.raises(CheckpointError, match=r"source.name: .*clip.mp4(.|\n)*start anew without"):
        track_video(
            predictor, tmp_path / "other.mp4", out, save=("json",), resume=True, progress=False
        )


def test_what_another_run_may_not_continue_is_told_field_by_field_and_may_be_allowed(
    predictor, clip, tmp_path, monkeypatch
):
    monkeypatch.setattr(video_module, "STATE_EVERY", 5)
    out, quiet = tmp_path / "out", {"save": ("json",), "progress": False}
    track_video(predictor, clip, out, max_frames=20, **quiet)
    assert not (out / "state.safetensors").exists()  # it came to its end
    with monkeypatch.context() as killed:
        killed.setattr(video_module._Run, "finish", lambda run: None)
        track_video(predictor, clip, out, max_frames=20, overwrite=True, **quiet)
    moved = tmp_path / "elsewhere" / clip.name
    moved.parent.mkdir()
    clip.rename(moved)  # the same video in another folder is the same video
    other = Predictor(Bright(), {"score_threshold": 0.5, "name": "other"}, "cpu")
    config = replace(track_config(predictor), patience=3)
    with pytest.raises(CheckpointError) as refused:
        track_video(other, moved, out, config=config, resume=True, **quiet)
    patience = f"config.patience: {track_config(predictor).patience} -> 3"
    changes = ["model.name: '' -> 'other'", patience]
    assert all(f"\n  {change}\n" in str(refused.value) for change in changes)
    assert "source" not in str(refused.value) and "--allow-changes" in str(refused.value)
    allowed = {"resume": True, "allow_changes": True}
    with monkeypatch.context() as killed:
        killed.setattr(video_module._Run, "finish", lambda run: None)
        track_video(other, moved, out, config=config, max_frames=25, **allowed, **quiet)
    with safe_open(out / "state.safetensors", framework="pt") as state:
        assert sorted(json.loads(state.metadata()["run"])["changes"]) == sorted(changes)
    result = track_video(other, moved, out, config=config, resume=True, **quiet)
    assert result.frames == 30 and sorted(result.changes) == sorted(changes)


def test_frames_can_be_followed_one_by_one(predictor, clip):
    with open_video(clip) as video:
        found = [
            (frame.index, people.track_ids.tolist())
            for frame, people in track_frames(predictor, iter(video))
        ]
    assert found == [(t, [1]) for t in range(30)]


def test_births_start_at_the_models_own_threshold(predictor):
    config = track_config(predictor, patience=7)
    assert (config.birth_score, config.keep_score, config.patience) == (0.5, 0.25, 7)


def test_stopping_early_looks_at_no_more(predictor, clip, tmp_path):
    result = track_video(
        predictor, clip, tmp_path / "out", save=("json",), max_frames=7, progress=False
    )
    assert result.frames == len(lines(tmp_path / "out")) == 7


def test_a_painter_that_cannot_write_says_so(predictor, clip, tmp_path, monkeypatch):
    def full(self, image, seconds=None):
        raise VideoError("disk full")

    monkeypatch.setattr(VideoWriter, "write", full)
    with pytest.raises(VideoError, match="disk full"):
        track_video(predictor, clip, tmp_path / "out", progress=False)


def test_a_damaged_video_is_followed_to_its_end_and_the_damage_is_told(predictor, tmp_path):
    broken = damaged_clip(tmp_path / "clip.mkv", {5, 6, 20})
    result = track_video(
        predictor, broken, tmp_path / "out", save=("json", "video"), progress=False
    )
    assert result.frames == len(lines(tmp_path / "out")) == 27
    assert len(result.problems) == 1 and result.problems[0].startswith("3 damaged packets")


def test_a_size_that_changes_in_the_middle_is_followed(predictor, tmp_path):
    for t in range(8):
        cv2.imwrite(
            str(tmp_path / f"{t}.png"),
            bright(10 + t) if t < 4 else cv2.resize(bright(10 + t), (96, 51)),
        )
    result = track_video(
        predictor, tmp_path / "%d.png", tmp_path / "out", save=("json", "video"), progress=False
    )
    assert result.frames == 8 and [line["image_size"] for line in lines(tmp_path / "out")][::7] == [
        [48, 64],
        [51, 96],
    ]
    assert len(result.problems) == 1 and "another size" in result.problems[0]
    with open_video(tmp_path / "out" / "tracked.mp4") as video:
        assert len(list(video)) == 8


def test_a_stream_that_dies_ends_with_a_message_and_whole_results(
    predictor, clip, tmp_path, monkeypatch
):
    monkeypatch.setattr(video_module, "open_video", dying(video_module.open_video, 12))
    with pytest.raises(VideoError, match="lost after 12 frames"):
        track_video(
            predictor, clip, tmp_path / "out", save=("json", "video"), progress=False, batch_size=1
        )
    assert [line["frame"] for line in lines(tmp_path / "out")] == list(range(12))
    with open_video(tmp_path / "out" / "tracked.mp4") as video:
        assert len(list(video)) == 12


def dying(opener, frames):
    """Opens videos that break off."""

    def opened(*arguments, **options):
        reader = opener(*arguments, **options)
        real = type(reader).__next__

        class Dying(type(reader)):
            def __next__(self):
                frame = real(self)
                if frame.index == frames:
                    raise VideoError(f"lost after {frames} frames")
                return frame

        reader.__class__ = Dying
        return reader

    return opened


def test_videos_are_known_by_their_names():
    assert all(is_video(name) for name in ("a.MP4", "x/y.avi", "rtsp://host/1", "/dev/video0"))
    assert not any(is_video(name) for name in ("a.jpg", "folder", "frames/*.png"))


KILLED = """
import time, torch
torch.set_num_threads(1)
from tests.predict import test_track_video as t
from humanquery.predict import Predictor, track_video as video
video.STATE_EVERY = 5
class Slow(t.Bright):
    def predict(self, batch, ask=None):
        time.sleep(0.05)
        return super().predict(batch, ask)
predictor = Predictor(Slow(), {{"score_threshold": 0.5}}, "cpu")
video.track_video(predictor, {clip!r}, {out!r}, progress=False, batch_size=1)
"""


def test_kill_leaves_a_playable_video_and_whole_results_and_the_run_goes_on(
    predictor, clip, tmp_path
):
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", KILLED.format(clip=str(clip), out=str(out))])
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline and (
            not (out / "tracks.jsonl").exists() or len(lines(out)) < 12
        ):
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    done = len(lines(out))
    assert 12 <= done < 30, "it was killed too late or never began"
    result = track_video(predictor, clip, out, resume=True, progress=False)
    assert result.frames == 30 and [line["frame"] for line in lines(out)] == list(range(30))
    with open_video(out / "tracked.mp4") as video:
        assert len(list(video)) == 30


class Late(FakeSystem):
    """Says masks, gender and age when it is asked again, and notes about whom."""

    late = frozenset({"masks", "gender", "age"})

    def __init__(self):
        super().__init__()
        self.asked: list[tuple[list[int], set[str]]] = []

    def look(self, batch, ask=None):
        return LateLook(self, batch.metas[0].image_size)


class LateLook:
    def __init__(self, system, size):
        self.system, self.size = system, size
        self.persons = people(size, ["keypoints"])

    def more(self, rows, outputs):
        self.system.asked.append((rows.tolist(), set(outputs)))
        return people(self.size, ["keypoints", *outputs])[rows]


def test_the_followed_get_masks_in_every_frame_and_are_asked_who_they_are_now_and_then(clip):
    system = Late()
    known = TrackAttributes(RefreshConfig(every=10, unsure_every=10, looks=1))
    with open_video(clip) as video:
        book = TrackBook(TrackConfig(keep_score=0.1))
        found = [p for _, p in track_frames(Predictor(system, {}, "cpu"), video, book, known=known)]
    assert [len(p) for p in found] == [1] * 30  # the other is never sure enough to be followed
    assert all(p.masks.any() and p.gender.tolist() == [pytest.approx(0.9)] for p in found)
    assert all(rows == [0] for rows, _ in system.asked)
    assert [names for _, names in system.asked].count({"masks"}) == 30
    assert [names for _, names in system.asked].count({"gender", "age"}) == 3


def test_what_nobody_wants_is_not_asked_late(clip):
    system = Late()
    with open_video(clip) as video:
        frames = track_frames(
            Predictor(system, {}, "cpu"), video, tasks=["keypoints", "gender"], attributes=False
        )
        assert all(p.gender is None and p.masks is None for _, p in frames)
    assert not system.asked
