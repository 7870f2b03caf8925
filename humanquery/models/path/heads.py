"""Heads of PATH's tasks on crops and dense maps: each reads features, gives losses and decodes.

Losses are local sums divided by counts of all ranks, so that they add up over ranks.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from humanquery.core.batch import Batch, Meta
from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons
from humanquery.core.rows import Extra
from humanquery.core.skeleton import Skeleton
from humanquery.core.system import Picture
from humanquery.core.transfer import to_device
from humanquery.data.readers.parsing import IGNORED, PARSING
from humanquery.data.readers.pedestrian_attributes import ATTRIBUTES
from humanquery.losses.identities import batch_hard_triplet, weighted_attributes
from humanquery.models.path.config import (
    AttributeHeadConfig,
    CountingHeadConfig,
    IdentityHeadConfig,
    ParsingHeadConfig,
    PoseHeadConfig,
)
from humanquery.nn.integral import heatmap_joints
from humanquery.nn.rank_norm import RankBatchNorm, joined_rows
from humanquery.tasks.base import count_over_ranks, mean_over_known

STRIDE = 16
"""canvas px per cell of the features"""
POSE_STRIDE = 4
DENSITY = "density"
"""name of the map of people per px² in `Picture.maps`"""
TOO_FAR = 3.0
"""standard deviations around the map in which a joint still counts"""


@dataclass(frozen=True, eq=False)
class Features:
    """What a head reads."""

    maps: Float[Tensor, "b d h w"]
    token: Float[Tensor, "b d"] | None = None
    """the class token, where the data set has one"""


class PoseHead(nn.Module):
    """Two transposed convolutions and a 1×1 to heat maps of stride 4 (Xiao et al. 2018), learned
    from unbiased Gaussians (UDP, Huang et al. 2020)."""

    loss_names = ("heatmap",)

    def __init__(self, config: PoseHeadConfig, dim: int):
        super().__init__()
        self.config, self.skeleton = config, Skeleton.named(config.skeleton)
        layers: list[nn.Module] = []
        for inner in (dim, config.width):
            layers += [
                nn.ConvTranspose2d(inner, config.width, 4, 2, 1, bias=False),
                LayerNorm2d(config.width),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(config.width, len(self.skeleton), 1))

    def forward(self, features: Features) -> Float[Tensor, "b k H W"]:
        return self.layers(features.maps)

    def losses(self, maps: Float[Tensor, "b k H W"], batch: Batch) -> dict[str, Tensor]:
        """Mean square error of the maps, averaged over the crops' joints."""
        targets = batch.targets or []
        if any(len(t) != 1 or t.keypoints is None for t in targets):
            raise ValueError("PoseHead: training needs crops with the joints of one person each")
        true = [target.with_skeleton(self.skeleton) for target in targets]
        joints = to_device(torch.cat([t.keypoints.value for t in true]), maps.device)
        counted = to_device(torch.cat([t.counted_joints for t in true]), maps.device)
        goal, shown = self._goal(joints, counted, maps)
        error = (maps.float() - goal).square().mean((2, 3))
        total = torch.where(shown, error, 0.0).mean(1).sum()
        return {"heatmap": total / count_over_ranks(len(batch), maps)}

    def _goal(self, joints: Tensor, counted: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        height, width = maps.shape[-2:]
        mean = (joints - 0.5) * self._scale(maps)  # in cells, the first one's centre at 0
        sides = mean.new_tensor([width - 1, height - 1])
        reach = TOO_FAR * self.config.sigma
        shown = counted & ((mean >= -reach) & (mean <= sides + reach)).all(-1)
        x = torch.arange(width, device=maps.device) - mean[..., :1]
        y = torch.arange(height, device=maps.device) - mean[..., 1:]
        spread = 2 * self.config.sigma**2
        goal = (-(y**2) / spread).exp()[..., :, None] * (-(x**2) / spread).exp()[..., None, :]
        return goal, shown

    def _scale(self, maps: Tensor) -> Float[Tensor, "2"]:
        """Cells per px, from first to last centre (UDP)."""
        height, width = maps.shape[-2:]
        return maps.new_tensor(
            [(width - 1) / (width * POSE_STRIDE - 1), (height - 1) / (height * POSE_STRIDE - 1)]
        )

    def decode(self, maps: Float[Tensor, "b k H W"], batch: Batch) -> list[Picture]:
        """One person per crop: joints in px of the picture, the crop's box."""
        cells, scores = heatmap_joints(maps.float())
        joints = cells / self._scale(maps) + 0.5
        pictures = []
        for meta, points, seen in zip(batch.metas, joints, scores.clamp(0, 1), strict=True):
            height, width = meta.canvas_size
            found = Persons(
                image_size=meta.canvas_size,
                boxes=points.new_tensor([[0.0, 0.0, width, height]]),
                scores=seen.mean()[None],
                keypoints=points[None],
                keypoint_scores=seen[None],
                skeleton=self.skeleton,
            )
            pictures.append(Picture(found.warp(meta.to_canvas.inverse(), meta.image_size)))
        return pictures


def _convolution(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, 3, padding=1), LayerNorm2d(outer), nn.ReLU())


