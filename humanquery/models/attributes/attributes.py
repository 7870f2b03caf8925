"""A backbone and `RegionAttributes`: gender and age of people in true boxes."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from humanquery.backbones import build as build_backbone
from humanquery.core.batch import Batch
from humanquery.core.persons import Persons
from humanquery.core.rows import Labelled
from humanquery.core.transfer import sent
from humanquery.losses.people import age_loss, expected_age
from humanquery.losses.scores import binary
from humanquery.models.attributes.config import AttributesConfig
from humanquery.nn.regions import RegionAttributes, RegionReading, read_people
from humanquery.tasks.base import count_over_ranks, nothing


class Attributes(nn.Module):
    """A `System` that is told where the people are: `forward` and `predict` read the boxes of `batch.targets`.

    Tensors are named `backbone.…` and `regions.…`, so that HQNet can take over both. Batch norms of frozen layers keep
    their statistics.
    """

    def __init__(self, config: AttributesConfig):
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        self.regions = RegionAttributes(self.backbone.channels[-1], config.regions)
        self.register_buffer("mean", torch.tensor(self.backbone.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.backbone.std).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "Attributes":
        super().train(mode)
        for norm in self.backbone.batch_norms():
            if not any(parameter.requires_grad for parameter in norm.parameters()):
                norm.eval()
        return self

    def read(self, batch: Batch) -> RegionReading:
        """Everybody in `batch.targets`, ignore regions too, picture after picture; ValueError without targets."""
        if batch.targets is None:
            raise ValueError(
                "Attributes needs batch.targets: it reads people in given boxes and does not look for them; "
                "HQNet finds people in pictures without truth"
            )
        normed = (batch.images - self.mean) / self.std
        normed = normed.masked_fill(batch.padding[:, None], 0.0)
        boxes = [target.boxes for target in batch.targets]
        return read_people(normed, boxes, self.backbone, self.regions, mirrored=not self.training)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Losses `gender` and `age`, each the mean over the people of all ranks who have the label."""
        reading = self.read(batch)
        gender, age = (self._labels(batch, name, reading.gender_logit) for name in ("gender", "age"))
        return {"gender": self._gender_loss(reading, gender), "age": self._age_loss(reading, age)}

    def _labels(self, batch: Batch, name: str, like: Tensor) -> Labelled:
        """Of all rows of `read`; a data set that never annotates it has nobody valid, nor have ignore regions."""
        values, valid = [], []
        for target in batch.targets or []:
            label = getattr(target, name)
            if label is None:
                shape = (len(target),) if name == "gender" else (len(target), 2)
                label = Labelled(torch.zeros(shape), torch.zeros_like(target.ignore))
            values.append(label.value)
            valid.append(label.valid & ~target.ignore)
        return Labelled(sent(torch.cat(values), like.device), sent(torch.cat(valid), like.device))

    def _gender_loss(self, reading: RegionReading, label: Labelled) -> Tensor:
        smoothing = self.config.label_smoothing
        true = label.value[label.valid] * (1 - smoothing) + smoothing / 2
        each = binary(reading.gender_logit[label.valid], true)
        return self.config.gender_loss * _mean(each, reading.gender_logit)

    def _age_loss(self, reading: RegionReading, label: Labelled) -> Tensor:
        c, slack = self.config.age, self.config.age_slack
        low, high = label.value[label.valid].unbind(-1)
        point = low == high
        oldest = float(self.regions.ages[-1])
        each = age_loss(
            reading.age_logits[label.valid],
            torch.where(point, low - slack, low).clamp(0, oldest),
            torch.where(point, high + slack, high).clamp(0, oldest),
            self.regions.ages,
            mean=c.mean,
            variance=c.variance,
            ce=c.cross_entropy,
        )
        return c.loss * _mean(each, reading.age_logits)

    @torch.no_grad()
    def predict(self, batch: Batch, score: float = 0.0) -> list[Persons]:
        """The people of `batch.targets` (canvas px), back in picture px, with apparent gender and age; scores are 1."""
        reading = self.read(batch)
        female = reading.gender_logit.sigmoid()
        years = expected_age(reading.age_logits, self.regions.ages)
        counts = [len(target) for target in batch.targets or []]
        people = []
        for target, meta, gender, age in zip(
            batch.targets or [], batch.metas, female.split(counts), years.split(counts), strict=True
        ):
            found = Persons(
                image_size=meta.canvas_size,
                boxes=sent(target.boxes.float(), gender.device),
                scores=torch.ones_like(gender),
                gender=gender,
                age=age,
            )
            people.append(found.warp(meta.to_canvas.inverse(), meta.image_size))
        return people


def _mean(each: Tensor, outputs: Tensor) -> Tensor:
    """Over everybody of all ranks who has the label; 0 with a gradient where nobody has."""
    count = count_over_ranks(len(each), outputs)
    return each.sum() / count if len(each) else nothing(outputs)
