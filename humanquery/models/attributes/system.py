"""A backbone and `RegionAttributes`: gender and age of people in true boxes."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from humanquery.core.batch import Batch
from humanquery.core.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from humanquery.core.fields import FieldSpec
from humanquery.core.persons import Persons
from humanquery.core.rows import Labelled
from humanquery.core.system import Ask, Picture
from humanquery.core.transfer import to_device
from humanquery.experts import build as build_backbone
from humanquery.losses.people import age_loss, expected_age
from humanquery.losses.scores import binary
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models.attributes.config import AttributesConfig
from humanquery.nn.person_views import RegionAttributes, RegionReading, read_people
from humanquery.tasks.base import count_over_ranks, zero_loss


class Attributes(nn.Module):
    """A `System` for people in given boxes: `forward` and `predict` read the boxes of
    `batch.targets`.

    Tensors are named `backbone.…` and `regions.…`, so that HQNet can take over both. Batch norms of
    frozen layers keep their statistics.
    """

    def __init__(self, config: AttributesConfig):
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        self.regions = RegionAttributes(self.backbone.channels[-1], config.regions)
        self.register_buffer(
            "mean", torch.tensor(self.backbone.mean).view(3, 1, 1), persistent=False
        )
        self.register_buffer("std", torch.tensor(self.backbone.std).view(3, 1, 1), persistent=False)

    skeleton = None

    @property
    def input(self) -> LetterboxConfig:
        """People are cut out of whatever canvas they are on."""
        return LetterboxConfig()

    @property
    def outputs(self) -> dict[str, FieldSpec]:
        return {name: Persons.specs()[name] for name in ("gender", "age")}

    @property
    def loss_names(self) -> tuple[str, ...]:
        return ("gender", "age", "head") if self.regions.config.head else ("gender", "age")

    def train(self, mode: bool = True) -> "Attributes":
        super().train(mode)
        for norm in self.backbone.batch_norms():
            if not any(parameter.requires_grad for parameter in norm.parameters()):
                norm.eval()
        return self

    def read_boxes(self, batch: Batch) -> RegionReading:
        """Everybody in `batch.targets`, ignore regions too, picture after picture; ValueError
        without targets.

        In training the head view shows known heads (`Target.face_boxes`, jittered), or else the
        found one.
        """
        if batch.targets is None:
            raise ValueError(
                "Attributes needs batch.targets: it reads people in given boxes and does not look "
                "for them; "
                "HQNet finds people in pictures without truth"
            )
        normed = (batch.images - self.mean) / self.std
        normed = normed.masked_fill(batch.padding[:, None], 0.0)
        boxes = [target.boxes for target in batch.targets]
        if not self.training or not self.regions.config.head:
            return read_people(
                normed, boxes, self.backbone, self.regions, mirrored=not self.training
            )
        known = self._labels(batch, "face_boxes", normed)
        shown = Labelled(_jittered(known.value, self.config.head_jitter), known.valid)
        return read_people(
            normed, boxes, self.backbone, self.regions,
            heads=lambda found: torch.where(shown.valid[:, None], shown.value, found),
        )  # fmt: skip

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Losses `gender`, `age` and, with a head view, `head`: each the mean over the people of
        all ranks who have the label."""
        reading = self.read_boxes(batch)
        gender, age = (
            self._labels(batch, name, reading.gender_logit) for name in ("gender", "age")
        )
        losses = {"gender": self._gender_loss(reading, gender), "age": self._age_loss(reading, age)}
        if reading.heads is not None:
            losses["head"] = self._head_loss(
                reading.heads, self._labels(batch, "face_boxes", reading.heads)
            )
        return losses

    def _labels(self, batch: Batch, name: str, like: Tensor) -> Labelled:
        """Of all rows of `read`; a data set that never annotates it has nobody valid, nor have
        ignore regions."""
        values, valid = [], []
        for target in batch.targets or []:
            label = getattr(target, name)
            if label is None:
                shape = {
                    "gender": (len(target),),
                    "age": (len(target), 2),
                    "face_boxes": (len(target), 4),
                }[name]
                label = Labelled(torch.zeros(shape), torch.zeros_like(target.ignore))
            values.append(label.value)
            valid.append(label.valid & ~target.ignore)
        return Labelled(
            to_device(torch.cat(values), like.device), to_device(torch.cat(valid), like.device)
        )

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

    def _head_loss(self, found: Float[Tensor, "n 4"], known: Labelled) -> Tensor:
        """Distance of the middles in sides of the known square, and of the sides' logarithms
        (smooth L1)."""
        a, b = xyxy_to_cxcywh(found[known.valid]), xyxy_to_cxcywh(known.value[known.valid])
        off = torch.cat(
            [(a[:, :2] - b[:, :2]) / b[:, 2:], (a[:, 2:3].clamp(min=1e-3) / b[:, 2:3]).log()], 1
        )
        return self.config.head_loss * _mean(
            smooth_l1_loss(off, torch.zeros_like(off), beta=0.2, reduction="none").sum(1), found
        )

    @torch.no_grad()
    def predict(self, batch: Batch, ask: Ask = Ask()) -> list[Picture]:
        """The people of `batch.targets` (canvas px), back in picture px, with apparent gender and
        age; scores are 1, so that `ask` has no say."""
        reading = self.read_boxes(batch)
        female = reading.gender_logit.sigmoid()
        years = expected_age(reading.age_logits, self.regions.ages)
        counts = [len(target) for target in batch.targets or []]
        people = []
        for target, meta, gender, age in zip(
            batch.targets or [], batch.metas, female.split(counts), years.split(counts), strict=True
        ):
            found = Persons(
                image_size=meta.canvas_size,
                boxes=to_device(target.boxes.float(), gender.device),
                scores=torch.ones_like(gender),
                gender=gender,
                age=age,
            )
            people.append(Picture(found.warp(meta.to_canvas.inverse(), meta.image_size)))
        return people


def _jittered(squares: Float[Tensor, "n 4"], share: float) -> Float[Tensor, "n 4"]:
    parts = xyxy_to_cxcywh(squares)
    moved = parts[:, :2] + (2 * torch.rand_like(parts[:, :2]) - 1) * share * parts[:, 2:]
    sides = parts[:, 2:] * ((2 * torch.rand_like(parts[:, :1]) - 1) * share).exp()
    return cxcywh_to_xyxy(torch.cat([moved, sides], 1))


def _mean(each: Tensor, outputs: Tensor) -> Tensor:
    """Over everybody of all ranks who has the label; 0 with a gradient where nobody has."""
    count = count_over_ranks(len(each), outputs)
    return each.sum() / count if len(each) else zero_loss(outputs)
