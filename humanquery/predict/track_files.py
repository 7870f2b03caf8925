"""What a tracked video leaves on disk: files that are valid after every frame, so that nothing
done is lost."""

import csv
import errno
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from humanquery.core.errors import ConfigError, VideoError, nearest
from humanquery.core.fields import FieldSpec
from humanquery.core.persons import Persons
from humanquery.data.readers.mot import mot_lines
from humanquery.interop import alphapose
from humanquery.interop.tables import arrow_schema, flat_columns, flat_rows

FORMATS = (
    "video",
    "mot",
    "json",
    "csv",
    "parquet",
    "coco",
    "alphapose",
    "cmu",
    "open",
    "coco-wholebody",
)
PART = 500
"""frames in a part of a parquet data set"""


@runtime_checkable
class ResultFile(Protocol):
    """Takes the people of successive frames. `mark` is where it stands; a file opened at a mark
    goes on from there."""

    path: Path

    def write(self, frame: int, seconds: float, persons: Persons) -> None: ...

    def mark(self) -> int: ...

    def close(self) -> None: ...


def checked_formats(names: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """The names, each one of `FORMATS`; another raises ConfigError with the nearest."""
    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"--save {name}: unknown format.{nearest(name, FORMATS)}")
    return tuple(dict.fromkeys(names))


