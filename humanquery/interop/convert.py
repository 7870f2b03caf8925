"""Label files of one tool as those of another, by way of COCO's records."""

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from humanquery.core.errors import AnnotationError, ConfigError, nearest
from humanquery.core.foreign import read_text
from humanquery.data.readers.coco_target import CocoOptions, is_kept, read_target
from humanquery.data.readers.coco_writer import annotation_of
from humanquery.data.readers.mot import MotSource, write_mot
from humanquery.interop.cvat import read_cvat, write_cvat
from humanquery.interop.label_studio import INTERFACE, TASKS, read_label_studio, write_label_studio
from humanquery.interop.labels import Labels, checked, counted, inside, read_coco, write_coco
from humanquery.interop.results import read_results
from humanquery.interop.yolo import SETTINGS, read_yolo, write_yolo
from humanquery.media.images import read_size
from humanquery.media.output_names import OutputFolder, output_file

KINDS = ("coco", "yolo-pose", "yolo-seg", "yolo", "label-studio", "cvat", "mot")
"""what can be written; `yolo` is boxes alone"""
VERB = "data convert"
_IN_ONE_FILE = {"coco": (".json", write_coco), "cvat": (".xml", write_cvat)}
_YOLO = {"yolo-pose": "pose", "yolo-seg": "seg", "yolo": "box"}
_FILES = {
    **dict.fromkeys(_YOLO, ("labels", SETTINGS)),
    "label-studio": (TASKS, INTERFACE),
    "mot": ("gt", "seqinfo.ini"),
}


@dataclass(frozen=True)
class Converted:
    """What became of a label file."""

    kind: str
    """of what was read"""
    pictures: int
    people: int
    lost: dict[str, int]
    """what the formats could not hold, and how often"""
    out: Path


def kind_of(source: Path) -> str:
    """coco, yolo, label-studio, cvat, mot or results (a folder of `humanquery predict`), by what
    lies there; something else raises AnnotationError."""
    if source.is_dir():
        signs = {
            "mot": source / "gt" / "gt.txt",
            "yolo": source / "images",
            "label-studio": source / TASKS,
            "results": source / "coco_results.json",
        }
        for kind, sign in signs.items():
            if sign.exists():
                return kind
    elif source.suffix.lower() == ".xml":
        return "cvat"
    else:
        begin = read_text(source, "a label file").lstrip()[:1]
        if begin in ("{", "["):
            return "coco" if begin == "{" else "label-studio"
    raise AnnotationError(
        f"{source}: expected a COCO file, a JSON export of Label Studio, a CVAT XML, a YOLO folder "
        "(images, labels), a MOT clip (gt/gt.txt) or a folder of humanquery predict; name it with "
        "--from"
    )


def read_labels(source: Path, kind: str = "", pictures: Path | None = None) -> Labels:
    """The people of a label file or folder; `kind` as `kind_of` gives it (empty: found out)."""
    readers: dict[str, Callable[[], Labels]] = {
        "coco": lambda: read_coco(source, pictures),
        "yolo": lambda: read_yolo(source),
        "label-studio": lambda: read_label_studio(source, pictures),
        "cvat": lambda: read_cvat(source, pictures),
        "mot": lambda: _read_mot(source),
        "results": lambda: read_results(source),
    }
    kind = kind or kind_of(source)
    if kind not in readers:
        raise ConfigError(f"--from {kind}: unknown format.{nearest(kind, readers)}")
    return readers[kind]()


def convert(
    source: Path,
    to: str,
    out: Path,
    *,
    kind: str = "",
    pictures: Path | None = None,
    copy: bool = True,
    overwrite: bool = False,
) -> Converted:
    """Reads `source` and writes it as `to` (one of `KINDS`): a file for coco and cvat, else a new
    or empty folder.

    `pictures` is their folder where the labels do not say it. YOLO folders and MOT clips get
    copies of the pictures, but for `copy=False`. Nothing of the user is written over
    (ConfigError; see `media.output_names`).
    """
    if to not in KINDS:
        raise ConfigError(f"--to {to}: unknown format.{nearest(to, KINDS)}")
    kind = kind or kind_of(source)
    labels = read_labels(source, kind, pictures)
    if to in _IN_ONE_FILE:
        suffix, write = _IN_ONE_FILE[to]
        if out.suffix.lower() != suffix:
            raise ConfigError(f"{out}: expected the name of a {suffix} file for --to {to}")
        out.parent.mkdir(parents=True, exist_ok=True)
        lost = write(labels, output_file(out, VERB, [source], overwrite=overwrite))
    else:
        lost = _write_folder(labels, to, out, source, copy)
    return Converted(
        kind,
        len(labels.images),
        len(labels.annotations),
        dict(counted(labels.lost + lost)),
        out,
    )


