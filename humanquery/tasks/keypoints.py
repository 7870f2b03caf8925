"""Where the joints are."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from humanquery.core.oks import joint_similarity, oks
from humanquery.losses.people import oks_loss
from humanquery.losses.shapes import l1
from humanquery.nn.transformer import MLP
from humanquery.tasks.base import (
    PROPOSALS,
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
    mean_over_known,
    zero_init,
    zero_loss,
)
from humanquery.tasks.keypoint_heatmap import HeatmapConfig, KeypointHeatmap
from humanquery.tasks.keypoint_refinement import KeypointRefinement, RefinementConfig


@dataclass(frozen=True)
class KeypointsConfig:
    """Weights of the released HQNet."""

    l1: float = 50.0
    oks: float = 1.5
    cost_l1: float = 50.0
    cost_oks: float = 1.5
    refine_l1: float = 60.0
    refine_oks: float = 2.0
    oks_form: Literal["log", "linear"] = "log"
    """of the losses: -log OKS as released, or 1 - OKS, which is bounded: people whose joints
    cannot be found do not dominate the rest"""
    score: float = 1.0
    """weight of the loss of the joints' scores, where `RefinementConfig.scores` asks for them"""
    hidden: int = 512
    in_boxes: bool = False
    """joint = centre + offset × sides of the reference box, instead of the released form: a pose
    then need not be learned anew for every size, which a short training notices"""
    refinement: RefinementConfig | None = field(default_factory=RefinementConfig)
    heatmap: HeatmapConfig | None = field(default_factory=HeatmapConfig)


@dataclass(frozen=True, eq=False)
class KeypointsPrediction:
    joints_unit: Float[Tensor, "b q k 2"]
    """of the valid canvas (0..1, beyond it only with `KeypointsConfig.in_boxes`), before refinement
    """
    stage: int
    sides_unit: Float[Tensor, "b q 2"]
    """of the reference boxes"""
    queries: Float[Tensor, "b q c"]
    scores: Float[Tensor, "b q k"] | None = None
    """of the reference joints, 0..1; None where there are none"""


