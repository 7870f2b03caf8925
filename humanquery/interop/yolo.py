"""YOLO folders: `images/`, `labels/` with a text file per picture, and `data.yaml`.

A line is a person: class, then centre x, centre y, width, height as shares of the picture; with
joints (`kpt_shape` in data.yaml) x, y, v of each behind it; or, in place of the box, the corners of
an outline. Joints are COCO's pixel indices over the picture's side, as everybody's converters have
them.
"""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from humanquery.core.coco_files import Annotation
from humanquery.core.errors import AnnotationError
from humanquery.core.foreign import integer, items, located, mapping, read_text, shown
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.interop.labels import (
    Labels,
    box_around,
    checked,
    flat_joints,
    inside,
    is_person,
    named_joints,
    one_ring,
    polygons_of,
    ring_area,
)
from humanquery.media.images import read_size

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
SETTINGS = "data.yaml"


def read_yolo(folder: Path) -> Labels:
    """The people of a YOLO folder, of boxes, joints or outlines; subfolders of `images` (train,
    val) become part of the pictures' names.

    A picture without a label file has nobody in it. Lines of other classes are counted as lost;
    a line of another length than its kind raises AnnotationError with file and line.
    """
    pictures = folder / "images"
    if not pictures.is_dir():
        raise AnnotationError(
            f"{folder}: no folder 'images'; expected a YOLO data set with images/, labels/ and "
            f"{SETTINGS}"
        )
    people_class, skeleton, depth = _settings(folder / SETTINGS)
    images, annotations, lost = [], [], Counter()
    for path in sorted(p for p in pictures.rglob("*") if p.suffix.lower() in PICTURES):
        name = path.relative_to(pictures)
        height, width = read_size(path)
        record = {"id": len(images) + 1, "file_name": name.as_posix()}
        images.append(record | {"height": height, "width": width})
        for where, numbers in _lines((folder / "labels" / name).with_suffix(".txt")):
            if people_class is not None and numbers[0] != people_class:
                lost["lines of other classes"] += 1
                continue
            with located(where):
                person = _person(numbers[1:], width, height, skeleton, depth)
            person |= {"id": len(annotations) + 1, "image_id": record["id"], "iscrowd": 0}
            annotations.append(person)
    return checked(Labels(images, annotations, skeleton, pictures, lost), folder)


def _settings(path: Path) -> tuple[int | None, Skeleton | None, int]:
    """Class of people (None: any), joints, and numbers per joint that data.yaml names."""
    if not path.is_file():
        return None, None, 0
    try:
        settings = yaml.safe_load(read_text(path, "a YOLO data.yaml"))
    except yaml.YAMLError as problem:
        raise AnnotationError(f"{path}: not YAML ({problem}); expected 'names'") from problem
    with located(str(path)):
        settings = mapping(settings, SETTINGS)
        names = settings.get("names") or {}
        names = dict(enumerate(names)) if isinstance(names, list) else names
        if not isinstance(names, dict):
            raise AnnotationError(f"'names' is {shown(names)}, expected the names of classes")
        people = [key for key, name in names.items() if is_person(str(name), names.values())]
        if names and len(people) != 1:
            raise AnnotationError(
                f"'names' is {shown(names)}, expected exactly one class that means people"
            )
        return (integer(people[0], "names") if people else None), *_joints(settings)


def _joints(settings: dict[str, Any]) -> tuple[Skeleton | None, int]:
    shape = settings.get("kpt_shape")
    if shape is None:
        return None, 0
    sides = items(shape, "kpt_shape", "[joints, 2 or 3]")
    if len(sides) != 2 or sides[1] not in (2, 3):
        raise AnnotationError(f"'kpt_shape' is {shown(shape)}, expected [joints, 2 or 3]")
    count, names = integer(sides[0], "kpt_shape", low=1), settings.get("kpt_names")
    if isinstance(names, dict):  # by class
        names = next(iter(names.values()), None)
    if names is None and count == len(COCO17):
        return COCO17, sides[1]
    names = names or [f"joint_{i}" for i in range(count)]
    skeleton = Skeleton.from_category({"name": "person", "keypoints": names})
    if len(skeleton) != count:
        raise AnnotationError(f"'kpt_names' has {len(skeleton)} names, kpt_shape says {count}")
    return skeleton, sides[1]


