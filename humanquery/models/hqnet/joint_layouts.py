"""Joints of one layout from those of another, by name: an expert's in a model with joints of its
own, and a trained model's weights in one that is fine-tuned on other joints."""

import re
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from humanquery.core.skeleton import Skeleton
from humanquery.experts.answers import WINDOW
from humanquery.tasks.base import JointFeatures


class JointsByName:
    """From an expert's joints to a model's. Joints that the expert does not know start at the
    middle of the person's box, unsure (score 0)."""

    def __init__(self, expert: Skeleton, own: Skeleton):
        self.num_expert, self.num_own = len(expert), len(own)
        pairs = [
            (own.index(name), expert.index(name)) for name in own.joints if name in expert.joints
        ]
        self.to, self.source = [a for a, _ in pairs], [b for _, b in pairs]
        self.unknown = [k for k in range(len(own)) if k not in self.to]
        self.same = expert.joints == own.joints

    def references(
        self,
        joints_unit: Float[Tensor, "b q e 2"],
        scores: Float[Tensor, "b q e"],
        boxes_unit: Float[Tensor, "b q 4"],
    ) -> tuple[Float[Tensor, "b q k 2"], Float[Tensor, "b q k"]]:
        """Reference joints and their scores in the model's layout; boxes are cxcywh."""
        if self.same:
            return joints_unit, scores
        own = boxes_unit[:, :, None, :2].to(joints_unit).repeat(1, 1, self.num_own, 1)
        own[:, :, self.to] = joints_unit[:, :, self.source]
        sure = scores.new_zeros(*scores.shape[:2], self.num_own)
        sure[:, :, self.to] = scores[:, :, self.source]
        return own, sure

    def features(self, around: JointFeatures) -> JointFeatures:
        """`around`, which takes the expert's joints, for the model's. Of a joint that the expert
        does not know there is no map of its own: those features are 0."""
        if self.same:
            return around

        def own(joints: Tensor, sides: Tensor) -> Tensor:
            b, n, k, _ = joints.shape
            asked = joints.new_zeros(b, n, self.num_expert, 2)
            asked[:, :, self.source] = joints[:, :, self.to]
            known = around(asked, sides)
            features = known.new_zeros(b, n, k, known.shape[-1])
            features[:, :, self.to] = known[:, :, self.source]
            for joint in self.unknown:
                place = joints[:, :, joint : joint + 1].expand(-1, -1, self.num_expert, -1)
                features[:, :, joint] = around(place, sides)[:, :, 0]
                features[:, :, joint, : 2 * WINDOW**2] = 0
            return features

        return own


_HEAD = re.compile(r"tasks\.keypoints\.(heads|refinement\.joint_queries)\b")


def weights_by_joint(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], source: Skeleton, model: Skeleton
) -> dict[str, Tensor]:
    """Tensors of the keypoint heads in `model`'s layout: rows of joints that both layouts have from
    `given`, the others as in `own` (a fresh model's)."""
    if source.joints == model.joints:
        return {}
    pairs = [(model.index(j), source.index(j)) for j in model.joints if j in source.joints]
    found = {}
    for name, fresh in own.items():
        old = given.get(name)
        if old is None or not _HEAD.match(name) or old.shape == fresh.shape:
            continue
        rows = (len(fresh) // len(model), len(old) // len(source))
        if rows[0] != rows[1] or rows[0] * len(model) != len(fresh):
            continue
        tensor = fresh.clone().unflatten(0, (len(model), -1))
        per_joint = old.to(fresh.dtype).unflatten(0, (len(source), -1))
        if tensor.shape[1:] == per_joint.shape[1:]:
            for to, at in pairs:
                tensor[to] = per_joint[at]
            found[name] = tensor.flatten(0, 1)
    return found


def skeleton_of(name: "str | Skeleton | dict") -> Skeleton:
    """The layout of `HQNetConfig.skeleton`, as it is or as plain data."""
    if isinstance(name, dict):
        pairs = {key: tuple(map(tuple, name[key])) for key in ("pairs", "limbs")}
        return Skeleton(name["name"], tuple(name["joints"]), sigmas=tuple(name["sigmas"]), **pairs)
    return name if isinstance(name, Skeleton) else Skeleton.named(name)