class ParsingHead(nn.Module):
    """Convolutions, doubled once, to a class per pixel."""

    loss_names = ("pixels",)
    skeleton = None

    def __init__(self, config: ParsingHeadConfig, dim: int):
        super().__init__()
        if len(config.classes) < 2:
            raise ConfigError(f"path: parsing classes {config.classes}; expected two at least")
        self.config = config
        self.first, self.second = (
            _convolution(dim, config.width),
            _convolution(config.width, config.width),
        )
        self.last = nn.Conv2d(config.width, len(config.classes), 3, padding=1)

    def forward(self, features: Features) -> Float[Tensor, "b c h w"]:
        """Logits at twice the features' size."""
        x = self.second(self.first(features.maps))
        return self.last(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))

    def losses(self, logits: Float[Tensor, "b c h w"], batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the labelled pixels of all ranks."""
        size = batch.images.shape[-2:]
        true = torch.full((len(batch), *size), IGNORED, dtype=torch.long)
        for i, target in enumerate(batch.targets or []):
            values = target.maps[PARSING].values
            true[i, : values.shape[0], : values.shape[1]] = values
        true = to_device(true, logits.device)
        scores = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
        each = F.cross_entropy(scores, true, ignore_index=IGNORED, reduction="sum")
        return {"pixels": each / count_over_ranks((true != IGNORED).sum(), logits)}

    def decode(self, logits: Float[Tensor, "b c h w"], batch: Batch) -> list[Picture]:
        """Nobody, and the class of every pixel of the picture in `maps`."""
        maps = _on_pictures(logits.float(), batch)
        return [
            Picture(Persons.empty(meta.image_size), {PARSING: scores.argmax(0)})
            for meta, scores in zip(batch.metas, maps, strict=True)
        ]


def _on_pictures(maps: Float[Tensor, "b c h w"], batch: Batch) -> list[Float[Tensor, "c _H _W"]]:
    """Canvas maps, read at the pixels of each picture."""
    height, width = batch.images.shape[-2:]
    found = []
    for meta, scores in zip(batch.metas, maps, strict=True):
        rows, columns = meta.image_size
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        places = meta.to_canvas.points(torch.stack([x, y], -1)).to(scores)
        unit = places / places.new_tensor([width, height]) * 2 - 1
        found.append(
            F.grid_sample(scores[None], unit[None], padding_mode="border", align_corners=False)[0]
        )
    return found


class AttributeHead(nn.Module):
    """Mean of the patches, linear, batch norm."""

    loss_names = ("attributes",)
    skeleton = None

    def __init__(self, config: AttributeHeadConfig, dim: int):
        super().__init__()
        names, shares = config.names, config.positive_share
        if not names or len(shares) not in (0, len(names)):
            raise ConfigError(
                f"path: {len(names)} attributes with {len(shares)} shares of positives; expected "
                f"one each, or none for equal weights"
            )
        self.config = config
        # the norm takes away any bias
        self.linear = nn.Linear(dim, len(names), bias=False)
        self.norm = RankBatchNorm(len(names))
        shares = torch.tensor(shares or (0.5,) * len(names))
        self.register_buffer("positive_share", shares, persistent=False)

    def forward(self, features: Features) -> Float[Tensor, "b a"]:
        return self.norm(self.linear(features.maps.mean((2, 3))))

    def losses(self, logits: Float[Tensor, "b a"], batch: Batch) -> dict[str, Tensor]:
        """Weighted cross-entropy, summed over attributes, mean over people."""
        labels = torch.cat([t.get("attributes") for t in batch.targets or []])
        labels = to_device(labels, logits.device)
        each = weighted_attributes(logits.float(), labels, self.positive_share)
        return {"attributes": each.sum() / count_over_ranks(len(each), logits)}

    def decode(self, logits: Float[Tensor, "b a"], batch: Batch) -> list[Picture]:
        """One person per crop with the probability of each attribute."""
        return [
            _whole(meta, row, extra={"attributes": Extra(ATTRIBUTES, row[None])})
            for meta, row in zip(batch.metas, logits.float().sigmoid(), strict=True)
        ]


def _whole(meta: Meta, like: Tensor, **fields) -> Picture:
    """A person whose box is the picture, beside `like`."""
    height, width = meta.image_size
    persons = Persons(
        image_size=meta.image_size,
        boxes=like.new_tensor([[0.0, 0.0, width, height]]),
        scores=like.new_ones(1),
        **fields,
    )
    return Picture(persons)


class IdentityHead(nn.Module):
    """The class token, batch norm, a classifier of the training set's people."""

    loss_names = ("identity", "triplet")
    skeleton = None

    def __init__(self, config: IdentityHeadConfig, dim: int):
        super().__init__()
        if config.people < 1:
            raise ConfigError(
                f"path: a classifier of {config.people} people; expected those of the training "
                f"data (IdentitySource.people)"
            )
        self.config, self.norm = config, RankBatchNorm(dim)
        self.norm.bias.requires_grad_(False)  # BN neck (Luo et al. 2019): no shift
        self.classifier = nn.Linear(dim, config.people, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, features: Features) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Features before and after the batch norm; the mean of the patches without a token."""
        before = features.maps.mean((2, 3)) if features.token is None else features.token
        return before, self.norm(before)

    def losses(self, features: tuple[Tensor, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy after, batch-hard triplet before the norm, among the crops of all ranks."""
        before, after = features
        people = torch.cat([t.get("person_class") for t in batch.targets or []])
        if int(people.max()) >= self.config.people:  # on the host: nobody waits for the device
            raise ConfigError(
                f"path: person class {int(people.max())} for a classifier of "
                f"{self.config.people} people; is the head's number that of the training data?"
            )
        people = to_device(people, before.device)
        each = F.cross_entropy(
            self.classifier(after).float(), people, ignore_index=-1, reduction="none"
        )
        identity = mean_over_known(each, people >= 0)
        if not self.config.triplet:
            return {"identity": identity, "triplet": before.sum() * 0}
        everyone, who = joined_rows(before.float()), joined_rows(people.float()).long()
        hard, known = batch_hard_triplet(everyone, who, before.float(), people)
        return {"identity": identity, "triplet": self.config.triplet * mean_over_known(hard, known)}

    def decode(self, features: tuple[Tensor, Tensor], batch: Batch) -> list[Picture]:
        """One person per crop with an embedding of length 1."""
        unit = F.normalize(features[1].float(), dim=1)
        return [
            _whole(meta, row, embeddings=row[None])
            for meta, row in zip(batch.metas, unit, strict=True)
        ]


class CountingHead(nn.Module):
    """Convolutions to people per cell."""

    loss_names = ("density",)
    skeleton = None

    def __init__(self, config: CountingHeadConfig, dim: int):
        super().__init__()
        self.config = config
        self.body = _convolution(dim, config.width)
        self.last = nn.Conv2d(config.width, 1, 1)
        nn.init.constant_(self.last.bias, -3.0)  # hardly anybody in most cells

    def forward(self, features: Features) -> Float[Tensor, "b h w"]:
        return F.softplus(self.last(self.body(features.maps)))[:, 0]

    def losses(self, cells: Float[Tensor, "b h w"], batch: Batch) -> dict[str, Tensor]:
        """Square error of the cells' numbers of people, summed per picture, mean over pictures."""
        true = torch.stack([self._people(t, cells.shape[-2:]) for t in batch.targets or []])
        error = (cells.float() - to_device(true, cells.device)).square().sum()
        return {"density": error / count_over_ranks(len(batch), cells)}

    def _people(self, target, size: tuple[int, int]) -> Float[Tensor, "h w"]:
        """Each person shared among the four nearest cells, so that a step of a pixel is a small
        one."""
        people = target.people().boxes
        places = (people[:, :2] + people[:, 2:]) / 2 / STRIDE - 0.5
        low, cells = places.floor(), torch.zeros(size)
        for dx in (0, 1):
            for dy in (0, 1):
                at = low + torch.tensor([dx, dy])
                share = (1 - (places - at).abs()).prod(1)
                # the edge keeps what would fall beside it: the sum is the count
                x = at[:, 0].long().clamp(0, size[1] - 1)
                y = at[:, 1].long().clamp(0, size[0] - 1)
                cells.index_put_((y, x), share, accumulate=True)
        return cells

    def decode(self, cells: Float[Tensor, "b h w"], batch: Batch) -> list[Picture]:
        """Nobody by name, and a map whose sum is the number of people."""
        maps = _on_pictures(cells.float()[:, None] / STRIDE**2, batch)
        return [
            # per px² of the canvas becomes per px² of the picture
            Picture(
                Persons.empty(meta.image_size),
                {DENSITY: density * abs(meta.to_canvas.determinant)},
            )
            for meta, density in zip(batch.metas, maps, strict=True)
        ]
