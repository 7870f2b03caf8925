"""Is there a person at all: the class score."""

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
    prior_bias,
    zero_init,
)


@dataclass(frozen=True)
class PersonConfig:
    """Weights of the released HQNet."""

    loss: float = 1.0
    cost: float = 1.0


@dataclass(frozen=True, eq=False)
class PersonPrediction:
    logit: Float[Tensor, "b q"]


class PersonTask(Task):
    """Focal classification person / background. Queries in ignore regions are neither."""

    name = "person"
    config_type = PersonConfig
    loss_names = ("class",)
    denoises = True

    def __init__(self, config: PersonConfig, sizes: TaskSizes):
        super().__init__()
        self.config = config
        # a correction starts at 0; without a reference the logit starts at a small probability
        start = zero_init if self.name in sizes.referenced else prior_bias
        self.heads = copies(lambda: start(nn.Linear(sizes.dim, 1)), sizes.stages)

    def read(
        self,
        stage: int,
        queries: Tensor,
        reference: Reference,
        prepared: Any,
    ) -> PersonPrediction:
        return PersonPrediction(
            reference.corrected(self.name, self.heads[stage](queries).squeeze(-1))
        )

    def costs(self, prediction: PersonPrediction, truths: Truths, draws: Draws, tag: str) -> Tensor:
        return self.config.cost * focal_cost(prediction.logit)[truths.pictures]

    def losses(
        self, prediction: PersonPrediction, matches: Matches, truths: Truths, draws: Draws, tag: str
    ) -> dict[str, Tensor]:
        return self._focal(prediction, matches, count_over_ranks(len(matches), prediction.logit))

    def denoising_losses(
        self, prediction: PersonPrediction, matches: Matches, truths: Truths, count: Tensor
    ) -> dict[str, Tensor]:
        return self._focal(prediction, matches, count)

    def _focal(
        self, prediction: PersonPrediction, matches: Matches, count: Tensor
    ) -> dict[str, Tensor]:
        is_person = torch.zeros_like(prediction.logit, dtype=torch.bool)
        is_person[matches.pictures, matches.queries] = True
        loss = focal(prediction.logit, is_person)
        if matches.ignored is not None:
            loss = torch.where(matches.ignored, 0.0, loss)
        return {"class": self.config.loss * loss.sum() / count}

    def tensors(
        self, prediction: PersonPrediction, chosen: Tensor, encoded: Encoded, prepared: Any
    ) -> dict[str, Tensor]:
        logits = at_queries(prediction.logit, chosen).float()
        return {"scores": logits.sigmoid(), "logits": logits}
