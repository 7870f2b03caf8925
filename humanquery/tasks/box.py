"""Where the person is: the box, refined layer by layer."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from humanquery.core.boxes import cxcywh_to_xyxy, giou
from humanquery.losses.shapes import giou_loss, l1
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
    count_over_ranks,
    zero_init,
)


@dataclass(frozen=True)
class BoxConfig:
    """Weights of the released HQNet."""

    l1: float = 5.0
    giou: float = 2.0
    cost_l1: float = 5.0
    cost_giou: float = 2.0


@dataclass(frozen=True, eq=False)
class BoxPrediction:
    boxes_unit: Float[Tensor, "b q 4"]
    """cxcywh in 0..1 of the valid canvas"""


class BoxTask(Task):
    """box = sigmoid(delta + logit of the reference box)."""

    name = "box"
    config_type = BoxConfig
    loss_names = ("box_l1", "box_giou")
    denoises = True

    def __init__(self, config: BoxConfig, sizes: TaskSizes):
        super().__init__()
        self.config = config
        # starts at delta 0: the first box is the reference itself
        self.heads = copies(
            lambda: zero_init(MLP(sizes.dim, sizes.dim, sizes.dim, 4)), sizes.stages
        )

    def read(
        self,
        stage: int,
        queries: Tensor,
        reference: Reference,
        prepared: Any,
    ) -> BoxPrediction:
        return BoxPrediction((self.heads[stage](queries) + reference.box_logit).float().sigmoid())

    def costs(self, prediction: BoxPrediction, truths: Truths, draws: Draws, tag: str) -> Tensor:
        found, true = prediction.boxes_unit[truths.pictures], truths.boxes_unit[:, None]
        distance = l1(found, true).sum(-1)
        sides = truths.sides.repeat(1, 2)[:, None]
        overlap = giou(cxcywh_to_xyxy(found * sides), truths.target.boxes[:, None])
        return self.config.cost_l1 * distance - self.config.cost_giou * overlap

    def losses(
        self, prediction: BoxPrediction, matches: Matches, truths: Truths, draws: Draws, tag: str
    ) -> dict[str, Tensor]:
        return self._losses(
            prediction, matches, truths, count_over_ranks(len(matches), prediction.boxes_unit)
        )

    def denoising_losses(
        self, prediction: BoxPrediction, matches: Matches, truths: Truths, count: Tensor
    ) -> dict[str, Tensor]:
        return self._losses(prediction, matches, truths, count)

    def _losses(
        self, prediction: BoxPrediction, matches: Matches, truths: Truths, count: Tensor
    ) -> dict[str, Tensor]:
        rows = truths.rows(matches)
        found, true = matches.predicted(prediction.boxes_unit), truths.boxes_unit[rows]
        sides = truths.sides[rows].repeat(1, 2)
        overlap = giou_loss(cxcywh_to_xyxy(found * sides), cxcywh_to_xyxy(true * sides))
        return {
            "box_l1": self.config.l1 * l1(found, true).sum() / count,
            "box_giou": self.config.giou * overlap.sum() / count,
        }

    def tensors(
        self, prediction: BoxPrediction, chosen: Tensor, encoded: Encoded, prepared: Any
    ) -> dict[str, Tensor]:
        sides = encoded.sides().repeat(1, 2)[:, None]
        boxes = cxcywh_to_xyxy(at_queries(prediction.boxes_unit, chosen) * sides)
        return {"boxes": boxes.clamp(min=0).minimum(sides)}


def in_ignore_region(
    boxes: Float[Tensor, "q 4"], regions: Float[Tensor, "r 4"], covered: float = 0.5
) -> Float[Tensor, " q"] | Any:
    """Boxes (xyxy px) of which at least the share `covered` lies in one region."""
    from humanquery.core.boxes import iou

    if not len(regions):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    return (iou(boxes, regions, crowd=True) >= covered).any(1)
