"""Many pictures from the command line: everything that can be done is done, everything that cannot
is named."""

import glob
import json
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from humanquery.core.errors import ConfigError, HumanQueryError
from humanquery.core.persons import Persons
from humanquery.draw import draw
from humanquery.media.images import read_image, write_image
from humanquery.predict.base import BasePredictor

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")

VIDEO_SUFFIXES = (
    ".mp4",
    ".mov",
    ".avi",
    ".mkv",
    ".webm",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".ts",
    ".wmv",
    ".flv",
    ".3gp",
)


def is_video(source: str) -> bool:
    """By its name: a stream, a webcam, or a file with a suffix of videos."""
    named = source.startswith(("rtsp://", "http://", "https://", "/dev/video"))
    return named or Path(source).suffix.lower() in VIDEO_SUFFIXES


@dataclass
class FolderResult:
    """What became of the pictures."""

    done: int = 0
    people: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    """name and reason"""

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed, 2 nothing done."""
        if not self.failed:
            return 0
        return 1 if self.done else 2


def find_pictures(sources: Iterable[str], *, listing: Iterable[str] | None = None) -> list[Path]:
    """Files, the pictures of folders (and of folders in them), globs, and `-` for a list of names
    on standard input.

    A named file is taken whatever its suffix. Nothing found raises ConfigError.
    """
    found: list[Path] = []
    for source in sources:
        if source == "-":
            names = [line.strip() for line in (listing or sys.stdin)]
            found += [Path(name) for name in names if name]
        elif os.path.isdir(source):
            found += sorted(p for p in Path(source).rglob("*") if p.suffix.lower() in SUFFIXES)
        elif glob.has_magic(source) and not os.path.exists(source):
            found += sorted(Path(p) for p in glob.glob(source, recursive=True) if os.path.isfile(p))
        else:
            found.append(Path(source))
    unique = list(dict.fromkeys(found))
    if not unique:
        raise ConfigError(
            f"no picture found in {', '.join(sources) or 'nothing'}; give files, folders, globs or "
            f"- for a list"
        )
    return unique


def predict_sources(
    predictor: BasePredictor,
    sources: Iterable[str],
    out: Path,
    *,
    score: float | None = None,
    tasks: Iterable[str] | None = None,
    attributes: bool = True,
    batch_size: int = 4,
    pictures: bool = True,
) -> FolderResult:
    """Writes `<name>.json` and, with `pictures`, `<name>.jpg` for every picture at once, and at the
    end `coco_results.json` with `images.json` (COCO image records that give the ids their names). A
    picture that fails is named and passed over."""
    paths = find_pictures(sources)
    out.mkdir(parents=True, exist_ok=True)
    names = output_names(paths)
    result = FolderResult()
    rows: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    try:
        for group in _groups(
            track(_read_ahead(paths), "looking", total=len(paths), transient=True),
            batch_size,
            result,
        ):
            found = predictor.predict_many(
                [image for _, image in group],
                score=score,
                tasks=tasks,
                attributes=attributes,
                batch_size=batch_size,
            )
            for (path, image), people in zip(group, found, strict=True):
                image_id = len(records) + 1
                records.append(
                    {
                        "id": image_id,
                        "file_name": str(path),
                        "height": image.shape[0],
                        "width": image.shape[1],
                    }
                )
                rows += people.to_coco(image_id)
                _write(out / names[path], path, image, people, pictures)
                result.done += 1
                result.people += len(people)
    finally:  # also on Ctrl-C: what is known is written
        (out / "coco_results.json").write_text(json.dumps(rows))
        (out / "images.json").write_text(json.dumps(records, indent=1))
    return result


def output_names(paths: list[Path]) -> dict[Path, str]:
    """A name without suffix for each picture; those that share a stem take their folders' names in
    front, then a number."""
    stems: dict[str, list[Path]] = {}
    for path in paths:
        stems.setdefault(path.stem, []).append(path)
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        name = (
            path.stem
            if len(stems[path.stem]) == 1
            else f"{path.parent.name}_{path.stem}_{path.suffix[1:]}".strip("_")
        )
        unique, count = name, 2
        while unique in taken:
            unique, count = f"{name}_{count}", count + 1
        taken.add(unique)
        names[path] = unique
    return names


def _read_ahead(paths: list[Path]) -> Iterator[tuple[Path, np.ndarray | HumanQueryError]]:
    """Decodes the next pictures in a thread while the network is busy; a few at a time, so that
    memory stays small."""
    ahead = 8
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(_try_read, path) for path in paths[:ahead]]
        for i, path in enumerate(paths):
            image = waiting.pop(0).result()
            if i + ahead < len(paths):
                waiting.append(pool.submit(_try_read, paths[i + ahead]))
            yield path, image


def _try_read(path: Path) -> np.ndarray | HumanQueryError:
    try:
        return read_image(path)
    except HumanQueryError as problem:
        return problem


def _groups(
    images: Iterable, size: int, result: FolderResult
) -> Iterator[list[tuple[Path, np.ndarray]]]:
    group: list[tuple[Path, np.ndarray]] = []
    for path, image in images:
        if isinstance(image, HumanQueryError):
            result.failed.append((str(path), str(image)))
            continue
        group.append((path, image))
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _write(base: Path, path: Path, image: np.ndarray, people: Persons, pictures: bool) -> None:
    said = {"source": str(path), **people.to_json()}
    base.with_name(base.name + ".json").write_text(json.dumps(said))
    if pictures:
        write_image(base.with_name(base.name + ".jpg"), draw(image, people))
