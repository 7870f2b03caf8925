"""The truth of one picture."""

import dataclasses
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int

from humanquery.core.affine import Size
from humanquery.core.arrays import Tensor, torch
from humanquery.core.rows import Labelled, PersonRows, rows
from humanquery.core.skeleton import Skeleton


@dataclass(frozen=True, eq=False, kw_only=True)
class Target(PersonRows):
    """What people said about the people of one picture, in its pixels (continuous: first pixel's left edge is 0.0).

    A field that is None was never annotated by the *data set*; a row that is not `valid` was not annotated for this
    *person*. Rows with `ignore` are regions (crowds) in which nothing is known: no loss, no false positive.
    """

    boxes: Float[Tensor, "n 4"] = rows("boxes", required=True)
    """xyxy px"""
    ignore: Bool[Tensor, " n"] = rows("row", required=True)
    areas: Float[Tensor, " n"] = rows("area", required=True)
    """px² of the person's segment (COCO `area`); the scale of the OKS"""
    keypoints: Labelled | None = rows("points")
    """value n k 2 px; valid: somebody annotated this person's joints. Which joints count is in `visibility`."""
    visibility: Int[Tensor, "n k"] | None = rows("joint_rows")
    """0 not labelled, 1 labelled but hidden, 2 visible"""
    masks: Labelled | None = rows("masks")
    """value n h w bool"""
    gender: Labelled | None = rows("row")
    """value n, 0.0 male or 1.0 female, as annotators saw it"""
    age: Labelled | None = rows("row")
    """value n 2: years [low, high]; equal where one age is given"""
    face_boxes: Labelled | None = rows("boxes")
    """value n 4 xyxy px"""
    track_ids: Int[Tensor, " n"] | None = rows("row")
    annotation_ids: Int[Tensor, " n"] | None = rows("row")

    @property
    def counted_joints(self) -> Bool[Tensor, "n k"]:
        """Joints that have a place: labelled (visibility > 0) on a person whose joints were annotated."""
        assert self.keypoints is not None and self.visibility is not None
        return (self.visibility > 0) & self.keypoints.valid[:, None]

    def people(self) -> "Target":
        """Without the ignore regions."""
        return self[~self.ignore]


def empty_target(image_size: Size, skeleton: Skeleton | None = None) -> Target:
    """A picture on which nobody stands, and every task knows it."""
    target = Target(
        image_size=image_size,
        boxes=torch.zeros(0, 4),
        ignore=torch.zeros(0, dtype=torch.bool),
        areas=torch.zeros(0),
    )
    labelled = {"masks": (0, *image_size), "gender": (0,), "age": (0, 2)}
    fields = {
        name: Labelled(
            torch.zeros(shape, dtype=torch.bool if name == "masks" else torch.float32), torch.zeros(0, dtype=torch.bool)
        )
        for name, shape in labelled.items()
    }
    if skeleton is not None:
        k = len(skeleton)
        fields["keypoints"] = Labelled(torch.zeros(0, k, 2), torch.zeros(0, dtype=torch.bool))
        fields |= {"visibility": torch.zeros(0, k, dtype=torch.long), "skeleton": skeleton}
    return dataclasses.replace(target, **fields)
