"""From score maps to people: candidates, their boxes, and poses of the same person joined."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from humanquery.core.boxes import BODY_SHARE, areas
from humanquery.core.persons import Persons
from humanquery.core.pose_nms import PoseNMSConfig, oks_nms, pose_nms
from humanquery.models.pixelwise.config import OksNMSConfig


def highest(scores: Float[Tensor, "b h w"], kernel: int) -> Float[Tensor, "b h w"]:
    """Scores that are the highest of their square of `kernel` cells, 0 elsewhere."""
    around = F.max_pool2d(scores[:, None], kernel, 1, kernel // 2)[:, 0]
    return torch.where(scores == around, scores, 0.0)


def hulls(joints: Float[Tensor, "*n k 2"], margin: float) -> Float[Tensor, "*n 4"]:
    """xyxy of the joints of each pose, wider by `margin` of its sides on each side."""
    low, high = joints.amin(-2), joints.amax(-2)
    more = (high - low) * margin
    return torch.cat([low - more, high + more], -1)


def unique(
    found: Persons, config: OksNMSConfig | PoseNMSConfig | None, sigmas: Float[Tensor, " k"]
) -> Persons:
    """One pose of each person, best first; everybody where `config` is None."""
    if config is None or not len(found):
        return found
    return JOINED_BY[type(config)](found, config, sigmas)


def _by_oks(found: Persons, config: OksNMSConfig, sigmas: Tensor) -> Persons:
    sizes = areas(found.boxes) * BODY_SHARE
    kept = oks_nms(found.keypoints, found.scores, sizes, sigmas, config.threshold)
    return found[kept.to(found.scores.device)]


def _by_criterion(found: Persons, config: PoseNMSConfig, sigmas: Tensor) -> Persons:
    joined = pose_nms(found.keypoints, found.keypoint_scores, found.boxes, config)
    return joined.people(found)


JOINED_BY: dict[type, Callable[..., Persons]] = {
    OksNMSConfig: _by_oks,
    PoseNMSConfig: _by_criterion,
}
"""type of a config -> how poses of the same person are joined"""
