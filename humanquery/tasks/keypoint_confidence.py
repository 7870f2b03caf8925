"""Does the person show any labelled joint (PETR's person confidence for pose)."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from humanquery.losses.scores import focal, focal_cost
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
    zero_loss,
)


@dataclass(frozen=True)
class KeypointConfidenceConfig:
    """Weights of the released HQNet."""

    loss: float = 1.0
    cost: float = 1.0


@dataclass(frozen=True, eq=False)
class KeypointConfidencePrediction:
    logit: Float[Tensor, "b q"]


class KeypointConfidenceTask(Task):
    """Positive: matched people with a labelled joint. Matched people annotated without any are
    background; people whose joints nobody annotated, and pictures of data sets without joints, take
    no part."""

    name = "keypoint_confidence"
    config_type = KeypointConfidenceConfig
    loss_names = ("keypoint_class",)

    def __init__(self, config: KeypointConfidenceConfig, sizes: TaskSizes):
        super().__init__()
        self.config = config
        self.heads = copies(lambda: nn.Linear(sizes.dim, 1), sizes.stages)

    def read(
        self,
        stage: int,
        queries: Tensor,
        reference: Reference,
        prepared: Any,
    ) -> KeypointConfidencePrediction:
        return KeypointConfidencePrediction(self.heads[stage](queries).squeeze(-1))

    def costs(
        self, prediction: KeypointConfidencePrediction, truths: Truths, draws: Draws, tag: str
    ) -> Tensor | None:
        if truths.target.keypoints is None:
            return None
        cost = self.config.cost * focal_cost(prediction.logit)[truths.pictures]
        return torch.where(truths.target.counted_joints.any(1)[:, None], cost, 0.0)

    def losses(
        self,
        prediction: KeypointConfidencePrediction,
        matches: Matches,
        truths: Truths,
        draws: Draws,
        tag: str,
    ) -> dict[str, Tensor]:
        logit = prediction.logit
        if truths.target.keypoints is None:
            return {"keypoint_class": zero_loss(logit) / count_over_ranks(0, logit)}
        rows = truths.rows(matches)
        shows = truths.target.counted_joints.any(1)[rows]
        positive = torch.zeros_like(logit, dtype=torch.bool)
        positive[matches.pictures, matches.queries] = shows
        counts = truths.annotated["keypoints"][:, None].repeat(1, logit.shape[1])
        counts[matches.pictures, matches.queries] = truths.target.keypoints.valid[rows]
        if matches.ignored is not None:
            counts &= ~matches.ignored
        loss = torch.where(counts, focal(logit, positive), 0.0)
        return {
            "keypoint_class": self.config.loss * loss.sum() / count_over_ranks(shows.sum(), logit)
        }

    def tensors(
        self,
        prediction: KeypointConfidencePrediction,
        chosen: Tensor,
        encoded: Encoded,
        prepared: Any,
    ) -> dict[str, Tensor]:
        return {"keypoint_confidence": at_queries(prediction.logit, chosen).sigmoid()}
