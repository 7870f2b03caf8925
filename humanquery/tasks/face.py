"""Where the face is: a box relative to the person's box (HQNet, section 5.4, a new task on a frozen
backbone and encoder)."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from humanquery.core.boxes import cxcywh_to_xyxy, giou
from humanquery.losses.shapes import l1
from humanquery.nn.transformer import MLP
from humanquery.tasks.base import (
    Draws,
    Encoded,
    Matches,
    Reference,
    Task,
    TaskSizes,
    Truths,
    at_queries,
    copies,
    mean_over_known,
    zero_init,
    zero_loss,
)

USUAL_PLACE = (0.0, -0.36)
"""of a face's centre from that of its person's box, in sides of the box; where heads start"""
USUAL_SIDES = (0.3, 0.16)
"""of a face, in sides of its person's box"""
LARGEST = 4.0
"""logarithm of how many times larger or smaller than usual a face may be"""


@dataclass(frozen=True)
class FaceConfig:
    """Weights as those of the person's box."""

    l1: float = 5.0
    giou: float = 2.0


@dataclass(frozen=True, eq=False)
class FacePrediction:
    boxes_unit: Float[Tensor, "b q 4"]
    """cxcywh in units of the valid canvas; may reach beyond it"""


class FaceTask(Task):
    """face = the usual place in the reference box, moved and scaled by the head's answer.

    It has no part in matching: who is who is known from boxes and joints, and a face is labelled
    for few.
    """

    name = "face"
    config_type = FaceConfig
    result = "face_boxes"
    loss_names = ("face_l1", "face_giou")

    def __init__(self, config: FaceConfig, sizes: TaskSizes):
        super().__init__()
        self.config = config
        self.heads = copies(
            lambda: zero_init(MLP(sizes.dim, sizes.dim, sizes.dim, 4)), sizes.stages
        )

    def read(
        self, stage: int, queries: Tensor, reference: Reference, prepared: Any
    ) -> FacePrediction:
        moved = self.heads[stage](queries).float()
        person = reference.box_logit.float().sigmoid()
        sides = person[..., 2:]
        centres = person[..., :2] + (moved[..., :2] + moved.new_tensor(USUAL_PLACE)) * sides
        # clamped: a wild answer of an untrained head would be infinite
        scale = moved[..., 2:].clamp(-LARGEST, LARGEST).exp()
        return FacePrediction(
            torch.cat([centres, scale * moved.new_tensor(USUAL_SIDES) * sides], -1)
        )

    def losses(
        self, prediction: FacePrediction, matches: Matches, truths: Truths, draws: Draws, tag: str
    ) -> dict[str, Tensor]:
        true = truths.matched("face_boxes", matches)
        if true is None:
            nothing = zero_loss(prediction.boxes_unit)
            return {"face_l1": nothing, "face_giou": nothing}
        sides = truths.sides[truths.rows(matches)].repeat(1, 2)
        found = cxcywh_to_xyxy(matches.predicted(prediction.boxes_unit)) * sides
        distance = l1(found / sides, true.value / sides).sum(-1)
        overlap = 1 - giou(found, true.value)
        return {
            "face_l1": self.config.l1 * mean_over_known(distance, true.valid),
            "face_giou": self.config.giou * mean_over_known(overlap, true.valid),
        }

    def tensors(
        self, prediction: FacePrediction, chosen: Tensor, encoded: Encoded, prepared: Any
    ) -> dict[str, Tensor]:
        sides = encoded.sides().repeat(1, 2)[:, None]
        boxes = cxcywh_to_xyxy(at_queries(prediction.boxes_unit, chosen)) * sides
        return {"face_boxes": boxes.clamp(min=0).minimum(sides)}
