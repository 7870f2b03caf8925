"""Crops in, poses out: the networks of this folder as a system that trains and predicts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from humanquery.core.affine import Size
from humanquery.core.batch import Batch, Meta, Sample
from humanquery.core.crops import crop_matrix
from humanquery.core.fields import FieldSpec
from humanquery.core.persons import Persons
from humanquery.core.pose_nms import WHOLE_BODY, JointWeights, PoseNMSConfig, pose_nms
from humanquery.core.skeleton import Skeleton
from humanquery.core.system import Ask, Picture
from humanquery.losses.heatmaps import coordinate_error, gaussian_maps, heatmap_error
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models.topdown.config import TopDownConfig
from humanquery.models.topdown.networks import STRIDE, build_network
from humanquery.models.topdown.tinypose import start_from_tinypose
from humanquery.nn.integral import flip_test, heatmap_joints, integral_joints
from humanquery.tasks.base import count_over_ranks


@dataclass(frozen=True, eq=False)
class CropBatch(Batch):
    """A batch whose rows are crops of people."""

    owners: Int[Tensor, "b 2"] = None
    """picture and person of each crop, counted from 0"""
    boxes: Float[Tensor, "b 4"] = None
    """the person's box, xyxy px of the picture"""
    scores: Float[Tensor, " b"] = None
    """of the box, 0..1"""
    picture_sizes: tuple[Size, ...] = ()
    """(height, width) of every picture, also of those without people"""


def cut_crops(
    pictures: Sequence[UInt8[np.ndarray, "h w 3"]],
    people: Sequence[Persons],
    config: TopDownConfig,
) -> CropBatch:
    """The people of each picture cut out by their boxes; pictures without people have no crop.

    A box that is not finite or has no area raises AnnotationError.
    """
    samples, owners = [], []
    for i, (picture, found) in enumerate(zip(pictures, people, strict=True)):
        for j, box in enumerate(found.boxes.tolist()):
            matrix = crop_matrix(box, config.input_size, config.padding)
            image = matrix.image(picture, config.input_size)
            samples.append(Sample(image, Meta(picture.shape[:2], config.input_size, matrix)))
            owners.append((i, j))
    height, width = config.input_size
    crops = (
        Batch.collate(samples)
        if samples
        else Batch(
            torch.zeros(0, 3, height, width), torch.zeros(0, height, width, dtype=torch.bool), []
        )
    )
    return CropBatch(
        crops.images,
        crops.padding,
        crops.metas,
        owners=torch.tensor(owners, dtype=torch.long).reshape(-1, 2),
        boxes=torch.cat([p.boxes.float().cpu() for p in people]) if people else torch.zeros(0, 4),
        scores=torch.cat([p.scores.float().cpu() for p in people]) if people else torch.zeros(0),
        picture_sizes=tuple(picture.shape[:2] for picture in pictures),
    )


