"""CrowdHuman's odgt files: one JSON object per line, full, visible and head boxes of people."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from humanquery.core.batch import Meta, Sample
from humanquery.core.boxes import areas, clip
from humanquery.core.errors import AnnotationError
from humanquery.core.foreign import (
    box,
    flag,
    items,
    located,
    mapping,
    parse_json,
    read_text,
    text,
)
from humanquery.core.target import Target
from humanquery.media.images import read_image


@dataclass(frozen=True)
class CrowdHumanConfig:
    annotations: str
    """`annotation_train.odgt`"""
    images: str
    """folder of `ID.jpg`"""
    boxes: Literal["fbox", "vbox", "hbox"] = "fbox"
    """full body (the one that is scored), its visible part, or head"""
    name: str = "crowdhuman"
    """of the data set, `Target.source`"""

    def build(self) -> "CrowdHumanSource":
        return CrowdHumanSource(self)


class CrowdHumanSource:
    """A picture per line. Ignore regions are boxes whose tag is not "person" or that say so; boxes
    are clipped to the picture, as the evaluation does."""

    def __init__(self, config: CrowdHumanConfig):
        self.config = config
        lines = read_text(config.annotations, "an object of JSON per line").splitlines()
        self.pictures: list[tuple[str, torch.Tensor, torch.Tensor]] = []
        for i, line in enumerate(lines, 1):
            if line.strip():
                with located(f"{config.annotations}: line {i}"):
                    self.pictures.append(self._read(line))
        if not self.pictures:
            raise AnnotationError(f"{config.annotations}: holds no picture")

    def _read(self, line: str) -> tuple[str, torch.Tensor, torch.Tensor]:
        content = mapping(parse_json(line, "line", "an object with 'ID' and 'gtboxes'"), "line")
        name = text(content.get("ID"), "ID")
        rows = [mapping(one, "gtbox") for one in items(content.get("gtboxes"), "gtboxes")]
        boxes = [box(row.get(self.config.boxes), self.config.boxes) for row in rows]
        xywh = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        ignored = torch.tensor([_ignored(row, self.config.boxes) for row in rows], dtype=torch.bool)
        return name, torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1), ignored

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        name, boxes, ignored = self.pictures[i]
        path = Path(self.config.images) / f"{name}.jpg"
        image = read_image(path)
        size = image.shape[:2]
        boxes = clip(boxes, size)
        target = Target(
            image_size=size,
            boxes=boxes,
            ignore=ignored,
            areas=areas(boxes),
            source=self.config.name,
        )
        return Sample(image, Meta(size, size, image_id=i, path=str(path)), target)


def _ignored(row: dict[str, Any], kind: str) -> bool:
    attributes = mapping(row.get("head_attr" if kind == "hbox" else "extra") or {}, "extra")
    return row.get("tag") != "person" or flag(attributes.get("ignore"), "ignore")
