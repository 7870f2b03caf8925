"""Apparent gender: P(female)."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from humanquery.losses.scores import binary
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
    mean_over_known,
    zero_loss,
)
from humanquery.tasks.labels import attribute_head


@dataclass(frozen=True)
class GenderConfig:
    """Weight of the released HQNet; the paper's head has one hidden layer, the release's none."""

    loss: float = 1.0
    hidden_layers: int = 0


@dataclass(frozen=True, eq=False)
class GenderPrediction:
    logit: Float[Tensor, "b q"]
    """of label 1, female"""


class GenderTask(Task):
    """Binary cross-entropy over matched people with a label. It has no say in matching (specs:
    attributes have no cost)."""

    name = "gender"
    config_type = GenderConfig
    result = "gender"
    loss_names = ("gender",)

    def __init__(self, config: GenderConfig, sizes: TaskSizes):
        super().__init__()
        self.config = config
        zeros = self.name in sizes.referenced
        self.heads = copies(
            lambda: attribute_head(sizes.dim, 1, config.hidden_layers, zeros=zeros), sizes.stages
        )

    def read(
        self,
        stage: int,
        queries: Tensor,
        reference: Reference,
        prepared: Any,
    ) -> GenderPrediction:
        return GenderPrediction(
            reference.corrected(self.name, self.heads[stage](queries).squeeze(-1))
        )

    def losses(
        self, prediction: GenderPrediction, matches: Matches, truths: Truths, draws: Draws, tag: str
    ) -> dict[str, Tensor]:
        true = truths.matched("gender", matches)
        if true is None:
            return {"gender": zero_loss(prediction.logit) / count_over_ranks(0, prediction.logit)}
        loss = binary(matches.predicted(prediction.logit), true.value)
        return {"gender": self.config.loss * mean_over_known(loss, true.valid)}

    def tensors(
        self, prediction: GenderPrediction, chosen: Tensor, encoded: Encoded, prepared: Any
    ) -> dict[str, Tensor]:
        return {"gender": at_queries(prediction.logit, chosen).sigmoid()}