class TopDown(nn.Module):
    """Joints of people in crops; people are found by another system.

    Joints go by heat maps or by SIKR (`TopDownConfig.joints_by`), combined: SIKR for face and
    hands.
    """

    loss_names = ("heatmap", "coordinates")

    def __init__(self, config: TopDownConfig):
        super().__init__()
        self.config = config
        self.skeleton = Skeleton.named(config.skeleton)
        self.network = build_network(config.network, len(self.skeleton))
        if first := getattr(config.network, "weights", ""):  # of TinyPose; others begin fresh
            start_from_tinypose(self.network, self.skeleton, first)
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        fine = _fine_joints(self.skeleton)
        integral = {
            "heatmap": torch.zeros_like(fine),
            "integral": torch.ones_like(fine),
            "combined": fine,
        }[config.joints_by]
        self.register_buffer("integral", integral, persistent=False)
        # as released: bodies weigh more only where they share the loss with finer parts
        weigh = config.joints_by == "integral" and bool(fine.any())
        weights = torch.where(fine, 1.0, config.body_weight if weigh else 1.0)
        self.register_buffer("joint_weights", weights, persistent=False)

    @property
    def input(self) -> LetterboxConfig:
        """People are cut out of whatever canvas they are on."""
        return LetterboxConfig()

    @property
    def outputs(self) -> dict[str, FieldSpec]:
        names = ("keypoints", "keypoint_scores", "pose_scores")
        return {name: Persons.specs()[name] for name in names}

    @property
    def input_size(self) -> Size:
        """(height, width) of a crop, px."""
        return self.config.input_size

    def maps(self, crops: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k H W"]:
        """Raw maps of RGB crops in 0..1."""
        return self.network(crops - self.mean)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """`heatmap`: half the mean square error of the heat maps; `coordinates`: L1 of the joints
        read
        by integration, summed per crop (eq. 2). Both are means over the crops of all ranks.

        Every row of the batch is a crop with the target of its one person; ValueError otherwise.
        """
        return self.losses(self.maps(batch.images), batch)

    def losses(self, maps: Float[Tensor, "n k H W"], batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """What `forward` gives, from the raw maps of the crops."""
        joints, counted = self._truth(batch)
        maps = maps.float()
        size, coarse = maps.shape[-2:], ~self.integral
        heatmap = coordinates = maps.sum() * 0
        if coarse.any():
            targets, shown = gaussian_maps(
                joints[:, coarse], counted[:, coarse], tuple(size), STRIDE, self.config.sigma
            )
            cells = int(coarse.sum()) * size[0] * size[1]
            heatmap = heatmap + heatmap_error(maps[:, coarse], targets, shown) / cells
        if self.integral.any():
            read = integral_joints(maps[:, self.integral], self.config.integral)
            true = joints[:, self.integral] / joints.new_tensor(self.input_size[::-1]) - 0.5
            error = coordinate_error(
                read.unit, true, counted[:, self.integral], self.joint_weights[self.integral]
            )
            coordinates = coordinates + error
        crops = count_over_ranks(len(batch), maps)
        return {
            "heatmap": self.config.heatmap_loss * heatmap / crops,
            "coordinates": self.config.coordinate_loss * coordinates / crops,
        }

    def _truth(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Joints in counts of the crop's pixels (half less than ours), and which are labelled."""
        targets = batch.targets
        if targets is None or any(len(t) != 1 or t.keypoints is None for t in targets):
            raise ValueError(
                "TopDown: training needs crops with the joints of one person each; "
                "make them with data.augment.topdown.person_sample"
            )
        wrong = next((t for t in targets if t.skeleton != self.skeleton), None)
        if wrong is not None:
            raise ValueError(
                f"TopDown: a crop has joints of {wrong.skeleton.name!r}, the system learns "
                f"{self.skeleton.name!r}; convert them with core.skeleton.convert_joints"
            )
        device = batch.images.device
        joints = torch.cat([t.keypoints.value for t in targets]).to(device) - 0.5
        return joints, torch.cat([t.counted_joints for t in targets]).to(device)

    @torch.inference_mode()
    def predict(self, batch: Batch, ask: Ask = Ask()) -> list[Picture]:
        """The people of every picture with their joints, in px of the picture, best box first.

        Anything but a `CropBatch` raises ValueError: people are not looked for.
        """
        if not isinstance(batch, CropBatch):
            raise ValueError(
                "TopDown reads joints in crops of people whom another system found; "
                "cut them out with models.topdown.system.cut_crops"
            )
        joints, scores = self.read(batch.images)
        return self.poses(batch, joints, scores, ask)

    def poses(
        self,
        batch: CropBatch,
        joints: Float[Tensor, "n k 2"],
        scores: Float[Tensor, "n k"],
        ask: Ask = Ask(),
    ) -> list[Picture]:
        """What `predict` makes of what `read` gave for these crops: one pose per person, in px of
        the picture."""
        to_picture = [meta.to_canvas.inverse() for meta in batch.metas]
        joints = [m.points(j) for m, j in zip(to_picture, joints.cpu(), strict=True)]
        scores = scores.cpu().clamp(0, 1)
        pictures = []
        for i, size in enumerate(batch.picture_sizes):
            rows = (batch.owners[:, 0].cpu() == i).nonzero()[:, 0]
            rows = rows[batch.scores[rows] >= ask.score]
            if not len(rows):
                pictures.append(Picture(Persons.empty(tuple(size), self.skeleton)))
                continue
            found = Persons(
                image_size=tuple(size),
                boxes=batch.boxes[rows],
                scores=batch.scores[rows],
                keypoints=torch.stack([joints[row] for row in rows.tolist()]),
                keypoint_scores=scores[rows],
                skeleton=self.skeleton,
            )
            pictures.append(Picture(self._asked(self._unique(found), ask)))
        return pictures

    def read(
        self, crops: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, "n k 2"], Float[Tensor, "n k"]]:
        """Joints in px of the crops and their raw scores."""
        normed = crops - self.mean
        if self.config.flip_test:
            maps = flip_test(self.network, normed, self.skeleton.mirror_order).float()
        else:
            maps = self.network(normed).float()
        joints, scores = maps.new_zeros(*maps.shape[:2], 2), maps.new_zeros(maps.shape[:2])
        coarse = ~self.integral
        joints[:, coarse], scores[:, coarse] = heatmap_joints(maps[:, coarse])
        if self.integral.any():
            read = integral_joints(maps[:, self.integral], self.config.integral)
            joints[:, self.integral] = read.cells(*maps.shape[-2:])
            scores[:, self.integral] = read.scores
        return joints * STRIDE + 0.5, scores

    @property
    def pose_nms(self) -> PoseNMSConfig:
        """When two poses are one person."""
        if self.config.pose_nms is not None:
            return self.config.pose_nms
        regressed = self._is_whole and self.config.joints_by != "heatmap"
        return WHOLE_BODY if regressed else PoseNMSConfig()

    @property
    def _is_whole(self) -> bool:
        return {"face", "lefthand", "righthand"} <= set(self.skeleton.parts)

    def _unique(self, found: Persons) -> Persons:
        if not self.config.nms:
            return found
        joined = pose_nms(
            found.keypoints,
            found.keypoint_scores,
            found.boxes,
            self.pose_nms,
            JointWeights.whole_body(self.skeleton) if self._is_whole else None,
        )
        return joined.people(found)

    def _asked(self, found: Persons, ask: Ask) -> Persons:
        found = found[found.scores.argsort(descending=True, stable=True)[: ask.max_persons]]
        counted = found.keypoint_scores > 0.2
        mean = torch.where(counted, found.keypoint_scores, 0.0).sum(1) / counted.sum(1).clamp(min=1)
        found = found.replace(pose_scores=found.scores * mean)
        unasked = {name: None for name in self.outputs if not ask.wants(name)}
        return found.replace(**unasked)


def _fine_joints(skeleton: Skeleton) -> Tensor:
    """Those of face and hands."""
    fine = torch.zeros(len(skeleton), dtype=torch.bool)
    for part in ("face", "lefthand", "righthand"):
        if part in skeleton.parts:
            fine[slice(*skeleton.parts[part])] = True
    return fine
