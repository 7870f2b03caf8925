"""What a backbone sees: feature maps, and, where it was trained to find people, what it already
says about them."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class DenseBoxes:
    """A dense detector's answer at every cell of strides 8, 16, 32 (level by level, row by row)."""

    logits: Float[Tensor, "b s"]
    """that a person is there"""
    boxes: Float[Tensor, "b s 4"]
    """xyxy px of the padded canvas"""


WINDOW = 7
"""samples along each side of the windows of `PoseMaps.around`"""


def evidence_width(joints: int) -> int:
    """Two windows, a fine and a wide one, and the value of every joint's map in the middle."""
    return 2 * WINDOW**2 + joints


@runtime_checkable
class PoseMaps(Protocol):
    """Joints of whoever fills a box."""

    def in_boxes(
        self, boxes: Float[Tensor, "b q 4"]
    ) -> tuple[Float[Tensor, "b q k 2"], Float[Tensor, "b q k"]]:
        """Joints (px of the padded canvas, as the boxes) and how sure each is (0..1)."""

    def around(
        self, joints: Float[Tensor, "b n k 2"], sides: Float[Tensor, "b n 2"]
    ) -> Float[Tensor, "b n k evidence"]:
        """What the joints' maps say about and around given places (px of the padded canvas) of
        people of given size, as `evidence_width(k)` numbers of 0..1."""

    def of(self, picture: int) -> "PoseMaps":
        """The maps of one picture, as a batch of one."""


@runtime_checkable
class AttributeMaps(Protocol):
    """Apparent gender and age of whoever fills a box."""

    def in_boxes(
        self, boxes: Float[Tensor, "b q 4"]
    ) -> tuple[Float[Tensor, "b q"], Float[Tensor, "b q ages"]]:
        """Logit of label 1 (female), and logits of whole years from 0."""

    def of(self, picture: int) -> "AttributeMaps":
        """What there is of one picture, as a batch of one."""


@dataclass(frozen=True, eq=False)
class Sight:
    """Feature maps of strides 4, 8, 16, 32; the rest is None where the backbone only gives
    features."""

    features: list[Float[Tensor, "b _c _h _w"]]
    boxes: DenseBoxes | None = None
    poses: PoseMaps | None = None
    attributes: AttributeMaps | None = None

    def of(self, picture: int) -> "Sight":
        """What is said about the joints, gender and age of people in one picture, as a batch of
        one."""
        poses, attributes = (
            None if part is None else part.of(picture) for part in (self.poses, self.attributes)
        )
        return Sight([], poses=poses, attributes=attributes)

    def without_features(self) -> "Sight":
        return replace(self, features=[])