def _write_folder(labels: Labels, to: str, out: Path, source: Path, copy: bool) -> Counter[str]:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"{out}: is there already and not empty; labels of an earlier run would mix with these."
            " Name a new folder with --out"
        )
    for record in labels.images:
        inside(record["file_name"], source)  # before anything is written
    if copy and to != "label-studio":
        _check_pictures(labels, to)
    folder = OutputFolder(out, VERB, [source])
    for name in _FILES[to]:
        folder.fixed(name)
    if to in _YOLO:
        lost = write_yolo(labels, out, _YOLO[to])
        names = {record["file_name"]: record["file_name"] for record in labels.images}
    elif to == "mot":
        lost, names = _write_mot(labels, out)
    else:
        return write_label_studio(labels, out)
    for name, place in names.items() if copy else ():
        target = out / ("img1" if to == "mot" else "images") / inside(place, out)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(labels.pictures / name, target)
    return lost


def _check_pictures(labels: Labels, to: str) -> None:
    if labels.pictures is None:
        raise ConfigError(
            f"--to {to} needs the pictures beside the labels, and nobody says where they are; give "
            "their folder with --images, or leave them out with --no-pictures"
        )
    missing = [
        r["file_name"] for r in labels.images if not (labels.pictures / r["file_name"]).is_file()
    ]
    if missing:
        raise AnnotationError(
            f"{labels.pictures}: {len(missing)} of {len(labels.images)} pictures are not there, "
            f"{missing[0]!r} for one; give their folder with --images, or leave them out with "
            "--no-pictures"
        )


def _read_mot(folder: Path) -> Labels:
    clip = MotSource(folder)
    images, annotations = [], []
    for number, (picture, frame) in enumerate(zip(clip.pictures, clip.frames, strict=True), 1):
        height, width = size = read_size(picture)
        images.append({"id": number, "file_name": picture.name, "height": height, "width": width})
        target = frame.target(size)
        for i in range(len(target)):
            person = annotation_of(target, i, number, len(annotations) + 1)
            del person["valid"], person["area"]  # MOT says neither: it was estimated from the box
            annotations.append(person)
    return checked(Labels(images, annotations, None, clip.pictures[0].parent), folder)


def _write_mot(labels: Labels, out: Path) -> tuple[Counter[str], dict[str, str]]:
    """Truth and clip facts; and the names that its pictures get, by their own."""
    lost: Counter[str] = Counter()
    targets = []
    for record, people in labels.by_picture():
        size = (record["height"], record["width"])
        lost["people without an area in their picture"] += sum(not is_kept(p, size) for p in people)
        for person in people:
            if person.get("track_id") is None and not person.get("iscrowd"):
                raise AnnotationError(
                    f"{record['file_name']}: somebody has no track_id; MOT is for tracks. Follow "
                    "the people first (humanquery track --save mot), or choose another format"
                )
            for key in ("segmentation", "num_keypoints", "gender", "age", "face_box"):
                lost[key] += bool(person.get(key))
        options = CocoOptions(fields=("track_ids",))
        targets.append(read_target(record, people, options=options))
    write_mot(out / "gt" / "gt.txt", targets)
    suffixes = {Path(record["file_name"]).suffix for record in labels.images}
    ending = min(suffixes, default=".jpg")
    first = labels.images[0] if labels.images else {"width": 0, "height": 0}
    (out / "seqinfo.ini").write_text(
        f"[Sequence]\nname={out.name}\nimDir=img1\nseqLength={len(labels.images)}\n"
        f"imWidth={first['width']}\nimHeight={first['height']}\nimExt={ending}\n"
    )
    names = {
        record["file_name"]: f"{number:06d}{Path(record['file_name']).suffix}"
        for number, record in enumerate(labels.images, 1)
    }
    return lost, names