class KeypointsTask(Task):
    """joint = sigmoid(offset + logit of the reference box's centre), or see
    `KeypointsConfig.in_boxes`; with reference joints, reference joint + offset × sides of the
    reference box. Then the joint decoder on the kept persons."""

    name = "keypoints"
    config_type = KeypointsConfig
    result = "keypoints"
    needs = ("keypoint_confidence",)
    loss_names = ("keypoint_l1", "keypoint_oks")

    def __init__(self, config: KeypointsConfig, sizes: TaskSizes):
        super().__init__()
        self.config = config
        self.num_joints = len(sizes.skeleton)
        self.register_buffer("sigmas", torch.tensor(sizes.skeleton.sigmas), persistent=False)
        hidden = [config.hidden] * 3
        self.heads = copies(
            lambda: zero_init(MLP(sizes.dim, *hidden, 2 * self.num_joints)), sizes.stages
        )
        self.refinement = (
            KeypointRefinement(config.refinement, sizes) if config.refinement else None
        )
        self.heatmap = KeypointHeatmap(config.heatmap, sizes) if config.heatmap else None

    def read(
        self,
        stage: int,
        queries: Tensor,
        reference: Reference,
        prepared: Any,
    ) -> KeypointsPrediction:
        offsets = self.heads[stage](queries).unflatten(-1, (self.num_joints, 2))
        center, sides = reference.box_logit.float().sigmoid().split(2, -1)
        start = reference.joints_unit
        if start is not None or self.config.in_boxes:
            start = center[..., None, :] if start is None else start
            joints = start + offsets.float() * sides[..., None, :]
        else:
            joints = (offsets + reference.box_logit[..., None, :2]).float().sigmoid()
        return KeypointsPrediction(joints, stage, sides, queries, reference.joint_scores)

    def costs(
        self, prediction: KeypointsPrediction, truths: Truths, draws: Draws, tag: str
    ) -> Tensor | None:
        target = truths.target
        if target.keypoints is None:
            return None
        found, sides = prediction.joints_unit[truths.pictures], truths.sides[:, None, None]
        true, counts = target.keypoints.value[:, None], target.counted_joints[:, None]
        apart = torch.where(counts, l1(found, true / sides).sum(-1), 0.0).sum(-1)
        apart = apart / (2 * counts.sum(-1)).clamp(min=1)
        alike = oks(
            found * sides, true, target.areas[:, None], self.sigmas, counts, max_exponent=100.0
        )
        unlike = torch.where(counts.any(-1), oks_loss(alike), 0.0)
        return self.config.cost_l1 * apart + self.config.cost_oks * unlike

    def losses(
        self,
        prediction: KeypointsPrediction,
        matches: Matches,
        truths: Truths,
        draws: Draws,
        tag: str,
    ) -> dict[str, Tensor]:
        found = matches.predicted(prediction.joints_unit)
        losses = self._losses(found, matches, truths, self.config.l1, self.config.oks)
        if prediction.stage == PROPOSALS:  # the release computes OKS there and drops it
            del losses["oks"]
        return {f"keypoint_{name}": loss for name, loss in losses.items()}

    def _losses(
        self, found: Tensor, matches: Matches, truths: Truths, l1_weight: float, oks_weight: float
    ) -> dict[str, Tensor]:
        """L1 over counted coordinates, and the loss of OKS (`KeypointsConfig.oks_form`) over people
        that have any."""
        target, rows = truths.target, truths.rows(matches)
        if target.keypoints is None:
            return {name: zero_loss(found) / count_over_ranks(0, found) for name in ("l1", "oks")}
        true, counts, sides = (
            target.keypoints.value[rows],
            target.counted_joints[rows],
            truths.sides[rows][:, None],
        )
        apart = torch.where(counts[..., None], l1(found, true / sides), 0.0)
        alike = oks(found * sides, true, target.areas[rows], self.sigmas, counts)
        unlike = oks_loss(alike) if self.config.oks_form == "log" else 1 - alike
        return {
            "l1": l1_weight * apart.sum() / count_over_ranks(2 * counts.sum(), found),
            "oks": oks_weight * mean_over_known(unlike, counts.any(-1)),
        }

    def final_loss_names(self) -> tuple[str, ...]:
        names = ["keypoint_heatmap"] if self.heatmap is not None else []
        if self.refinement is not None:
            for layer in range(len(self.refinement.layers)):
                names += [f"refine{layer}_keypoint_l1", f"refine{layer}_keypoint_oks"]
            names += ["keypoint_score"] if self.refinement.scores is not None else []
        return tuple(names)

    def finish(
        self,
        prediction: KeypointsPrediction,
        matches: Matches,
        truths: Truths,
        encoded: Encoded,
        prepared: Any,
    ) -> dict[str, Tensor]:
        losses = {}
        if self.heatmap is not None:
            losses |= self.heatmap.loss(self.heatmap(encoded), truths, encoded)
        if self.refinement is not None:
            losses |= self._refine_losses(prediction, matches, truths, encoded)
        return losses

    def _refine_losses(
        self, prediction: KeypointsPrediction, matches: Matches, truths: Truths, encoded: Encoded
    ) -> dict[str, Tensor]:
        """The joint decoder runs on matched people with a labelled joint only."""
        people = truths.host
        labelled = (
            people.ignore & False if people.keypoints is None else people.counted_joints.any(-1)
        )
        shown = truths.matches_of(labelled, matches)
        # people of a picture side by side; empty places hold the first query and are never read
        place, width = shown.side_by_side()
        queries = torch.zeros(len(truths.counts), width, dtype=torch.long, device=place.device)
        queries[shown.pictures, place] = shown.queries
        start = prediction.joints_unit.gather(
            1, queries[..., None, None].expand(-1, -1, self.num_joints, 2)
        )
        sides = prediction.sides_unit.gather(1, queries[..., None].expand(-1, -1, 2))
        persons = prediction.queries.gather(
            1, queries[..., None].expand(-1, -1, prediction.queries.shape[-1])
        )
        points, states = self.refinement(start, encoded, sides, persons)
        losses = {}
        for layer, joints in enumerate(points):
            found = joints[shown.pictures, place]
            parts = self._losses(
                found, shown, truths, self.config.refine_l1, self.config.refine_oks
            )
            losses |= {f"refine{layer}_keypoint_{name}": loss for name, loss in parts.items()}
        if self.refinement.scores is not None:
            logits = self.refinement.scores(states[-1]).squeeze(-1)[shown.pictures, place]
            losses["keypoint_score"] = self._score_loss(
                logits, points[-1][shown.pictures, place], shown, truths
            )
        return losses

    def _score_loss(self, logits: Tensor, found: Tensor, shown: Matches, truths: Truths) -> Tensor:
        """Cross-entropy with the joints' present parts of OKS; the target is 0 for joints that are
        not labelled."""
        count = count_over_ranks(len(shown), logits)
        if not len(shown):
            return zero_loss(logits) / count
        target, rows = truths.target, truths.rows(shown)
        sides = truths.sides[rows][:, None]
        near = joint_similarity(
            found.detach() * sides, target.keypoints.value[rows], target.areas[rows], self.sigmas
        )
        expected = torch.where(target.counted_joints[rows], near, 0.0)
        each = F.binary_cross_entropy_with_logits(
            logits.float(), expected.float(), reduction="none"
        )
        return self.config.score * each.mean(1).sum() / count

    def tensors(
        self, prediction: KeypointsPrediction, chosen: Tensor, encoded: Encoded, prepared: Any
    ) -> dict[str, Tensor]:
        joints = at_queries(prediction.joints_unit, chosen)
        scores = None if prediction.scores is None else at_queries(prediction.scores, chosen)
        if self.refinement is not None:
            sides, persons = (
                at_queries(prediction.sides_unit, chosen),
                at_queries(prediction.queries, chosen),
            )
            points, states = self.refinement(joints, encoded, sides, persons)
            joints = points[-1]
            if self.refinement.scores is not None:
                scores = self.refinement.scores(states[-1]).squeeze(-1).float().sigmoid()
        limits = encoded.sides()[:, None, None]
        found = {"keypoints": (joints * limits).clamp(min=0).minimum(limits)}
        return found if scores is None else {**found, "keypoint_scores": scores}
