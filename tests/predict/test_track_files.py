"""Result files of tracked videos: whole after every frame, and able to go on."""

import errno
import json

import pytest
import torch

from humanquery.core.errors import ConfigError, VideoError
from humanquery.predict.track_files import checked_formats, open_files
from tests.tracking.people import walkers

FORMATS = ("json", "mot", "coco", "parquet")


def people(frame: int):
    found = walkers([(100 + frame, 200), (300, 200)][: frame % 3], [0, 1][: frame % 3])
    return found.replace(track_ids=torch.arange(1, len(found) + 1))


def write(files, frames):
    for frame in frames:
        for opened in files.values():
            opened.write(frame, frame / 25, people(frame))


def contents(out):
    lines = [json.loads(line) for line in (out / "tracks.jsonl").read_text().splitlines()]
    return (
        lines,
        (out / "tracks.txt").read_text(),
        json.loads((out / "coco_results.json").read_text()),
    )


def test_every_file_is_whole_after_every_frame_without_being_closed(tmp_path):
    files = open_files(tmp_path, ("json", "mot", "coco"))
    assert contents(tmp_path) == ([], "", [])
    for frame in range(5):
        write(files, [frame])
        lines, text, rows = contents(tmp_path)
        assert [line["frame"] for line in lines] == list(range(frame + 1))
        assert len(rows) == len(text.splitlines()) == sum(k % 3 for k in range(frame + 1))
    assert lines[4]["seconds"] == 0.16 and lines[4]["persons"][0]["track_id"] == 1
    assert (
        rows[0]["image_id"] == 1
        and rows[0]["track_id"] == 1
        and rows[0]["bbox"] == [81, 150, 40, 100]
    )


def test_mot_counts_frames_and_pixels_from_one(tmp_path):
    files = open_files(tmp_path, ("mot",))
    write(files, [1])
    assert (tmp_path / "tracks.txt").read_text() == "2,1,82,151,40,100,0.9,-1,-1,-1\n"


def test_a_file_that_goes_on_at_a_mark_forgets_what_came_after_it(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = open_files(tmp_path / "whole", FORMATS)
    write(whole, range(9))
    cut = open_files(tmp_path / "cut", FORMATS)
    write(cut, range(4))
    marks = {name: opened.mark() for name, opened in cut.items()}
    write(cut, range(4, 7))  # lost with the process
    again = open_files(tmp_path / "cut", FORMATS, marks)
    write(again, range(4, 9))
    for files in (whole, again):
        for opened in files.values():
            opened.close()
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert table(tmp_path / "cut") == table(tmp_path / "whole")


def table(out):
    import pyarrow.parquet

    return [
        row
        for part in sorted((out / "tracks.parquet").iterdir())
        for row in pyarrow.parquet.read_table(part).to_pylist()
    ]


def test_parquet_has_a_row_per_person_and_frame(tmp_path):
    pytest.importorskip("pyarrow")
    files = open_files(tmp_path, ("parquet",))
    write(files, range(6))
    files["parquet"].close()
    rows = table(tmp_path)
    assert [row["frame"] for row in rows] == [1, 2, 2, 4, 5, 5]
    assert rows[0]["track_ids"] == 1 and rows[0]["box"][0] == 81
    assert len(rows[0]["keypoints"]) == 34 and rows[0]["mask_scores"] is None


class FullDisk:
    """A file on a disk with room for so many more bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, content):
        fits = bytes(content[: max(0, self.room - self.file.tell())])
        if content and not fits:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(fits)


@pytest.mark.parametrize("name", ["json", "mot", "coco"])
def test_a_full_disk_is_told_and_leaves_whole_files(tmp_path, name):
    files = open_files(tmp_path, ("json", "mot", "coco"))
    write(files, range(3))
    before = contents(tmp_path)
    opened = files[name]
    opened._file = FullDisk(opened._file, opened.path.stat().st_size + 20)
    with pytest.raises(
        VideoError, match=rf"{opened.path.name}: cannot be written \(the disk is full\); .*--resume"
    ):
        for frame in range(3, 6):
            opened.write(frame, 0.0, people(frame))
    assert contents(tmp_path) == before


def test_an_unknown_format_offers_the_nearest():
    assert checked_formats(["json", "mot", "json"]) == ("json", "mot")
    with pytest.raises(ConfigError, match="--save jsn: unknown format. Did you mean 'json'"):
        checked_formats(["jsn"])