def _lines(path: Path) -> Iterator[tuple[str, list[float]]]:
    if not path.is_file():
        return
    for i, line in enumerate(read_text(path, "a YOLO label file").splitlines(), 1):
        where = f"{path}, line {i}"
        if not line.strip():
            continue
        try:
            numbers = [float(cell) for cell in line.split()]
        except ValueError as problem:
            raise AnnotationError(
                f"{where}: {line[:60]!r} holds something else than numbers"
            ) from problem
        if not all(map(math.isfinite, numbers)):
            raise AnnotationError(f"{where}: {line[:60]!r} holds NaN or infinity")
        yield where, numbers


def _person(
    numbers: list[float], width: int, height: int, skeleton: Skeleton | None, depth: int
) -> Annotation:
    joints = 0 if skeleton is None else depth * len(skeleton)
    if len(numbers) in (4, 4 + joints):
        x, y, w, h = numbers[:4]
        person: Annotation = {
            "bbox": [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
        }
        if len(numbers) > 4:
            person |= _with_joints(numbers[4:], width, height, skeleton, depth)
        return person
    if joints or len(numbers) < 6 or len(numbers) % 2:
        expected = (
            f"4 (a box) or {4 + joints} (with kpt_shape)"
            if joints
            else (
                "4 (a box) or an even count of at least 6 (an outline; joints need kpt_shape in "
                f"{SETTINGS})"
            )
        )
        raise AnnotationError(f"{len(numbers)} numbers behind the class, expected {expected}")
    ring = [v * (height if i % 2 else width) for i, v in enumerate(numbers)]
    return {"bbox": box_around(ring), "segmentation": [ring], "area": ring_area(ring)}


def _with_joints(
    numbers: list[float], width: int, height: int, skeleton: Skeleton, depth: int
) -> Annotation:
    joints = {}
    for k, name in enumerate(skeleton.joints):
        x, y, *seen = numbers[depth * k : depth * (k + 1)]
        visible = int(seen[0]) if seen else 2 * int((x, y) != (0, 0))
        if visible:
            joints[name] = (x * width, y * height, visible)
    return {"keypoints": flat_joints(skeleton, joints), "num_keypoints": len(joints)}


def write_yolo(labels: Labels, folder: Path, kind: str) -> Counter[str]:
    """Writes `labels/` and `data.yaml` for `kind` "pose", "seg" or "box", and gives what the
    format could not hold. People without a mask have no line where `kind` is seg, since one would
    teach that nobody is there with their shape.

    A picture's name that leads out of the folder raises AnnotationError.
    """
    lost: Counter[str] = Counter()
    skeleton = labels.skeleton or COCO17
    for record, people in labels.persons(lost):
        lines = [_line(p, record, skeleton, kind, lost) for p in people]
        path = folder / "labels" / inside(record["file_name"], folder).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"0 {' '.join(line)}\n" for line in lines if line))
    # without `path` the places are meant from this file on
    settings: dict[str, Any] = {"train": "images", "val": "images"}
    settings["names"] = {0: "person"}
    if kind == "pose":
        settings |= {"kpt_shape": [len(skeleton), 3], "flip_idx": list(skeleton.mirror_order)}
        settings["kpt_names"] = {0: list(skeleton.joints)}
    (folder / SETTINGS).write_text(yaml.safe_dump(settings, sort_keys=False))
    return lost


def _line(
    person: Annotation, record: dict[str, Any], skeleton: Skeleton, kind: str, lost: Counter[str]
) -> list[str]:
    """The numbers behind the class; empty where this person has no line."""
    width, height = record["width"], record["height"]
    for key in ("gender", "age", "track_id", "face_box", "score"):
        lost[key] += person.get(key) is not None
    if kind == "seg":
        polygons = polygons_of(person, lost)
        if not polygons:
            lost["people without a mask"] += 1
            return []
        lost["joints of people"] += bool(person.get("num_keypoints"))
        ring = one_ring(polygons)
        return [_share(v, height if i % 2 else width) for i, v in enumerate(ring)]
    lost["masks"] += bool(person.get("segmentation"))
    x, y, w, h = person["bbox"]
    box = [_share(x + w / 2, width), _share(y + h / 2, height), _share(w, width)]
    box.append(_share(h, height))
    if kind == "box":
        lost["joints of people"] += bool(person.get("num_keypoints"))
        return box
    joints = named_joints(person, skeleton)
    for name in skeleton.joints:
        x, y, seen = joints.get(name, (0, 0, 0))
        box += [_share(x, width), _share(y, height), str(int(seen))]
    return box


def _share(value: float | int, side: int) -> str:
    # 7 digits: a thousandth of a pixel on a side of ten thousand
    return f"{value / side:.7f}".rstrip("0").rstrip(".") or "0"
