"""A system that finds the same two people in every picture."""

from dataclasses import dataclass, field

import torch
from torch import nn

from humanquery.core.batch import Batch
from humanquery.core.fields import FieldSpec
from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17
from humanquery.core.system import Ask, Picture
from humanquery.media.letterbox import LetterboxConfig


@dataclass(frozen=True)
class FakeConfig:
    input: LetterboxConfig = field(default_factory=lambda: LetterboxConfig(64, 96))


class FakeSystem(nn.Module):
    """Scores 0.9 and 0.2; keeps the sizes of the batches that it saw."""

    def __init__(self):
        super().__init__()
        self.config = FakeConfig()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, batch: Batch) -> dict:
        return {"nothing": self.weight.sum()}

    skeleton = COCO17
    loss_names = ("nothing",)

    @property
    def input(self) -> LetterboxConfig:
        return self.config.input

    @property
    def outputs(self) -> dict[str, FieldSpec]:
        return {n: Persons.specs()[n] for n in ("masks", "keypoints", "gender", "age")}

    def predict(self, batch: Batch, ask: Ask = Ask()) -> list[Picture]:
        self.seen.append(tuple(batch.images.shape))
        found = [people(meta.image_size, ask.outputs) for meta in batch.metas]
        return [Picture(persons.above(ask.score)) for persons in found]


def people(size: tuple[int, int], tasks=None) -> Persons:
    """Two people in the left and right half of a picture of `size`."""
    tasks = ("masks", "keypoints", "gender", "age") if tasks is None else tasks
    height, width = size
    boxes = torch.tensor([[0.0, 0.0, width / 2, height], [width / 2, 0.0, width, height]])
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, :, : width // 2] = True
    masks[1, :, width // 2 :] = True
    spread = torch.linspace(0.1, 0.9, 17)[None, :, None]
    fields = {"embeddings": torch.eye(2)}
    if "masks" in tasks:
        fields["masks"] = masks
    if "keypoints" in tasks:
        fields["keypoints"] = boxes[:, None, :2] + spread * (
            boxes[:, None, 2:] - boxes[:, None, :2]
        )
        fields["keypoint_scores"] = torch.full((2, 17), 0.8)
    if "gender" in tasks:
        fields["gender"] = torch.tensor([0.9, 0.1])
    if "age" in tasks:
        fields["age"] = torch.tensor([34.2, 8.0])
    return Persons(
        image_size=size, boxes=boxes, scores=torch.tensor([0.9, 0.2]), skeleton=COCO17, **fields
    )
