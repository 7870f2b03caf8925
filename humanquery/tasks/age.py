"""Apparent age in years, as a distribution over whole years."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from humanquery.losses.people import age_loss, expected_age
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
class AgeConfig:
    """The release: classes 0..84, weights 0.1 · (0.02 mean, 0.1 variance, 1 cross-entropy), no
    hidden layer.

    The paper: `first_age=1`, `hidden_layers=1`, `cross_entropy=0.0`.
    """

    loss: float = 0.1
    mean: float = 0.02
    variance: float = 0.1
    cross_entropy: float = 1.0
    first_age: int = 0
    num_ages: int = 85
    hidden_layers: int = 0


@dataclass(frozen=True, eq=False)
class AgePrediction:
    logits: Float[Tensor, "b q ages"]


class AgeTask(Task):
    """Mean-variance loss with cross-entropy for one age, its interval form where only a range is
    known (`losses.people`)."""

    name = "age"
    config_type = AgeConfig
    result = "age"
    loss_names = ("age",)

    def __init__(self, config: AgeConfig, sizes: TaskSizes):
        super().__init__()
        self.config = config
        shape, zeros = (
            (sizes.dim, config.num_ages, config.hidden_layers),
            self.name in sizes.referenced,
        )
        self.heads = copies(lambda: attribute_head(*shape, zeros=zeros), sizes.stages)
        years = torch.arange(
            config.first_age, config.first_age + config.num_ages, dtype=torch.float32
        )
        self.register_buffer("ages", years, persistent=False)

    def read(
        self,
        stage: int,
        queries: Tensor,
        reference: Reference,
        prepared: Any,
    ) -> AgePrediction:
        return AgePrediction(reference.corrected(self.name, self.heads[stage](queries)))

    def losses(
        self, prediction: AgePrediction, matches: Matches, truths: Truths, draws: Draws, tag: str
    ) -> dict[str, Tensor]:
        true = truths.matched("age", matches)
        if true is None:
            return {"age": zero_loss(prediction.logits) / count_over_ranks(0, prediction.logits)}
        c, (low, high) = self.config, true.value.unbind(-1)
        logits = matches.predicted(prediction.logits).float()
        loss = age_loss(
            logits, low, high, self.ages, mean=c.mean, variance=c.variance, ce=c.cross_entropy
        )
        return {"age": c.loss * mean_over_known(loss, true.valid)}

    def tensors(
        self, prediction: AgePrediction, chosen: Tensor, encoded: Encoded, prepared: Any
    ) -> dict[str, Tensor]:
        logits = at_queries(prediction.logits, chosen).float()
        return {"age": expected_age(logits.flatten(0, 1), self.ages).reshape(chosen.shape)}
