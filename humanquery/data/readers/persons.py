"""People of a COCO, COCO-WholeBody or Halpe file one by one, for models that read one person per
crop."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from humanquery.core.batch import Meta, Sample
from humanquery.core.coco_files import load_coco
from humanquery.core.errors import AnnotationError, ConfigError, nearest
from humanquery.core.skeleton import COCO17
from humanquery.core.target import Target
from humanquery.data.readers.coco_target import Annotation, CocoOptions, read_target
from humanquery.data.readers.whole_body import flat_joints, whole_body_target
from humanquery.media.images import read_image

Layout = Literal["coco", "coco_wholebody", "halpe"]


def checked_layout(name: str) -> Layout:
    """The name, which must be one of `Layout`; another raises ConfigError."""
    if name not in get_args(Layout):
        raise ConfigError(f"layout {name!r}: unknown.{nearest(name, get_args(Layout))}")
    return name


@dataclass(frozen=True)
class PersonsConfig:
    """Everybody in an annotation file with at least `least_joints` labelled joints; crowds are left
    out."""

    annotations: str
    images: str = ""
    """folder of the pictures; empty: the folder `images` beside the annotation file"""
    layout: Layout = "coco_wholebody"
    """which joints the file names; `coco` are the 17 of the body"""
    least_joints: int = 1
    smallest: float = 0.0
    """px; people whose box is less high and less wide are left out"""

    def build(self) -> "PersonSource":
        return PersonSource(self)


class PersonSource:
    """One sample per person: its whole picture, with that person alone as target.

    A file that is not COCO, annotations of unknown pictures and a file in which nobody is left
    raise AnnotationError when it is opened; an unreadable picture raises ImageError when it is
    read.
    """

    def __init__(self, config: PersonsConfig):
        self.config = config
        self.annotations_json = Path(config.annotations)
        beside = self.annotations_json.parent / "images"
        self.images = Path(config.images) if config.images else beside
        content = load_coco(self.annotations_json)
        self._records = {record["id"]: record for record in content["images"]}
        self.people: list[Annotation] = [p for p in content["annotations"] if self._is_kept(p)]
        if not self.people:
            raise AnnotationError(
                f"{self.annotations_json}: nobody of {len(content['annotations'])} annotations has "
                f"{config.least_joints} labelled joints in a box of {config.smallest} px; is the "
                f"layout {config.layout!r} that of the file?"
            )

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, i: int) -> Sample:
        person = self.people[i]
        record = self._records[person["image_id"]]
        path = self.path(record["id"])
        picture = read_image(path)
        size = picture.shape[:2]
        meta = Meta(size, size, image_id=record["id"], path=str(path))
        return Sample(picture, meta, self.target(i))

    def target(self, i: int) -> Target:
        """Person i without its picture."""
        person = self.people[i]
        return self._target(self._records[person["image_id"]], [person])

    def path(self, image_id: int) -> Path:
        """The file of a picture."""
        return self.images / self._records[image_id]["file_name"]

    def row(self, i: int) -> dict[str, Any]:
        """Person i as COCO's evaluators read it: joints as pixel indices with visibility, box,
        area of the whole person."""
        target, person = self.target(i), self.people[i]
        third = torch.where(target.counted_joints[0], target.visibility[0], 0).double()
        joints = torch.cat([target.keypoints.value[0].double() - 0.5, third[:, None]], 1)
        return {
            "image_id": person["image_id"],
            "keypoints": joints.flatten().tolist(),
            "bbox": person["bbox"],
            "area": float(person.get("area") or target.areas[0]),
        }

    def by_picture(self) -> dict[int, list[int]]:
        """Rows of the people of each picture, by its id, in the order of the file."""
        rows: dict[int, list[int]] = defaultdict(list)
        for i, person in enumerate(self.people):
            rows[person["image_id"]].append(i)
        return dict(rows)

    def _is_kept(self, person: Annotation) -> bool:
        if person["image_id"] not in self._records:
            raise AnnotationError(
                f"{self.annotations_json}: annotation {person.get('id')} is of picture "
                f"{person['image_id']!r}, which is not among 'images'"
            )
        width, height = person["bbox"][2:]
        if person.get("iscrowd") or min(width, height) <= 0:
            return False
        flat = person.get("keypoints") or []
        if self.config.layout != "coco":
            flat = flat_joints(person, str(self.annotations_json))
        labelled = sum(v > 0 for v in flat[2::3])
        return labelled >= self.config.least_joints and max(width, height) >= self.config.smallest

    def _target(self, record: dict, people: list[Annotation]) -> Target:
        options = CocoOptions(fields=("keypoints",))
        where = str(self.annotations_json)
        if self.config.layout == "coco":
            return read_target(record, people, COCO17, options, where=where)
        halpe = self.config.layout == "halpe"
        return whole_body_target(record, people, options, halpe=halpe, where=where)
