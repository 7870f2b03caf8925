"""Boxes of people that somebody else found, by the names of their pictures."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from humanquery.core.boxes import xywh_to_xyxy
from humanquery.core.errors import AnnotationError
from humanquery.core.foreign import Number, items, located, mapping, number, numbers, read_json
from humanquery.core.persons import Persons
from humanquery.data.loading.identity import file_hash

EXPECTED = (
    "a list of {'image_id', 'bbox', 'score'} (COCO results), or a COCO file with 'images' and "
    "'annotations'"
)
IMAGES = "images.json"
"""beside COCO results that `humanquery predict` wrote: the names of their pictures"""


@dataclass(frozen=True, eq=False)
class BoxesFile:
    """A `Finder` that reads what a file says. Pictures go by their file names, without folders."""

    path: Path
    rows: dict[str, list[tuple[tuple[Number, ...], Number]]] = field(default_factory=dict)
    """xywh px and score of the people of each picture, by file name or by image_id"""

    @staticmethod
    def read(path: str | Path) -> "BoxesFile":
        """A list of COCO results, whose `image_id` is a file's name, its stem, or an id that the
        file `images.json` beside it or the stem's digits name; or a COCO annotation file.

        AnnotationError where a box is not finite or the file is something else.
        """
        path = Path(path)
        content = read_json(path, EXPECTED, (dict, list))
        names: dict[Any, str] = {}
        with located(str(path)):
            if isinstance(content, dict):
                records = items(content.get("images"), "images", EXPECTED)
                names = {r["id"]: r["file_name"] for r in records}
                people = items(content.get("annotations"), "annotations", EXPECTED)
            else:
                people = items(content, "content", EXPECTED)
                beside = path.parent / IMAGES
                if beside.is_file():
                    records = read_json(beside, "image records", list)
                    names = {r["id"]: r["file_name"] for r in records}
            rows = defaultdict(list)
            for i, each in enumerate(people):
                person = mapping(each, f"row {i}")
                if person.get("iscrowd") or person.get("category_id", 1) != 1:
                    continue
                where = person.get("image_id")
                box = numbers(person.get("bbox"), f"row {i}: bbox", "x, y, w, h px", count=4)
                score = number(person.get("score", 1.0), f"row {i}: score")
                rows[_key(names.get(where, where))].append((tuple(box), score))
            for name in names.values():
                rows.setdefault(_key(name), [])
        return BoxesFile(path, dict(rows))

    def find(self, picture: np.ndarray, name: str | None, score: float) -> Persons:
        """The people of this picture of at least this score; AnnotationError for a picture that the
        file does not know."""
        known = self._rows_of(name)
        boxes = torch.tensor([box for box, s in known if s >= score]).reshape(-1, 4)
        scores = torch.tensor([s for _, s in known if s >= score]).clamp(0, 1)
        return Persons(
            image_size=picture.shape[:2], boxes=xywh_to_xyxy(boxes.float()), scores=scores.float()
        )

    def identity(self) -> dict[str, Any]:
        return {"name": self.path.name, "weights": file_hash(self.path)}

    def _rows_of(self, name: str | None) -> list:
        if name is None:
            raise AnnotationError(
                f"{self.path}: boxes go by the names of files, and this picture has none; give its "
                "path, or read poses with a detector"
            )
        base = PurePosixPath(Path(name).as_posix()).name
        stem = base.rpartition(".")[0] or base
        tries = [base, stem] + ([str(int(stem))] if stem.isdigit() else [])
        found = next((self.rows[each] for each in tries if each in self.rows), None)
        if found is None:
            some = ", ".join(list(self.rows)[:3]) or "none"
            raise AnnotationError(
                f"{self.path}: no boxes of {base!r}; it knows {len(self.rows)} pictures ({some} "
                "...). Is it a file of another set of pictures?"
            )
        return found


def _key(name: Any) -> str:
    return PurePosixPath(str(name)).name
