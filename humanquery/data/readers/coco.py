"""COCO person files (keypoints, instances, COCO-UniHuman and dialects) as a source of samples."""

import json
import logging
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from humanquery.core.batch import Meta, Sample
from humanquery.core.errors import AnnotationError, ConfigError, nearest
from humanquery.core.skeleton import Skeleton
from humanquery.core.target import Target
from humanquery.data.readers.coco_target import (
    FIELDS,
    CocoOptions,
    is_ignored,
    is_kept,
    problem_of,
    read_target,
    short_polygons,
)
from humanquery.media.images import MAX_PIXELS, read_image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CocoSourceConfig:
    """A COCO annotation file and its pictures. The label options are those of `CocoOptions`."""

    annotations: str
    images: str = ""
    """folder of the pictures; empty: the folder `images` beside the annotation file"""
    skeleton: str = "coco17"
    fields: tuple[str, ...] | None = None
    """which labels to read (see `coco_target.FIELDS`); None: all that the file holds"""
    age_labels: Literal["point", "range"] = "point"
    suspect_boxes: Literal["ignore", "person"] = "ignore"
    depicted: Literal["ignore", "person"] = "person"
    fragments: Literal["ignore", "person"] = "person"
    unlabelled_keypoints: Literal["negative", "unknown"] = "negative"
    keep_empty: bool = True
    """keep pictures without a person (ignore regions do not count)"""
    strict: bool = True
    """a malformed annotation raises; otherwise it is left out and counted"""
    max_pixels: int = MAX_PIXELS

    def build(self) -> "CocoSource":
        return CocoSource(self)


