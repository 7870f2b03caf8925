"""People as the library gives them: `Persons` is what models return, trackers extend, evaluators
score, painters draw."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from humanquery.core import masks as mask_codes
from humanquery.core.affine import Size
from humanquery.core.arrays import Tensor, as_house
from humanquery.core.boxes import xyxy_to_xywh
from humanquery.core.errors import ImageError
from humanquery.core.rows import PersonRows, rows
from humanquery.core.skeleton import Skeleton


@dataclass(frozen=True, eq=False, kw_only=True)
class Persons(PersonRows):
    """One row per person, best score first, in pixels of the picture. A field that a model does not
    give is None.

    Fields are tensors, or numpy arrays where PyTorch is not installed (`core.arrays`).
    """

    boxes: Float[Tensor, "n 4"] = rows("boxes", required=True)
    """xyxy px, inside the picture"""
    scores: Float[Tensor, " n"] = rows("row", required=True)
    """0..1"""
    masks: Bool[Tensor, "n h w"] | None = rows("masks")
    mask_scores: Float[Tensor, " n"] | None = rows("row")
    """score times the mean probability inside the mask; ranks masks in COCO mask AP"""
    keypoints: Float[Tensor, "n k 2"] | None = rows("points")
    keypoint_scores: Float[Tensor, "n k"] | None = rows("joint_rows")
    pose_scores: Float[Tensor, " n"] | None = rows("row")
    """score times the mean of the joints' scores, each weighted by itself; ranks poses in COCO
    keypoint AP"""
    gender: Float[Tensor, " n"] | None = rows("row")
    """P(female), apparent, 0..1 (0 male, 1 female in COCO-UniHuman)"""
    age: Float[Tensor, " n"] | None = rows("row")
    """apparent years"""
    face_boxes: Float[Tensor, "n 4"] | None = rows("boxes")
    embeddings: Float[Tensor, "n d"] | None = rows("row")
    """the human query: compare by cosine"""
    track_ids: Int[Tensor, " n"] | None = rows("row")
    path: str | None = None
    """the file that was looked at, if it was one"""

    @staticmethod
    def empty(image_size: Size, skeleton: Skeleton | None = None) -> "Persons":
        return Persons(
            image_size=image_size,
            boxes=as_house(np.zeros((0, 4), np.float32)),
            scores=as_house(np.zeros(0, np.float32)),
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
        if self.gender is not None:
            person["gender"] = {"female": _number(self.gender[i], 4)}
        if self.age is not None:
            person["age"] = _number(self.age[i], 1)
        if self.face_boxes is not None:
            person["face_box"] = _rounded(self.face_boxes[i])
        if self.track_ids is not None:
            person["track_id"] = int(self.track_ids[i])
        return person

    def _joint_scores(self, i: int) -> list[float | None]:
        if self.keypoint_scores is None:
            return [_number(self.scores[i], 4)] * self.keypoints.shape[1]
        return _rounded(self.keypoint_scores[i], 4)

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """COCO results (category 1): xywh boxes, keypoints as pixel indices (0.5 less than ours;
        the third number is 1, as in the official exporter) with the name of their skeleton, RLE
        masks, gender, age."""
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
        if self.mask_scores is not None:
            row["mask_score"] = float(self.mask_scores[i])
        if self.pose_scores is not None:
            row["pose_score"] = float(self.pose_scores[i])
        if self.keypoints is not None:
            row["keypoints"] = [
                v for point in self.keypoints[i] - 0.5 for v in (*_rounded(point), 1)
            ]
            row["skeleton"] = self.skeleton.name
        if self.gender is not None:
            row["gender"] = float(self.gender[i])
        if self.age is not None:
            row["age"] = float(self.age[i])
        return row


def _number(value: Tensor | float, digits: int) -> float | None:
    return round(float(value), digits) if math.isfinite(value) else None


def _rounded(values: Tensor, digits: int = 3) -> list[float | None]:
    return [_number(value, digits) for value in values.tolist()]
