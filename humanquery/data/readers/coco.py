"""COCO person files (keypoints, instances, COCO-UniHuman and dialects) as a source of samples."""

import json
import logging
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from humanquery.core.batch import Meta, Sample
from humanquery.core.coco_files import (
    PERSON,
    is_of,
    load_coco,
    person_categories,
    problem_of,
    short_polygons,
    skeleton_of,
)
from humanquery.core.errors import AnnotationError, ConfigError, nearest
from humanquery.core.fields import FieldSpec
from humanquery.core.foreign import shown
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.core.target import Target
from humanquery.data.readers.coco_target import (
    FIELDS,
    CocoOptions,
    check_extra,
    is_ignored,
    is_kept,
    read_target,
)
from humanquery.media.images import MAX_PIXELS, read_image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CocoSourceConfig:
    """A COCO annotation file and its pictures. The label options are those of `CocoOptions`."""

    annotations: str
    images: str = ""
    """folder of the pictures; empty: the folder `images` beside the annotation file"""
    skeleton: str = ""
    """joints of the samples: a name, or a `.json` file (see `Skeleton.from_file`); empty: those
    that the file's category names, else `coco17`. A file in another order or with more joints is
    converted by name"""
    category: str = PERSON
    """which of several categories is people"""
    name: str = ""
    """of the data set, `Target.source`; empty: the annotation file's name without its ending"""
    fields: tuple[str, ...] | None = None
    """which labels to read (see `coco_target.FIELDS`); None: all that the file holds"""
    extra: tuple[FieldSpec, ...] = ()
    """labels of tasks that are not built in, by annotation key (see `CocoOptions.extra`)"""
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
        self.name = config.name or self.annotations_json.stem
        self.left_out: Counter[str] = Counter()
        """why annotations were left out, or parts of them, and how many"""
        content = load_coco(self.annotations_json)
        categories = person_categories(content, self.annotations_json, config.category)
        self.file_skeleton, self.skeleton = skeletons(
            skeleton_of(content, self.annotations_json, categories),
            config.skeleton,
            self.annotations_json,
        )
        people = self._people_by_image(content, categories)
        self.options = CocoOptions(
            fields=config.fields
            if config.fields is not None
            else _fields_of(content["annotations"]),
            age_labels=config.age_labels,
            suspect_boxes=config.suspect_boxes,
            depicted=config.depicted,
            fragments=config.fragments,
            unlabelled_keypoints=config.unlabelled_keypoints,
            extra=config.extra,
        )
        unknown = set(self.options.fields) - set(FIELDS)
        if unknown:
            raise ConfigError(
                f"fields: {sorted(unknown)} are no labels of a COCO "
                f"file.{nearest(min(unknown), FIELDS)}"
            )
        self._keep(content["images"], people)
        if self.left_out:
            counts = ", ".join(f"{n} x {reason}" for reason, n in self.left_out.most_common())
            log.warning("%s: left out: %s", self.annotations_json, counts)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        record, _ = self._record(i)
        path = self.images / record["file_name"]
        image = read_image(path, max_pixels=self.config.max_pixels)
        size = (record["height"], record["width"])
        if image.shape[:2] != size:  # before masks of that size are painted
            raise AnnotationError(
                f"{path}: the picture is {image.shape[0]} x {image.shape[1]} (height x width), "
                f"{self.annotations_json} says {size[0]} x {size[1]}; its boxes would not fit. "
                f"Was it rescaled?"
            )
        meta = Meta(size, size, image_id=record["id"], path=str(path))
        return Sample(image, meta, self.target(i))

    def target(self, i: int) -> Target:
        """The truth of sample i without reading its picture."""
        record, annotations = self._record(i)
        target = read_target(
            record, annotations, self.file_skeleton, self.options, where=str(self.annotations_json)
        )
        return target.with_skeleton(self.skeleton).replace(source=self.name)

    def _record(self, i: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        start, end = self._ends[i], self._ends[i + 1]
        return tuple(json.loads(self._text[start:end].tobytes()))

    def _people_by_image(
        self, content: dict[str, Any], categories: set[int] | None
    ) -> dict[int, list[dict[str, Any]]]:
        """Sound annotations of persons, by picture."""
        people: dict[int, list] = {record["id"]: [] for record in content["images"]}
        for i, annotation in enumerate(content["annotations"]):
            if not is_of(annotation, categories):
                continue
            problem = self._problem(annotation, people)
            if problem is None:
                people[annotation["image_id"]].append(annotation)
            elif self.config.strict:
                raise AnnotationError(
                    f"{self.annotations_json}: {name_of(annotation, i)}: {problem} "
                    "(strict=False leaves such annotations out)"
                )
            else:
                self.left_out[_kind_of(problem)] += 1
        return people

    def _problem(self, annotation: Any, people: dict[int, list]) -> str | None:
        problem = problem_of(annotation, self.file_skeleton)
        if isinstance(annotation, dict):
            picture = annotation.get("image_id")
            if type(picture) is not int or picture not in people:
                return (
                    f"'image_id' is {shown(picture)}, which is none of the {len(people)} pictures "
                    "under 'images'"
                )
        if problem is None and self.config.extra:
            try:
                check_extra(annotation, self.config.extra)
            except AnnotationError as extra:
                return str(extra)
        return problem

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


def skeletons(given: Skeleton | None, wanted: str, path: str | Path) -> tuple[Skeleton, Skeleton]:
    """(how the joints of the file are read, what its samples have), of the skeleton that the file
    names and the one that is asked for.

    A file that names no joints is taken to have those that are asked for. Joints that are asked
    for and that the file lacks raise ConfigError.
    """
    if given is None:
        only = Skeleton.of(wanted) if wanted else COCO17
        return only, only
    target = Skeleton.of(wanted) if wanted else given
    if target.has_joints_of(given):
        return target, target
    missing = [joint for joint in target.joints if joint not in given.joints]
    if missing:
        raise ConfigError(
            f"{path}: its joints are {given.name} ({', '.join(given.joints[:5])} ...), expected "
            f"those of {target.name}; it has no {', '.join(missing[:5])}. Leave the skeleton out "
            "to read the file's own"
        )
    log.warning("%s: its joints are put into the order of %s by name", path, target.name)
    return given, target


def name_of(annotation: Any, index: int) -> str:
    """'annotation 7' by its id, or by its place in the list from 0 where it has none."""
    given = annotation.get("id") if isinstance(annotation, dict) else None
    return f"annotation {given}" if type(given) is int else f"annotation at place {index} (from 0)"


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
        key
        for annotation in annotations
        if isinstance(annotation, dict)
        for key, value in annotation.items()
        if value is not None
    }
    return tuple(name for name in FIELDS if found.intersection(keys[name]))


def _kind_of(problem: str) -> str:
    """Which key is wrong, so that equal problems are counted together."""
    return f"annotation with a bad '{problem.split(chr(39))[1]}'"


def without_labels(config: CocoSourceConfig, *names: str) -> CocoSourceConfig:
    """The same source that reads everything but these labels (ablations)."""
    kept = config.fields if config.fields is not None else FIELDS
    return replace(config, fields=tuple(name for name in kept if name not in names))
