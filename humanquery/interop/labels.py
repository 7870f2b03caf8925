"""Labels of people as every label file of another tool is read and written: COCO's own records.

COCO is the hub: a reader of another format makes these records, a writer takes them, and both use
the checks of `core.coco_files`. What a format cannot hold is counted, never dropped in silence.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from humanquery.core.affine import Size
from humanquery.core.coco_files import (
    PERSON_WORDS,
    Annotation,
    is_crowd,
    is_of,
    load_coco,
    person_categories,
    problem_of,
    skeleton_of,
)
from humanquery.core.errors import AnnotationError
from humanquery.core.masks import mask_boxes, polygons_to_bitmap, rle_to_bitmap
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.data.readers.coco import name_of
from humanquery.data.readers.coco_writer import category_of

Polygon = list[float]
"""x1, y1, x2, y2 ... in continuous px"""


@dataclass(frozen=True, eq=False)
class Labels:
    """The people of a data set."""

    images: list[dict[str, Any]]
    """COCO picture records: id, file_name (relative to `pictures`), height, width"""
    annotations: list[Annotation]
    """of people; one with a `score` is a model's guess"""
    skeleton: Skeleton | None = None
    """what the numbers of `keypoints` mean; None: nobody has joints"""
    pictures: Path | None = None
    """folder of the pictures, where it is known"""
    lost: Counter[str] = field(default_factory=Counter)
    """what the file said and these records cannot, and how often"""

    def by_picture(self) -> Iterator[tuple[dict[str, Any], list[Annotation]]]:
        """Every picture with its people, in the order of `images`."""
        people: dict[int, list[Annotation]] = {record["id"]: [] for record in self.images}
        for annotation in self.annotations:
            people[annotation["image_id"]].append(annotation)
        for record in self.images:
            yield record, people[record["id"]]

    def persons(self, lost: Counter[str]) -> Iterator[tuple[dict[str, Any], list[Annotation]]]:
        """As `by_picture`, without crowds, which are counted in `lost`."""
        for record, people in self.by_picture():
            lost["crowd regions"] += sum(map(is_crowd, people))
            yield record, [person for person in people if not is_crowd(person)]


def checked(labels: Labels, where: str | Path) -> Labels:
    """The same labels; an annotation that is malformed or of no picture raises AnnotationError."""
    known = {record["id"] for record in labels.images}
    for i, annotation in enumerate(labels.annotations):
        problem = problem_of(annotation, labels.skeleton)
        if problem is None and annotation.get("image_id") not in known:
            problem = f"'image_id' {annotation.get('image_id')} is none of {len(known)} pictures"
        if problem:
            raise AnnotationError(f"{where}: {name_of(annotation, i)}: {problem}")
    return labels


def read_coco(path: Path, pictures: Path | None = None) -> Labels:
    """The people of a COCO file; other categories are counted as lost. Errors as `load_coco`, and
    AnnotationError for the first malformed annotation."""
    content = load_coco(path)
    categories = person_categories(content, path)
    people = [each for each in content["annotations"] if is_of(each, categories)]
    skeleton = skeleton_of(content, path, categories)
    if skeleton is None and any(isinstance(p, dict) and p.get("keypoints") for p in people):
        skeleton = COCO17
    lost = Counter({"annotations of other categories": len(content["annotations"]) - len(people)})
    beside = path.parent / "images"
    folder = pictures or (beside if beside.is_dir() else None)
    return checked(Labels(content["images"], people, skeleton, folder, lost), path)


def write_coco(labels: Labels, path: Path) -> Counter[str]:
    """Writes the records as a COCO file; nothing is lost."""
    people = [
        {**person, "id": person.get("id", i), "category_id": 1}
        for i, person in enumerate(labels.annotations, 1)
    ]
    content = {
        "info": {"description": "people"},
        "categories": [category_of(labels.skeleton or COCO17)],
        "images": labels.images,
        "annotations": people,
    }
    path.write_text(json.dumps(content, separators=(",", ":")))
    return Counter()


def is_person(name: str, names: Iterable[str]) -> bool:
    """Whether a label of another tool means people: by its name, or as the only label there is."""
    return name.lower() in PERSON_WORDS or set(names) == {name}


def layout_of(joints: Sequence[str]) -> Skeleton | None:
    """The skeleton that joints of these names belong to: COCO's where it has all of them, else one
    with these joints in this order; None without joints."""
    if not joints:
        return None
    named = Skeleton.from_category({"name": "person", "keypoints": list(dict.fromkeys(joints))})
    return COCO17 if set(named.joints) <= set(COCO17.joints) else named


def flat_joints(skeleton: Skeleton, joints: dict[str, tuple]) -> list[float | int]:
    """COCO's x, y, v of each joint of the skeleton; zeros for one that is not among `joints`."""
    return [v for name in skeleton.joints for v in joints.get(name, (0, 0, 0))]


