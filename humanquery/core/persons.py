"""People as the library gives them: `Persons` is what models return, trackers extend, evaluators
score, painters draw."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humanquery.core import masks as mask_codes
from humanquery.core.affine import Size
from humanquery.core.boxes import xyxy_to_xywh
from humanquery.core.errors import ImageError
from humanquery.core.rows import PersonRows, rows
from humanquery.core.skeleton import Skeleton

ROWS_VERSION = 1
"""of the columns of `Persons.to_rows`; a change that readers notice makes it larger"""


@dataclass(frozen=True, eq=False, kw_only=True)
class Persons(PersonRows):
    """One row per person, best score first, in pixels of the picture. A field that a model does not
    give is None. What each field is in files, drawings and comparisons stands in its declaration
    (`core.fields.FieldSpec`)."""

    boxes: Float[Tensor, "n 4"] = rows("boxes", required=True, span="canvas")
    """xyxy px, inside the picture"""
    scores: Float[Tensor, " n"] = rows("row", required=True, span=1)
    """0..1"""
    masks: Bool[Tensor, "n h w"] | None = rows("masks")
    mask_scores: Float[Tensor, " n"] | None = rows(
        "row", coco="mask_score", column="float32", span=1
    )
    """score times the mean probability inside the mask; ranks masks in COCO mask AP"""
    keypoints: Float[Tensor, "n k 2"] | None = rows("points", span="canvas")
    keypoint_scores: Float[Tensor, "n k"] | None = rows("joint_rows", span=1, part_of="keypoints")
    pose_scores: Float[Tensor, " n"] | None = rows(
        "row", coco="pose_score", column="float32", span=1
    )
    """score times the mean of the joints' scores, each weighted by itself; ranks poses in COCO
    keypoint AP"""
    gender: Float[Tensor, " n"] | None = rows(
        "row",
        json="gender.female",
        coco="gender",
        digits=4,
        column="float32",
        span=1,
        tolerance=1e-3,  # read from a view whose place a graph works out: a hundredth of a pixel
        attribute=True,  # there moves all of its pixels
        label="man|woman",
    )
    """P(female), apparent, 0..1 (0 male, 1 female in COCO-UniHuman)"""
    age: Float[Tensor, " n"] | None = rows(
        "row",
        json="age",
        coco="age",
        digits=1,
        column="float32",
        tolerance=1e-3,  # as gender
        attribute=True,
        label="{:.0f}",
    )
    """apparent years"""
    face_boxes: Float[Tensor, "n 4"] | None = rows(
        "boxes", json="face_box", column="list<float32>", span="canvas"
    )
    embeddings: Float[Tensor, "n d"] | None = rows("row", column="list<float32>")
    """the human query: compare by cosine"""
    track_ids: Int[Tensor, " n"] | None = rows("row", json="track_id", column="int64")
    path: str | None = None
    """the file that was looked at, if it was one"""

    @staticmethod
    def empty(image_size: Size, skeleton: Skeleton | None = None) -> "Persons":
        """A picture with nobody in it."""
        return Persons(
            image_size=image_size,
            boxes=torch.zeros(0, 4),
            scores=torch.zeros(0),
            skeleton=skeleton,
        )

    def above(self, score: float) -> "Persons":
        """Those with at least this score."""
        return self[self.scores >= score]

    def draw(self, image=None, **style):
        """The picture with these people painted on, h×w×3 uint8 RGB; see `humanquery.draw.draw`.

        `image` is an RGB array or a path; None takes the file that was looked at, and raises
        ImageError where it was none.
        """
        from humanquery.draw import draw

        if image is None and self.path is None:
            raise ImageError(
                "these people do not come from a file; pass the picture: people.draw(image)"
            )
        return draw(self.path if image is None else image, self, **style)

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows: the picture that was looked at with these people painted on; None
        (plain text) where it was no file or the file is gone."""
        import io

        from PIL import Image

        try:
            picture = self.draw()
        except ImageError:
            return None
        shown = io.BytesIO()
        Image.fromarray(picture).save(shown, "PNG")
        return shown.getvalue()

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists: {"image_size": [h, w], "skeleton": {"name", "joints"} or null,
        "persons": [...]}.

        Boxes are xyxy px; masks COCO RLE; keypoints [[x, y, score], ...] in continuous px (centre
        of the first pixel 0.5). A number that is not finite becomes null, which JSON can hold.
        """
        people = self.to("cpu")  # one transfer per field instead of one per number
        masks = people._rles()
        return {
            "image_size": [int(side) for side in self.image_size],
            "skeleton": {"name": self.skeleton.name, "joints": list(self.skeleton.joints)}
            if self.skeleton
            else None,
            "persons": [people._person_json(i, masks) for i in range(len(self))],
        }

    def _rles(self) -> list[dict[str, Any]] | None:
        return None if self.masks is None else mask_codes.bitmaps_to_rles(self.masks)

    def _person_json(self, i: int, masks: list[dict[str, Any]] | None) -> dict[str, Any]:
        person: dict[str, Any] = {
            "box": _rounded(self.boxes[i]),
            "score": _number(self.scores[i], 5),
        }
        if self.keypoints is not None:
            person["keypoints"] = [
                [*_rounded(p), s]
                for p, s in zip(self.keypoints[i], self._joint_scores(i), strict=True)
            ]
        if masks is not None:
            person["mask"] = masks[i]
        for name, spec in self.all_specs().items():
            values = self.get(name)
            if spec.json and values is not None:
                _nest(person, spec.json, _plain(values[i], spec.digits))
        return person

    def _joint_scores(self, i: int) -> list[float | None]:
        if self.keypoint_scores is None:
            return [_number(self.scores[i], 4)] * self.keypoints.shape[1]
        return _rounded(self.keypoint_scores[i], 4)

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """COCO results (category 1): xywh boxes, keypoints as pixel indices (0.5 less than ours;
        the third number is 1, as in the official exporter) with the name of their skeleton, RLE
        masks, and every field whose declaration has a COCO key (gender, age ...)."""
        people = self.to("cpu")
        masks = people._rles()
        return [people._person_coco(i, image_id, masks) for i in range(len(self))]

    def _person_coco(
        self, i: int, image_id: int, masks: list[dict[str, Any]] | None
    ) -> dict[str, Any]:
        row: dict[str, Any] = {"image_id": int(image_id), "category_id": 1}
        row |= {"bbox": _rounded(xyxy_to_xywh(self.boxes[i])), "score": float(self.scores[i])}
        if masks is not None:
            row["segmentation"] = masks[i]
        if self.keypoints is not None:
            row["keypoints"] = [
                v for point in self.keypoints[i] - 0.5 for v in (*_rounded(point), 1)
            ]
            row["skeleton"] = self.skeleton.name
        for name, spec in self.all_specs().items():
            values = self.get(name)
            if spec.coco and values is not None:
                row[spec.coco] = values[i].tolist()
        return row

    @staticmethod
    def columns(extra: Mapping[str, Any] | None = None) -> dict[str, str]:
        """Name and type of every column of `to_rows`, in order: the same for every picture and
        model, but for the `extra` fields of one (by name; `FieldSpec`s).

        Types are Arrow's; `list<...>` has one entry per number.
        """
        fixed = {
            "image_height": "int32",
            "image_width": "int32",
            "person": "int32",
            "box": "list<float32>",
            "score": "float32",
            "mask": "string",
            "skeleton": "string",
            "keypoints": "list<float32>",
            "keypoint_scores": "list<float32>",
        }
        for name, spec in {**Persons.specs(), **(extra or {})}.items():
            if spec.column:
                fixed[name] = spec.column
        return fixed

    def to_rows(self) -> list[dict[str, Any]]:
        """One mapping per person with the keys of `columns` (version `ROWS_VERSION`), for Arrow,
        parquet and data frames; None where a field is not given.

        `box` is xyxy px, `mask` the counts of its COCO RLE, `keypoints` x, y, x, y ... in
        continuous px, `person` the row.
        """
        people = self.to("cpu")
        masks = people._rles()
        specs = {name: extra.spec for name, extra in self.extra.items()}
        height, width = (int(side) for side in self.image_size)
        known = {
            "image_height": height,
            "image_width": width,
            "skeleton": self.skeleton.name
            if self.skeleton and self.keypoints is not None
            else None,
        }
        return [
            {name: None for name in self.columns(specs)} | known | people._row(i, masks)
            for i in range(len(self))
        ]

    def _row(self, i: int, masks: list[dict[str, Any]] | None) -> dict[str, Any]:
        row: dict[str, Any] = {
            "person": i,
            "box": self.boxes[i].tolist(),
            "score": float(self.scores[i]),
        }
        if masks is not None:
            row["mask"] = masks[i]["counts"]
        if self.keypoints is not None:
            row["keypoints"] = self.keypoints[i].flatten().tolist()
        if self.keypoint_scores is not None:
            row["keypoint_scores"] = self.keypoint_scores[i].tolist()
        for name, spec in self.all_specs().items():
            values = self.get(name)
            if spec.column and values is not None:
                row[name] = values[i].tolist()
        return row

    def to_arrow(self, **constants: str) -> Any:
        """These rows as a `pyarrow.Table`; see `humanquery.interop.tables.to_arrow`."""
        from humanquery.interop.tables import to_arrow

        return to_arrow(self, **constants)

    def to_pandas(self, **constants: Any) -> Any:
        """These rows as a `pandas.DataFrame`; see `humanquery.interop.tables.to_pandas`."""
        from humanquery.interop.tables import to_pandas

        return to_pandas(self, **constants)


def _nest(person: dict[str, Any], key: str, value: Any) -> None:
    """Sets `a.b` as {"a": {"b": value}}."""
    *outer, last = key.split(".")
    for name in outer:
        person = person.setdefault(name, {})
    person[last] = value


def _plain(value: Tensor, digits: int) -> Any:
    """A number, or a list of them, as JSON can hold it; whole numbers stay whole."""
    if value.ndim:
        return _rounded(value, digits)
    return _number(value, digits) if value.is_floating_point() else int(value)


def _number(value: Tensor | float, digits: int) -> float | None:
    return round(float(value), digits) if math.isfinite(value) else None


def _rounded(values: Tensor, digits: int = 3) -> list[float | None]:
    return [_number(value, digits) for value in values.tolist()]