class _Text:
    """A text file to which whole frames are appended."""

    def __init__(self, path: Path, mark: int | None = None):
        self.path = path
        self._file = open(path, "r+b" if mark is not None else "wb", buffering=0)  # noqa: SIM115 (closed by close)
        self._file.truncate(mark or 0)
        self._file.seek(mark or 0)

    def append(self, text: str) -> None:
        """All of the text, or none of it: VideoError where it cannot be written."""
        begin, rest = self._file.tell(), text.encode()
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as problem:
            self._file.truncate(begin)
            self._file.seek(begin)
            raise VideoError(_why_unwritten(self.path, problem)) from problem

    def mark(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


class JsonLines(_Text):
    """One JSON object per frame and line: {"frame", "seconds", and what `Persons.to_json`
    gives}."""

    def write(self, frame: int, seconds: float, persons: Persons) -> None:
        said = {"frame": frame, "seconds": round(seconds, 4), **persons.to_json()}
        self.append(json.dumps(said, separators=(",", ":")) + "\n")


class MotText(_Text):
    """MOTChallenge results: frame, id, left, top, width, height, score, -1, -1, -1; frames and
    pixels count from 1."""

    def write(self, frame: int, seconds: float, persons: Persons) -> None:
        self.append("".join(f"{line}\n" for line in mot_lines(persons, frame + 1)))


class JsonList(_Text):
    """A list of JSON objects, whole and readable after every `extend`."""

    begin, end = "[", "\n]\n"

    def __init__(self, path: Path, mark: int | None = None):
        super().__init__(path, mark)
        self._close_list("" if mark else self.begin)

    def _close_list(self, text: str) -> None:
        """Adds `text` and the end of the list in one go; the next text takes the end's place."""
        place = self._file.tell() + len(text.encode())
        try:
            self.append(text + self.end)
        except VideoError:
            if text:
                self.append(self.end)  # there was room for it before
            raise
        self._file.seek(place)

    def extend(self, items: Sequence[dict[str, Any]]) -> None:
        """All of them, or none: VideoError where they cannot be written."""
        if items:
            self._add(",\n".join(json.dumps(item, separators=(",", ":")) for item in items))

    def _add(self, text: str) -> None:
        comma = ",\n" if self._file.tell() > len(self.begin) else "\n"
        self._close_list(comma + text)


class CocoResults(JsonList):
    """A COCO results list with `track_id`; `image_id` is the frame, from 0."""

    def write(self, frame: int, seconds: float, persons: Persons) -> None:
        rows = zip(persons.to_coco(frame), persons.track_ids.tolist(), strict=True)
        self.extend([row | {"track_id": track} for row, track in rows])


class AlphaPoseResults(JsonList):
    """AlphaPose's default list (`interop.alphapose.results`); frames are named `<k>.jpg`."""

    def add(self, image_id: str, persons: Persons) -> None:
        self.extend(alphapose.results(persons, image_id))

    def write(self, frame: int, seconds: float, persons: Persons) -> None:
        self.add(f"{frame}.jpg", persons)


class WholeBodyResults(JsonList):
    """COCO-WholeBody's results; `image_id` is the frame, from 0."""

    def add(self, image_id: int, persons: Persons) -> None:
        self.extend(alphapose.coco_whole_body(persons, image_id))

    def write(self, frame: int, seconds: float, persons: Persons) -> None:
        self.add(frame, persons)


class _ByPicture(JsonList):
    """An object with one entry per picture, whole and readable after every `add`."""

    begin, end = "{", "\n}\n"
    entry: Callable[[Persons], dict[str, Any]]

    def add(self, image_id: str, persons: Persons) -> None:
        entry = json.dumps(type(self).entry(persons), separators=(",", ":"))
        self._add(f"{json.dumps(image_id)}:{entry}")

    def write(self, frame: int, seconds: float, persons: Persons) -> None:
        self.add(f"{frame}.jpg", persons)


class CmuPictures(_ByPicture):
    """AlphaPose's layout "cmu": 18 joints of each person."""

    entry = staticmethod(alphapose.cmu)


class OpenPictures(_ByPicture):
    """AlphaPose's layout "open", as OpenPose's tools read it."""

    entry = staticmethod(alphapose.open_pose)


class CsvTable(_Text):
    """One row per person, for spreadsheets: the columns given first, then those of
    `interop.tables.flat_columns`. The first line names them; it is written with the first
    people."""

    first: tuple[str, ...] = ()

    def __init__(self, path: Path, mark: int | None = None):
        super().__init__(path, mark)
        self._columns: list[str] | None = None
        if mark:
            with open(path, encoding="utf-8", newline="") as before:
                self._columns = next(csv.reader(before))

    def rows(self, known: Sequence[Any], persons: Persons) -> None:
        """Adds all of them, or none: VideoError where they cannot be written, ConfigError where
        these people have other fields than those before them."""
        if not len(persons):
            return
        columns = [*self.first, *flat_columns(persons)]
        lines = [[*known, *row] for row in flat_rows(persons)]
        if self._columns is None:
            self._columns = columns
            lines.insert(0, columns)
        if columns != self._columns:
            other = sorted(set(columns) ^ set(self._columns))
            raise ConfigError(
                f"{self.path}: a table has one set of columns, and these people differ in "
                f"{', '.join(other[:6])}; write each model and choice of tasks to its own file"
            )
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        self.append(text.getvalue())


class CsvRows(CsvTable):
    """The people of a video: frame and seconds in front."""

    first = ("frame", "seconds")

    def write(self, frame: int, seconds: float, persons: Persons) -> None:
        self.rows((frame, round(seconds, 4)), persons)


class CsvPictures(CsvTable):
    """The people of many pictures: the picture's name in front."""

    first = ("file_name",)


class ParquetParts:
    """A folder of parquet files, one row per person and frame; a part is there once its frames
    are complete."""

    def __init__(self, path: Path, mark: int | None = None):
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise ConfigError(
                "--save parquet needs pyarrow: pip install humanquery[parquet]"
            ) from None
        self._arrow = pyarrow
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._parts = mark or 0
        for old in sorted(path.glob("part-*.parquet"))[self._parts :]:
            old.unlink()
        self._extra: dict[str, FieldSpec] = {}
        self._rows: list[dict[str, Any]] = []
        self._frames = 0

    def write(self, frame: int, seconds: float, persons: Persons) -> None:
        self._extra |= {name: one.spec for name, one in persons.extra.items()}
        self._rows += [{"frame": frame, "seconds": seconds, **row} for row in persons.to_rows()]
        self._frames += 1
        if self._frames >= PART:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = {"frame": "int64", "seconds": "float64", **Persons.columns(self._extra)}
            table = self._arrow.Table.from_pylist(self._rows, schema=arrow_schema(columns))
            unfinished = self.path / ".unfinished"
            try:
                self._arrow.parquet.write_table(table, unfinished)
                unfinished.rename(self.path / f"part-{self._parts:05d}.parquet")
            except OSError as problem:
                raise VideoError(_why_unwritten(self.path, problem)) from problem
            self._parts += 1
        self._rows, self._frames = [], 0

    def mark(self) -> int:
        self._flush()
        return self._parts

    def close(self) -> None:
        self._flush()


def _why_unwritten(path: Path, problem: OSError) -> str:
    reason = (
        "the disk is full"
        if problem.errno in (errno.ENOSPC, errno.EDQUOT)
        else problem.strerror or str(problem)
    )
    return (
        f"{path}: cannot be written ({reason}); what was written before is whole. Make room and go "
        f"on with --resume, or "
        "write elsewhere with --out"
    )


FILES = {
    "json": ("tracks.jsonl", JsonLines),
    "mot": ("tracks.txt", MotText),
    "coco": ("coco_results.json", CocoResults),
    "csv": ("tracks.csv", CsvRows),
    "parquet": ("tracks.parquet", ParquetParts),
    "alphapose": ("alphapose-results.json", AlphaPoseResults),
    "cmu": ("alphapose-cmu.json", CmuPictures),
    "open": ("alphapose-open.json", OpenPictures),
    "coco-wholebody": ("coco_wholebody_results.json", WholeBodyResults),
}


def open_files(
    out: Path, formats: tuple[str, ...], marks: dict[str, int] | None = None
) -> dict[str, ResultFile]:
    """Result files by format (video aside) in the folder `out`; with `marks` each goes on where
    it stood then."""
    opened: dict[str, ResultFile] = {}
    for name in formats:
        if name in FILES:
            file, kind = FILES[name]
            opened[name] = kind(out / file, None if marks is None else marks[name])
    return opened