def named_joints(person: Annotation, skeleton: Skeleton | None) -> dict[str, list[float | int]]:
    """x, y (COCO's pixel index) and visibility of every labelled joint, by name."""
    flat = person.get("keypoints") or []
    if skeleton is None or not flat:
        return {}
    triples = [flat[i : i + 3] for i in range(0, len(flat), 3)]
    return {n: t for n, t in zip(skeleton.joints, triples, strict=True) if t[2] > 0}


def bitmap_of(person: Annotation, size: Size) -> Bool[Tensor, "h w"] | None:
    """The mask of an annotation; None where it has none."""
    segment = person.get("segmentation")
    if isinstance(segment, dict):
        return rle_to_bitmap(segment)
    polygons = [polygon for polygon in segment or [] if len(polygon) >= 6]
    return polygons_to_bitmap(polygons, size) if polygons else None


def polygons_of(person: Annotation, lost: Counter[str]) -> list[Polygon]:
    """The outlines of an annotation's mask; a hole of a run-length mask is counted in `lost`."""
    segment = person.get("segmentation")
    if isinstance(segment, dict):
        return outlines(rle_to_bitmap(segment), lost)
    return [list(map(float, polygon)) for polygon in segment or [] if len(polygon) >= 6]


def outlines(mask: Bool[Tensor, "h w"], lost: Counter[str]) -> list[Polygon]:
    """Polygons whose pixels (centre inside) are the mask's, with its holes filled.

    Contours run through pixel centres, so those of the mask at twice its size lie a quarter of a
    pixel inside of its edge: beyond every centre that is in, before every one that is out.
    """
    twice = np.repeat(np.repeat(mask.cpu().numpy().astype(np.uint8), 2, 0), 2, 1)
    rings, levels = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for i, ring in enumerate(rings):
        if levels[0, i, 3] >= 0:  # has a parent: the edge of a hole
            lost["holes of masks"] += 1
        elif len(ring) >= 3:
            polygons.append(((ring.reshape(-1).astype(float) + 0.5) / 2).tolist())
    return polygons


def one_ring(polygons: Sequence[Polygon]) -> Polygon:
    """Several polygons as one, joined by cuts of no width between their nearest corners."""
    ring, *others = [np.asarray(polygon).reshape(-1, 2) for polygon in polygons]
    for other in others:
        far = np.linalg.norm(ring[:, None] - other[None], axis=2)
        a, b = np.unravel_index(far.argmin(), far.shape)
        there = np.concatenate([other[b:], other[: b + 1]])
        ring = np.concatenate([ring[: a + 1], there, ring[a:]])
    return ring.reshape(-1).tolist()


def ring_area(polygon: Sequence[float | int]) -> float:
    """px² inside one polygon that does not cross itself."""
    x, y = np.asarray(polygon, float).reshape(-1, 2).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def box_around(points: Sequence) -> list[float]:
    """COCO's x, y, width, height of points."""
    table = np.asarray(points, float).reshape(-1, 2)
    low, high = table.min(0), table.max(0)
    return [*low.tolist(), *(high - low).tolist()]


def box_of_mask(mask: Bool[Tensor, "h w"]) -> list[float]:
    """COCO's x, y, width, height of a mask."""
    x1, y1, x2, y2 = mask_boxes(mask[None])[0].tolist()
    return [x1, y1, x2 - x1, y2 - y1]


def inside(file_name: str, where: str | Path) -> PurePosixPath:
    """A picture's name below a folder of results; one that leads out of it raises
    AnnotationError."""
    path = PurePosixPath(file_name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise AnnotationError(
            f"{where}: the picture's name {file_name!r} leads out of its folder; expected a "
            "relative path such as train/a.jpg"
        )
    return path


def apparent(person: Annotation) -> dict[str, str | float | int]:
    """What an annotation says besides places, for tools that take words and numbers: gender, age,
    track_id."""
    attributes: dict[str, str | float | int] = {}
    gender = person.get("gender")
    if gender is not None and gender >= 0:
        attributes["gender"] = "female" if gender >= 0.5 else "male"
    for name in ("age", "track_id"):
        if person.get(name) is not None and person[name] >= 0:
            attributes[name] = person[name]
    return attributes


def person_keys(attributes: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `apparent`: keys of an annotation; an unknown gender raises
    AnnotationError."""
    keys: dict[str, Any] = {}
    if attributes.get("gender"):
        word = str(attributes["gender"]).lower()
        if word not in ("male", "female"):
            raise AnnotationError(f"'gender' is {word!r}, expected male or female")
        keys["gender"] = int(word == "female")
    if attributes.get("age") not in (None, ""):
        keys["age"] = _number(attributes["age"], "age")
    if attributes.get("track_id") not in (None, ""):
        keys["track_id"] = int(_number(attributes["track_id"], "track_id"))
    return keys


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as problem:
        raise AnnotationError(f"'{name}' is {value!r}, expected a number") from problem


def counted(lost: Counter[str]) -> Counter[str]:
    """The counts that are not zero."""
    return Counter({what: count for what, count in lost.items() if count})


def torch_mask(pixels: np.ndarray) -> Bool[Tensor, "h w"]:
    """A mask of 0 and 1 as a tensor."""
    return torch.from_numpy(np.ascontiguousarray(pixels, dtype=bool))