class CocoSource:
    """Pictures of a COCO file in the order of its `images`, one `Sample` each.

    Everything about the file is checked when it is opened: JSON that is not COCO, annotations of
    unknown pictures and malformed annotations raise AnnotationError (see
    `CocoSourceConfig.strict`). Pictures and masks are decoded when a sample is read; an
    unreadable picture raises ImageError there.
    """

    def __init__(self, config: CocoSourceConfig):
        self.config = config
        self.annotations_json = Path(config.annotations)
        self.images = (
            Path(config.images) if config.images else self.annotations_json.parent / "images"
        )
        self.skeleton = Skeleton.named(config.skeleton)
        self.left_out: Counter[str] = Counter()
        """why annotations were left out, or parts of them, and how many"""
        content = load_coco(self.annotations_json)
        people = self._people_by_image(content)
        self.options = CocoOptions(
            fields=config.fields
            if config.fields is not None
            else _fields_of(content["annotations"]),
            age_labels=config.age_labels,
            suspect_boxes=config.suspect_boxes,
            depicted=config.depicted,
            fragments=config.fragments,
            unlabelled_keypoints=config.unlabelled_keypoints,
        )
        unknown = set(self.options.fields) - set(FIELDS)
        if unknown:
            raise ConfigError(
                f"fields: {sorted(unknown)} are no labels of a COCO "
                f"file.{nearest(min(unknown), FIELDS)}"
            )
        self._keep(content["images"], people)
        if self.left_out:
            told = ", ".join(f"{count} x {reason}" for reason, count in self.left_out.most_common())
            log.warning("%s: left out: %s", self.annotations_json, told)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        record, _ = self._record(i)
        path = self.images / record["file_name"]
        image = read_image(path, max_pixels=self.config.max_pixels)
        target = self.target(i)
        if image.shape[:2] != target.image_size:
            raise AnnotationError(
                f"{path}: the picture is {image.shape[0]} x {image.shape[1]} (height x width), "
                f"{self.annotations_json} "
                f"says {target.image_size[0]} x {target.image_size[1]}; its boxes would not fit. "
                f"Was it rescaled?"
            )
        size = target.image_size
        return Sample(image, Meta(size, size, image_id=int(record["id"]), path=str(path)), target)

    def target(self, i: int) -> Target:
        """The truth of sample i without reading its picture."""
        record, annotations = self._record(i)
        return read_target(
            record, annotations, self.skeleton, self.options, where=str(self.annotations_json)
        )

    def _record(self, i: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        start, end = self._ends[i], self._ends[i + 1]
        return tuple(json.loads(self._text[start:end].tobytes()))

    def _people_by_image(self, content: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
        """Sound annotations of persons, by picture."""
        person_ids = person_categories(content, self.annotations_json)
        people: dict[int, list] = {record["id"]: [] for record in content["images"]}
        if len(people) != len(content["images"]):
            repeated = Counter(record["id"] for record in content["images"]).most_common(1)[0][0]
            raise AnnotationError(
                f"{self.annotations_json}: two pictures have the id {repeated}; ids must be unique"
            )
        for annotation in content["annotations"]:
            if person_ids is not None and annotation.get("category_id") not in person_ids:
                continue
            problem = self._problem(annotation, people)
            if problem is None:
                people[annotation["image_id"]].append(annotation)
            elif self.config.strict:
                raise AnnotationError(
                    f"{self.annotations_json}: annotation {annotation.get('id')}: {problem} "
                    "(strict=False leaves such annotations out)"
                )
            else:
                self.left_out[_kind_of(problem)] += 1
        return people

    def _problem(self, annotation: dict[str, Any], people: dict[int, list]) -> str | None:
        if annotation.get("image_id") not in people:
            return f"'image_id' is {annotation.get('image_id')}, which is none of the {len(people)} pictures under 'images'"
        return problem_of(annotation, self.skeleton)

    def _keep(self, records: list[dict[str, Any]], people: dict[int, list]) -> None:
        """Holds each picture's part of the file as text: 100 times fewer objects, so workers
        share the memory."""
        parts, self.image_ids = [], []
        for record in records:
            size = (int(record["height"]), int(record["width"]))
            kept = [a for a in people[record["id"]] if is_kept(a, size)]
            outside = len(people[record["id"]]) - len(kept)
            if outside:
                self.left_out[
                    "person smaller than a pixel, without area, boxless or outside its picture"
                ] += outside
            short = sum(map(short_polygons, kept))
            if short:
                self.left_out["mask polygon with fewer than three points"] += short
            if self.config.keep_empty or any(not is_ignored(a, self.options) for a in kept):
                self.image_ids.append(int(record["id"]))
                parts.append(json.dumps([record, kept], separators=(",", ":")).encode())
        self._text = np.frombuffer(b"".join(parts), np.uint8)
        self._ends = np.cumsum([0] + [len(part) for part in parts])


def load_coco(path: str | Path) -> dict[str, Any]:
    """The content of a COCO file; a missing file, no JSON, or JSON that is not COCO raises
    AnnotationError."""
    path = Path(path)
    try:
        content = json.loads(path.read_bytes())
    except OSError as problem:
        raise AnnotationError(
            f"{path}: cannot be read ({problem.strerror}); expected a COCO annotation file"
        ) from problem
    except ValueError as problem:
        raise AnnotationError(
            f"{path}: not JSON ({problem}); expected a COCO annotation file"
        ) from problem
    if not isinstance(content, dict):
        raise AnnotationError(
            f"{path}: JSON, but not COCO: it is a {type(content).__name__}, expected an object "
            f"with the lists 'images' "
            "and 'annotations'"
        )
    missing = [key for key in ("images", "annotations") if not isinstance(content.get(key), list)]
    if missing:
        raise AnnotationError(
            f"{path}: JSON, but not COCO: no list {' and '.join(map(repr, missing))}; found the "
            f"keys "
            f"{', '.join(map(repr, content)) or 'none'}"
        )
    for record in content["images"]:
        lacking = [key for key in ("id", "file_name", "height", "width") if key not in record]
        if lacking:
            raise AnnotationError(
                f"{path}: the picture {record} lacks {', '.join(map(repr, lacking))}"
            )
        if not isinstance(record["id"], int):
            raise AnnotationError(
                f"{path}: a picture has the id {record['id']!r}, expected a whole number"
            )
    return content


def person_categories(content: dict[str, Any], path: Path) -> set[int] | None:
    """Ids of the person category; None: the file has no categories, all annotations are people."""
    categories = content.get("categories") or []
    if len(categories) <= 1:
        return {category["id"] for category in categories} or None
    people = {category["id"] for category in categories if category.get("name") == "person"}
    if not people:
        names = ", ".join(str(category.get("name")) for category in categories[:20])
        raise AnnotationError(f"{path}: no category is called 'person'; found {names}")
    return people


def _fields_of(annotations: list[dict[str, Any]]) -> tuple[str, ...]:
    """Which labels anybody gave at all."""
    keys = {
        "keypoints": ("keypoints",),
        "masks": ("segmentation",),
        "gender": ("gender",),
        "age": ("age", "age_range"),
        "face_boxes": ("face_box",),
        "track_ids": ("track_id",),
    }
    found = {
        key for annotation in annotations for key, value in annotation.items() if value is not None
    }
    return tuple(name for name in FIELDS if found.intersection(keys[name]))


def _kind_of(problem: str) -> str:
    """Which key is wrong, so that equal problems are counted together."""
    return f"annotation with a bad '{problem.split(chr(39))[1]}'"


def without_labels(config: CocoSourceConfig, *names: str) -> CocoSourceConfig:
    """The same source that reads everything but these labels (ablations)."""
    kept = config.fields if config.fields is not None else FIELDS
    return replace(config, fields=tuple(name for name in kept if name not in names))
