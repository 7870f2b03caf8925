"""One backbone, a projector per task, a head per data set, as a system that trains on all of
them."""

import re
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from humanquery.core.batch import Batch
from humanquery.core.errors import TrainingError, nearest
from humanquery.core.fields import FieldSpec
from humanquery.core.persons import Persons
from humanquery.core.skeleton import Skeleton
from humanquery.core.system import Ask, Picture
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models.path.backbone import SharedBackbone
from humanquery.models.path.config import (
    AttributeHeadConfig,
    CountingHeadConfig,
    DetectionHeadConfig,
    IdentityHeadConfig,
    ParsingHeadConfig,
    PathConfig,
    PoseHeadConfig,
)
from humanquery.models.path.detection import DetectionHead
from humanquery.models.path.heads import (
    AttributeHead,
    CountingHead,
    Features,
    IdentityHead,
    ParsingHead,
    PoseHead,
)
from humanquery.models.path.projectors import build_projector

HEADS: dict[type, type] = {
    PoseHeadConfig: PoseHead,
    ParsingHeadConfig: ParsingHead,
    AttributeHeadConfig: AttributeHead,
    IdentityHeadConfig: IdentityHead,
    DetectionHeadConfig: DetectionHead,
    CountingHeadConfig: CountingHead,
}


class Path(nn.Module):
    """Hierarchical weight sharing: `backbone` for all, `projectors[task]`, `heads[data set]`.

    A batch holds pictures of one data set, named by `Target.source`, and moves the parameters that
    this data set shares and no others. Losses are weighted such that a step with one micro-batch of
    every data set minimises sum_t w_t / (sum w) · loss_t (HumanBench's released code) under the
    engine's mean over micro-batches.
    """

    def __init__(self, config: PathConfig):
        super().__init__()
        self.config = config
        self.data_sets = {one.name: one for one in config.data_sets}
        tokens = tuple(one.name for one in config.data_sets if one.has_class_token)
        self.backbone = SharedBackbone(config.backbone, tokens)
        dim, depth = self.backbone.dim, len(self.backbone.blocks)
        maps = depth + 1 if config.backbone.last_block else depth
        groups = dict.fromkeys(one.group for one in config.data_sets) if config.projector else ()
        self.projectors = nn.ModuleDict(
            {group: build_projector(config.projector, dim, maps) for group in groups}
        )
        self.heads = nn.ModuleDict(
            {one.name: HEADS[type(one.head)](one.head, dim) for one in config.data_sets}
        )
        self._maps = maps

    @staticmethod
    def layer_depths(names: Iterable[str]) -> dict[str, int]:
        """Layers for `OptimConfig.layer_decay`: the patch embedding 0, block i at i + 1. Positions
        and class tokens learn as fast as projectors and heads, as released."""
        names = list(names)
        blocks = {name: re.search(r"\.blocks\.(\d+)\.", name) for name in names}
        above = 2 + max(int(found[1]) for found in blocks.values() if found)
        return {
            name: int(found[1]) + 1 if found else 0 if ".patch_embed." in name else above
            for name, found in blocks.items()
        }

    @property
    def answering(self) -> str:
        """The data set whose head `predict` asks."""
        return self.config.answers or self.config.data_sets[0].name

    @property
    def skeleton(self) -> Skeleton | None:
        return self.heads[self.answering].skeleton

    @property
    def input(self) -> LetterboxConfig:
        return LetterboxConfig()

    @property
    def outputs(self) -> dict[str, FieldSpec]:
        kind = type(self.data_sets[self.answering].head)
        names = {
            PoseHeadConfig: ("keypoints", "keypoint_scores"),
            IdentityHeadConfig: ("embeddings",),
        }
        return {name: Persons.specs()[name] for name in names.get(kind, ())}

    @property
    def loss_names(self) -> tuple[str, ...]:
        """`data_set/loss` of every head; a batch gives those of its own data set."""
        return tuple(
            f"{name}/{loss}" for name, head in self.heads.items() for loss in head.loss_names
        )

    def features(self, images: Float[Tensor, "b 3 h w"], data_set: str) -> Features:
        """What the head of a data set reads."""
        one = self.data_sets[data_set]
        maps, grid = self.backbone(images, data_set, one.drop_path)
        if self.config.projector is None:
            tokens = self.backbone.norm(maps[-1])
        else:
            tokens = self.projectors[one.group](maps[: self._maps])
        token = tokens[:, 0] if one.has_class_token else None
        patches = tokens[:, 1:] if one.has_class_token else tokens
        return Features(patches.transpose(1, 2).unflatten(2, grid), token)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Weighted losses `data_set/loss` of the batch's data set; TrainingError where its pictures
        come from several, or from one that this model does not know."""
        name = self._data_set_of(batch)
        losses = self.heads[name].losses(self.heads[name](self.features(batch.images, name)), batch)
        shares = sum(one.weight for one in self.data_sets.values())
        weight = self.data_sets[name].weight / shares * len(self.data_sets)
        return {f"{name}/{loss}": weight * value for loss, value in losses.items()}

    def _data_set_of(self, batch: Batch) -> str:
        names = sorted({target.source for target in batch.targets or []})
        if len(names) != 1 or names[0] not in self.data_sets:
            known = nearest(names[0] if names else "", self.data_sets)
            raise TrainingError(
                f"path: a batch of data sets {names}; expected pictures of one data set whose name "
                f"(the `name` of its source) this model has a head for.{known}"
            )
        return names[0]

    @torch.no_grad()
    def answer(self, batch: Batch, data_set: str) -> list[Picture]:
        """What the head of this data set says, in px of the pictures."""
        head = self.heads[data_set]
        return head.decode(head(self.features(batch.images, data_set)), batch)

    def predict(self, batch: Batch, ask: Ask = Ask()) -> list[Picture]:
        """`answer` of the data set `answering`; people below the score asked for are left out."""
        pictures = self.answer(batch, self.answering)
        return [Picture(p.persons.above(ask.score)[: ask.max_persons], p.maps) for p in pictures]
