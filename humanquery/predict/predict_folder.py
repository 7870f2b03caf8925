"""Many pictures from the command line: everything that can be done is done, everything that cannot
is named."""

import glob
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from rich.progress import track

from humanquery.blur import blur_faces
from humanquery.core.errors import ConfigError, HumanQueryError, ImageError
from humanquery.core.persons import Persons
from humanquery.cut_out import crop, cut_out, write_rgba
from humanquery.draw import draw
from humanquery.media.images import write_image
from humanquery.media.output_names import OutputFolder, OwnResults
from humanquery.media.pictures import is_url, path_of, read_picture
from humanquery.predict.base import BasePredictor
from humanquery.predict.pipeline import Pipeline
from humanquery.predict.track_files import CsvPictures, JsonList

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")

CSV = "people.csv"
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
    """By its name: a webcam, a file with a suffix of videos, or an address that is not that of a
    picture (streams often have no suffix)."""
    if source.startswith(("rtsp://", "rtmp://", "/dev/video")):
        return True
    is_web = source.startswith(("http://", "https://"))
    suffix = Path(urlsplit(source).path if is_web else source).suffix.lower()
    return suffix in VIDEO_SUFFIXES or (is_web and suffix not in SUFFIXES)


@dataclass
class FolderResult:
    """What became of the pictures."""

    done: int = 0
    people: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    """name and reason"""
    faces_left: int = 0
    """people whose face could not be placed, and so not be blurred"""

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed, 2 nothing done."""
        if not self.failed:
            return 0
        return 1 if self.done else 2


def find_pictures(sources: Iterable[str], *, listing: Iterable[str] | None = None) -> list[str]:
    """Names of files and addresses: those given, the pictures of folders (and of folders in them)
    and of globs, and `-` for a list of names on standard input.

    A named file is taken whatever its suffix. Our own results in folders and globs (see
    `media.output_names`) are no sources. Nothing found raises ConfigError.
    """
    own, found = OwnResults(), []
    for source in sources:
        if source == "-":
            found += [name for line in (listing or sys.stdin) if (name := line.strip())]
            continue
        place = path_of(source)
        if place is not None and place.is_dir():
            inside = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES)
            found += [str(p) for p in inside if p not in own]
        elif place is not None and glob.has_magic(source) and not place.exists():
            matched = sorted(Path(p) for p in glob.glob(str(place), recursive=True))
            found += [str(p) for p in matched if p.is_file() and p not in own]
        else:
            found.append(source)
    unique = list(dict.fromkeys(found))
    if not unique:
        raise ConfigError(
            f"no picture found in {', '.join(sources) or 'nothing'}; give files, folders, globs or "
            f"- for a list (results of humanquery are no sources)"
        )
    return unique


def check_sources(sources: Sequence[str]) -> None:
    """Raises ImageError where not one of the named pictures is there: before a model is loaded."""
    missing = [s for s in sources if (p := path_of(s)) is not None and not p.exists()]
    if missing and len(missing) == len(sources):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ImageError(f"{missing[0]}{more}: no such file; check the path")


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
    overwrite: bool = False,
    allow_urls: bool = False,
    csv: bool = False,
    crops: bool = False,
    cut_outs: bool = False,
    blur: bool = False,
) -> FolderResult:
    """Writes `<name>.json` and, with `pictures`, `<name>.jpg` for every picture, and
    `coco_results.json` with `images.json` (COCO image records that give the ids their names),
    which are whole JSON lists after every picture: memory stays flat, and a killed run leaves
    valid files. With `csv` also `people.csv`, one row per person of all pictures;
    with `crops` and `cut_outs` each person as `crops/<name>_<row>.jpg` and, on transparent ground,
    `cutouts/<name>_<row>.png`. `blur` makes faces unrecognisable in all pictures that are written
    (see `humanquery.blur`).

    Names follow `media.output_names`. A picture that fails is named and passed over.
    """
    names = find_pictures(sources)
    files = [path for name in names if (path := path_of(name)) is not None]
    fixed = ("coco_results.json", "images.json", CSV)
    folder = OutputFolder(out, "predict", files, overwrite=overwrite, reserved=fixed)
    pieces = _Pieces(out, files, overwrite, crops, cut_outs)
    result, stems = FolderResult(), picture_stems(names)
    suffixes = (".json", ".jpg") if pictures else (".json",)
    rows = JsonList(folder.fixed("coco_results.json"))
    records = JsonList(folder.fixed("images.json"))
    table = CsvPictures(folder.fixed(CSV)) if csv else None

    def read(name: str) -> tuple[str, np.ndarray | HumanQueryError]:
        try:
            return name, read_picture(name, allow_urls=allow_urls)
        except HumanQueryError as problem:
            return name, problem

    def look(group: list[tuple[str, np.ndarray]]) -> list[tuple[str, np.ndarray, Persons]]:
        options = {"score": score, "tasks": tasks, "attributes": attributes}
        found = predictor.predict_many([p for _, p in group], batch_size=batch_size, **options)
        return [(name, image, people) for (name, image), people in zip(group, found, strict=True)]

    reading = Pipeline(names, [("read", read)])
    try:
        groups = _groups(
            track(reading, "finding people", total=len(names), transient=True), batch_size, result
        )
        for found in Pipeline(groups, [("predict", look)], capacity=1):
            for name, image, people in found:
                image_id = result.done + 1
                height, width = image.shape[:2]
                base = folder.numbered(stems[name], suffixes)
                if blur:
                    image, unplaced = blur_faces(image, people)
                    result.faces_left += unplaced
                _write(base, name, image, people, pictures)
                pieces.write(base.name, image, people)
                record = {"id": image_id, "file_name": name, "height": height, "width": width}
                records.extend([record])
                rows.extend(people.to_coco(image_id))
                if table is not None:
                    table.rows((name,), people)
                result.done += 1
                result.people += len(people)
    finally:
        reading.close()
        rows.close()
        records.close()
        if table is not None:
            table.close()
    return result


class _Pieces:
    """Crops and cut-outs of people, in folders of their own."""

    def __init__(self, out: Path, files: list, overwrite: bool, crops: bool, cut_outs: bool):
        wanted = {"crops": crops, "cutouts": cut_outs}
        self._folders = {
            name: OutputFolder(out / name, "predict", files, overwrite=overwrite)
            for name, chosen in wanted.items()
            if chosen
        }

    def write(self, stem: str, image: np.ndarray, people: Persons) -> None:
        for i in range(len(people)):
            if "crops" in self._folders:
                base = self._folders["crops"].numbered(f"{stem}_{i}", (".jpg",))
                write_image(base.with_name(base.name + ".jpg"), crop(image, people, i))
            if "cutouts" in self._folders:
                person = cut_out(image, people, i)
                base = self._folders["cutouts"].numbered(f"{stem}_{i}", (".png",))
                write_rgba(base.with_name(base.name + ".png"), person)


def picture_stems(names: Sequence[str]) -> dict[str, str]:
    """What the results of each source are called, without suffix; those that share a stem take
    their folder's name in front. Names may still repeat: `OutputFolder.numbered` numbers them."""
    paths = {name: Path(urlsplit(name).path if is_url(name) else name) for name in names}
    shared = Counter(path.stem for path in paths.values())
    return {
        name: path.stem
        if shared[path.stem] == 1
        else f"{path.parent.name}_{path.stem}_{path.suffix[1:]}".strip("_")
        for name, path in paths.items()
    }


def _groups(
    images: Iterable[tuple[str, Any]], size: int, result: FolderResult
) -> Iterator[list[tuple[str, np.ndarray]]]:
    group: list[tuple[str, np.ndarray]] = []
    for name, image in images:
        if isinstance(image, HumanQueryError):
            result.failed.append((name, str(image)))
            continue
        group.append((name, image))
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _write(base: Path, name: str, image: np.ndarray, people: Persons, pictures: bool) -> None:
    text = json.dumps({"source": name, **people.to_json()})
    base.with_name(base.name + ".json").write_text(text)
    if pictures:
        write_image(base.with_name(base.name + ".jpg"), draw(image, people))
