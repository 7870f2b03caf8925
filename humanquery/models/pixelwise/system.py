"""Pictures in, poses out in one stage: the pixel-wise regressor as a system that trains, predicts
and is exported (Xiao et al., "Learning Quality-Aware Representation for Multi-Person Pose
Regression", AAAI 2022)."""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from humanquery.core.batch import Batch
from humanquery.core.errors import ConfigError, nearest
from humanquery.core.fields import FieldSpec
from humanquery.core.persons import Persons
from humanquery.core.skeleton import Skeleton
from humanquery.core.system import Ask, Picture
from humanquery.core.target import Target
from humanquery.core.transfer import constants
from humanquery.experts import build as build_backbone
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models.pixelwise.candidates import highest, hulls, unique
from humanquery.models.pixelwise.config import PixelWiseConfig
from humanquery.models.pixelwise.network import (
    Displacements,
    InstanceBranch,
    KeypointBranches,
    Scores,
    cell_places,
)
from humanquery.models.pixelwise.targets import (
    STRIDE,
    CellTruth,
    cell_truth,
    cells_outside,
    gaussian_label,
    quality,
    to_pixels,
)
from humanquery.tasks.base import count_over_ranks, zero_loss
from humanquery.tasks.decode import decode, how_many

CANVAS_STEP = 32
"""both sides of a canvas are multiples of this, the backbone's coarsest stride"""


@dataclass(frozen=True, eq=False)
class Seen:
    """Features of stride 4 and which of their cells are outside of the pictures."""

    features: list[Float[Tensor, "b c h w"]]
    """of the pictures and, with `flip_test`, of their mirror images"""
    padding: Bool[Tensor, "b h w"]


@dataclass(frozen=True, eq=False)
class PoseMaps:
    """What every cell says."""

    displacements: Float[Tensor, "b h w k 2"]
    scores: Float[Tensor, "b h w"]
    """0..1, 0 outside of the pictures"""


