"""The protocol of experts, backbones that were trained on people before: feature maps, and dense
boxes, joints in boxes and attributes in boxes where the expert has them."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from humanquery.backbones.parts import Backbone


@dataclass(frozen=True, eq=False)
class DenseBoxes:
    """A dense detector's answer at every cell of strides 8, 16, 32 (level by level, row by row)."""

    logits: Float[Tensor, "b s"]
    """of a person, before the sigmoid"""
    boxes: Float[Tensor, "b s 4"]
    """xyxy px of the padded canvas"""


WINDOW = 7
"""samples along each side of the windows of `PoseMaps.around`"""


def joint_features_width(joints: int) -> int:
    """Two windows, a fine and a wide one, and the value of every joint's map in the middle."""
    return 2 * WINDOW**2 + joints


@runtime_checkable
class PoseMaps(Protocol):
    """Joints of the person that fills a box."""

    def in_boxes(
        self, boxes: Float[Tensor, "b q 4"]
    ) -> tuple[Float[Tensor, "b q k 2"], Float[Tensor, "b q k"]]:
        """Joints (px of the padded canvas, as the boxes) and their scores (0..1)."""

    def around(
        self, joints: Float[Tensor, "b n k 2"], sides: Float[Tensor, "b n 2"]
    ) -> Float[Tensor, "b n k f"]:
        """Values of the joints' maps at and around given places (px of the padded canvas) of
        people of given size, as `joint_features_width(k)` numbers of 0..1."""


@runtime_checkable
class AttributeMaps(Protocol):
    """Attributes (apparent gender, age ...) of the person that fills a box."""

    def in_boxes(self, boxes: Float[Tensor, "b q 4"]) -> dict[str, Float[Tensor, "b q *n"]]:
        """Logits by the name of the attribute, in the form of its task's prediction: "gender" of
        label 1 (female), "age" of whole years from 0."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Feature maps of strides 4, 8, 16, 32; the rest is None where an expert does not answer it."""

    features: list[Float[Tensor, "b _c _h _w"]]
    boxes: DenseBoxes | None = None
    poses: PoseMaps | None = None
    attributes: AttributeMaps | None = None

    def without_features(self) -> "Answers":
        """Only what later questions need; the feature maps may be freed."""
        return replace(self, features=[])


class Expert(Backbone):
    """A backbone that was trained on people. `answers_about` names what `answer` gives: "person"
    (dense boxes), "keypoints" (joints in boxes); whatever else is an attribute in boxes."""

    answers_about: tuple[str, ...] = ()

    def answer(
        self, images: Float[Tensor, "b 3 h w"], zoomed: Float[Tensor, "b 3 H W"] | None = None
    ) -> Answers:
        """Maps and answers for normalised pictures whose sides are multiples of 32.

        `zoomed`: the same pictures at a whole multiple of their size (`Batch.zoomed`), for experts
        that look closer at people.
        """
        raise NotImplementedError

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _c _h _w"]]:
        return self.answer(images).features


def answer(
    backbone: Backbone,
    images: Float[Tensor, "b 3 h w"],
    zoomed: Float[Tensor, "b 3 H W"] | None = None,
) -> Answers:
    """`Expert.answer`, or only the maps of a backbone that is none."""
    if isinstance(backbone, Expert):
        return backbone.answer(images, zoomed)
    return Answers(backbone(images))