class PixelWise(nn.Module):
    """A `System`: every cell of stride 4 regresses a pose and a score, the best cells become
    people."""

    def __init__(self, config: PixelWiseConfig, backbone: nn.Module | None = None):
        super().__init__()
        self.config = config
        named = isinstance(config.skeleton, str)
        self.skeleton = Skeleton.of(config.skeleton) if named else config.skeleton
        if not self.skeleton.sigmas:
            raise ConfigError(
                f"skeleton {self.skeleton.name!r} has no OKS sigmas, and the score learns an OKS; "
                "use a layout with sigmas"
            )
        self.backbone = build_backbone(config.backbone) if backbone is None else backbone
        channels, joints = sum(self.backbone.channels), len(self.skeleton)
        self.keypoints = KeypointBranches(channels, joints, config.keypoints)
        self.instance = InstanceBranch(
            channels, joints, config.keypoints.semantic_points, config.instance
        )
        for name, values in (("mean", self.backbone.mean), ("std", self.backbone.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.register_buffer("sigmas", torch.tensor(self.skeleton.sigmas), persistent=False)

    @property
    def input(self) -> LetterboxConfig:
        return self.config.input

    @property
    def outputs(self) -> dict[str, FieldSpec]:
        return {"keypoints": Persons.specs()["keypoints"]}

    @property
    def loss_names(self) -> tuple[str, ...]:
        more = ("quality",) if self.config.instance.quality_branch else ()
        return ("score", "displacement", *more)

    # -- the way through the network

    def features(
        self, images: Float[Tensor, "b 3 h w"], padding: Bool[Tensor, "b h w"]
    ) -> Float[Tensor, "b c H W"]:
        """All maps of the backbone at stride 4, one after the other (R_g)."""
        normed = (images - self.mean) / self.std
        normed = normed.masked_fill(padding[:, None], 0.0)
        first, *others = self.backbone(normed)
        size = first.shape[-2:]
        same = [F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in others]
        return torch.cat([first, *same], 1)

    def read(self, features: Float[Tensor, "b c h w"]) -> tuple[Displacements, Scores]:
        pose = self.keypoints(features)
        return pose, self.instance(features, pose)

    def encode_images(
        self,
        images: Float[Tensor, "b 3 h w"],
        padding: Bool[Tensor, "b h w"],
        canvas_sizes: Any = None,
        zoomed: Any = None,
    ) -> Seen:
        """Pictures to features; the last two arguments are those of `core.system.Exportable` and
        without effect. Sides that are no multiples of `CANVAS_STEP` raise ValueError."""
        if not torch.compiler.is_compiling() and any(
            side % CANVAS_STEP for side in images.shape[-2:]
        ):
            raise ValueError(
                f"PixelWise: a batch of {tuple(images.shape[-2:])} px, expected sides that are "
                f"multiples of {CANVAS_STEP}; Batch.collate(samples, divisor={CANVAS_STEP}) pads "
                "them"
            )
        seen = [self.features(images, padding)]
        if self.config.flip_test:
            seen.append(self.features(images.flip(-1), padding.flip(-1)))
        return Seen(seen, cell_padding(padding))

    def prepare(self, encoded: Seen) -> dict[str, Any]:
        """Nothing (`core.system.Exportable`)."""
        return {}

    def read_queries(
        self, encoded: Seen, prepared: dict[str, Any], *, every_stage: bool = False
    ) -> PoseMaps:
        """What every cell says; with a mirror image the mean of both."""
        if torch.compiler.is_compiling():
            self._refuse_to_export()
        said = []
        for features in encoded.features:
            pose, scores = self.read(features)
            said.append((pose.keypoints, scores.values()))
        displacements, scores = said[0]
        for mirrored in said[1:]:
            back = self._mirrored_back(*mirrored)
            displacements, scores = (displacements + back[0]) / 2, (scores + back[1]) / 2
        return PoseMaps(displacements, scores.masked_fill(encoded.padding, 0.0))

    def _mirrored_back(self, displacements: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Cells back in their place, x turned round, left joints named right."""
        flipped = displacements.flip(2)[:, :, :, list(self.skeleton.mirror_order)]
        return flipped * constants([-1.0, 1.0], flipped), scores.flip(2)

    def _refuse_to_export(self) -> None:
        c = self.config
        if c.scales != (1.0,) or c.pose_nms is not None:
            raise ConfigError(
                f"export: the graph holds one look and no pose NMS, the model has scales "
                f"{c.scales} and pose_nms {c.pose_nms}; export it with scales=(1.0,) and "
                "pose_nms=None"
            )

    # -- the two uses

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """`score` (eq. 3), `displacement` (eq. 6) and, with that branch, `quality`.

        Raises ValueError without targets, ConfigError for joints of another skeleton. Normalisers
        are summed over ranks.
        """
        if batch.targets is None:
            raise ValueError(
                "PixelWise.forward needs batch.targets; use predict(batch) for pictures without "
                "truth"
            )
        for target, meta in zip(batch.targets, batch.metas, strict=True):
            self._check(target, meta.path)
        seen = [target.to("cpu") for target in batch.targets]
        # from the metas: the padding is on the device, and asking it would wait for all its work
        valid = [meta.canvas_size for meta in batch.metas]
        outside = cells_outside(valid, tuple(batch.images.shape[-2:]))
        truth = cell_truth(seen, outside, len(self.skeleton), self.config.target)
        truth = truth.to(batch.images.device)
        pose, scores = self.read(self.features(batch.images, batch.padding))
        with torch.autocast(batch.images.device.type, enabled=False):
            return self._losses(truth, pose.keypoints.float(), scores)

    def _check(self, target: Target, path: str) -> None:
        if target.keypoints is None or target.skeleton == self.skeleton:
            return
        where = f"{path}: " if path else ""
        name = "none" if target.skeleton is None else repr(target.skeleton.name)
        raise ConfigError(
            f"{where}the truth's joints are of skeleton {name} "
            f"({target.keypoints.value.shape[1]} joints), the model's of {self.skeleton.name!r} "
            f"({len(self.skeleton)} joints); build the model with the skeleton of the data, or "
            "convert the data's joints to the model's"
        )

    def _losses(
        self, truth: CellTruth, displacements: Float[Tensor, "b h w k 2"], scores: Scores
    ) -> dict[str, Float[Tensor, ""]]:
        c, wanted = self.config.loss, self.config.instance
        found = truth.at_cells(displacements)
        true, counted = truth.displacements()
        good = quality(truth, found, self.sigmas)
        each = F.smooth_l1_loss(found, true, reduction="none", beta=c.beta).sum(-1)
        # the map's own sum keeps the graph where there is nobody
        apart = torch.where(counted, each, 0.0).sum() + zero_loss(displacements)
        losses = {
            "displacement": c.displacement * apart / count_over_ranks(2 * counted.sum(), found)
        }
        label = self._label(truth, good)
        weights = truth.weights(c.background)
        squared = weights * (scores.score_logit.sigmoid() - label) ** 2
        count = len(found) if c.score_mean == "discs" else (weights > 0).sum()
        losses["score"] = c.score * squared.sum() / count_over_ranks(count, found)
        if wanted.quality_branch:
            said = truth.at_cells(scores.quality_logit).sigmoid()
            missed = ((said - good) ** 2).sum() + zero_loss(scores.quality_logit)
            losses["quality"] = c.quality * missed / count_over_ranks(len(found), found)
        return losses

    def _label(self, truth: CellTruth, good: Float[Tensor, " p"]) -> Float[Tensor, "b h w"]:
        """What the score map learns."""
        kind = self.config.instance.label
        if kind == "gaussian":
            return gaussian_label(truth, self.config.instance.gaussian_sigma)
        label = good.new_zeros(truth.owners.shape)
        picture, line, column, _ = truth.cells.unbind(1)
        label[picture, line, column] = good if kind == "cir" else torch.ones_like(good)
        return label

    @torch.no_grad()
    def predict(self, batch: Batch, ask: Ask = Ask()) -> list[Picture]:
        """People of every picture, best first, in pixels of the picture, with joints and the hull
        of these as box.

        At most `PixelWiseConfig.num_persons` of each, or `ask.max_persons`. An output that the
        model lacks raises ConfigError.
        """
        unknown = sorted((ask.outputs or frozenset()) - set(self.outputs))
        if unknown:
            raise ConfigError(
                f"this model gives no {unknown[0]!r}.{nearest(unknown[0], self.outputs)}"
            )
        most = self.config.num_persons if ask.max_persons is None else ask.max_persons
        if not most:
            return [Picture(Persons.empty(meta.image_size, self.skeleton)) for meta in batch.metas]
        found = self._found(batch, ask.score)
        people = decode(
            {name: value for name, value in found.items() if name != "queries"},
            batch.metas,
            tuple(batch.images.shape[-2:]),
            skeleton=self.skeleton,
            ask=replace(ask, max_persons=None),
        )
        return [
            Picture(self._asked(unique(found, self.config.pose_nms, self.sigmas), ask, most))
            for found in people
        ]

    def _found(self, batch: Batch, score: float) -> dict[str, Tensor]:
        """Candidates of all scales, best first, in px of the canvas."""
        looks = [self._look(batch, scale, score) for scale in self.config.scales]
        if len(looks) == 1:
            return looks[0]
        joined = {name: torch.cat([look[name] for look in looks], 1) for name in ROWS}
        order = joined["scores"].argsort(dim=1, descending=True, stable=True)
        rows = torch.arange(len(order), device=order.device)[:, None]
        return {name: value[rows, order] for name, value in joined.items()}

    def _look(self, batch: Batch, scale: float, score: float) -> dict[str, Tensor]:
        images, padding, size = batch.images, batch.padding, batch.images.shape[-2:]
        if scale != 1:
            other = tuple(max(1, round(side * scale / CANVAS_STEP)) * CANVAS_STEP for side in size)
            images = F.interpolate(
                images, size=other, mode="bilinear", align_corners=False, antialias=scale < 1
            )
            padding = F.interpolate(padding[:, None].float(), size=other, mode="nearest")[:, 0] > 0
        seen = self.encode_images(images, padding)
        maps = self.read_queries(seen, {})
        found = self.found_people(seen, {}, maps, score, self.config.num_queries)
        if scale == 1:
            return found
        back = constants([size[1] / images.shape[-1], size[0] / images.shape[-2]], images)
        found["scores"] = found["scores"] * self.config.scale_decay
        found["keypoints"] = found["keypoints"] * back
        found["boxes"] = found["boxes"] * torch.cat([back, back])
        return found

    def found_people(
        self,
        encoded: Seen,
        prepared: dict[str, Any],
        outputs: PoseMaps,
        score: Float[Tensor, ""] | float | int,
        most: int,
    ) -> dict[str, Float[Tensor, "b k ..."] | Int[Tensor, "b _"]]:
        """`scores`, `keypoints` and `boxes` (px of the canvas) of the cells that become poses, best
        first, and `queries`: the number of each cell, line by line. As many as the fullest picture
        has with at least `score`, at most `most`."""
        _, height, width = outputs.scores.shape
        best = highest(outputs.scores, self.config.nms_kernel).flatten(1).topk(most)
        count = how_many(best.values, score)
        scores, cells = best.values[:, :count], best.indices[:, :count]
        every = outputs.displacements.flatten(1, 2)
        picked = every.gather(1, cells[..., None, None].expand(-1, -1, *every.shape[2:]))
        places = cell_places(height, width, picked).flatten(0, 1)[cells]
        joints = to_pixels(places[:, :, None] + picked)
        return {
            "scores": scores,
            "boxes": hulls(joints, self.config.box_margin),
            "keypoints": joints,
            "queries": cells,
            # every cell may become a pose: no token is chosen before
            "tokens": torch.zeros_like(cells[:, :1]),
        }

    def _asked(self, found: Persons, ask: Ask, most: int) -> Persons:
        found = found[:most]
        if ask.wants("keypoints"):
            return found
        return found.replace(keypoints=None, keypoint_scores=None)


ROWS = ("scores", "keypoints", "boxes")
"""tensors of `PixelWise.found_people` with a row for each person"""


def cell_padding(padding: Bool[Tensor, "b h w"]) -> Bool[Tensor, "b H W"]:
    """Cells whose centre is outside of the picture."""
    return padding[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
