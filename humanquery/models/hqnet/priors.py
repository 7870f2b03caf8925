"""What HQNet takes over from networks that were trained on people before it (`experts/`): where its
queries start, and what kept people get late. The HQNet of the paper has none of this."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from humanquery.core.boxes import cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh
from humanquery.core.errors import ConfigError
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.experts.answers import DenseBoxes, joint_features_width
from humanquery.models.hqnet.config import HQNetConfig
from humanquery.models.hqnet.joint_layouts import JointsByName
from humanquery.models.hqnet.trunk import Selected, gather_rows, top_tokens
from humanquery.nn.transformer import MLP
from humanquery.tasks.base import PROPOSALS, Encoded, JointFeatures, Reference, Task, add_logits

NO_PERSON = -8.0
"""reference logit of tokens to which the detector gives none: its levels do not cover them, or they
are padding. Small enough to be chosen last, large enough for a head to correct"""
CHAIN = 12
"""longest chain of boxes that are suppressed and freed one by another that `distinct_tokens`
resolves exactly"""


class Priors(nn.Module):
    """Reference boxes, joints and logits from a backbone that is an `experts.answers.Expert`.

    `HQNetConfig.priors` names what is taken over: "person": the expert's boxes are the proposals
    and its logits are corrected; "keypoints": its joints in the proposed boxes are, and the joint
    decoder gets features around them; any other name ("gender", "age" ...) is an attribute: its
    logits are, for kept people only, since an attribute network costs time for everybody it looks
    at.
    """

    def __init__(self, config: HQNetConfig, answers_about: tuple[str, ...], skeleton: Skeleton):
        """`answers_about`: of the backbone (`Expert.answers_about`). A name it lacks raises
        ConfigError."""
        super().__init__()
        lacking = [name for name in config.priors if name not in answers_about]
        if lacking:
            raise ConfigError(
                f"model.priors names {', '.join(lacking)}, but the backbone answers about "
                f"{', '.join(answers_about) or 'nothing (features only)'}; take them out or choose "
                "a backbone that was trained on people (RtmdetBackbone, MoveNetBackbone with "
                "heads, StackedBackbone)"
            )
        self.names = config.priors
        self.num_queries, self.distinct_iou = config.num_queries, config.distinct_iou
        self.by_name = JointsByName(COCO17, skeleton)  # experts know COCO's joints
        joints = len(COCO17)
        self.joint_features = joint_features_width(joints) if "keypoints" in self.names else 0
        """width of `features_around`"""
        self.attributes = tuple(n for n in self.names if n not in ("person", "keypoints"))
        self.attributes_learn = any(_learns(config, name) for name in self.attributes)
        if "keypoints" in self.names:
            dim = config.transformer.dim
            self.pose_content = MLP(3 * joints, dim, dim)

    def features_around(self, encoded: Encoded) -> JointFeatures | None:
        """What the joint decoder may ask about places (`Encoded.joint_features`)."""
        if "keypoints" not in self.names:
            return None
        return self.by_name.features(encoded.answers.poses.around)

    def propose(
        self,
        features: Float[Tensor, "b s c"],
        proposals_logit: Float[Tensor, "b s 4"],
        encoded: Encoded,
        person: Task,
    ) -> Selected:
        """Queries from the detector's boxes in place of the tokens' own, on the levels that it
        covers; of boxes that overlap only the best becomes a query (Zhang et al., Dense Distinct
        Query, CVPR 2023).

        `proposals_logit` as `QuerySelection` gives it: not finite where a token may not propose.
        """
        if "person" not in self.names:
            return Selected.best(features, proposals_logit, person, self.num_queries)
        dense: DenseBoxes = encoded.answers.boxes
        covered = dense.logits.shape[1]
        usable = proposals_logit.isfinite().all(-1)
        unit = _on_canvas(dense.boxes, encoded)
        boxes_logit = torch.log(unit / (1 - unit)).masked_fill(
            ~usable[:, :covered, None], float("inf")
        )
        boxes_logit = torch.cat([boxes_logit, proposals_logit[:, covered:]], 1)
        start = F.pad(dense.logits.float(), (0, features.shape[1] - covered), value=NO_PERSON)
        start = start.masked_fill(encoded.padding, NO_PERSON)
        reference = Reference(boxes_logit, logits={"person": start})
        logits = person.read(PROPOSALS, features, reference, None).logit
        tokens, doubled = distinct_tokens(
            logits.detach().masked_fill(~usable, NO_PERSON),
            boxes_logit.detach().float().sigmoid(),
            self.num_queries,
            self.distinct_iou,
        )
        # a second box on somebody may stay where queries are left over, but starts out unlikely
        start = start.gather(1, tokens).clamp(min=NO_PERSON) + NO_PERSON / 2 * doubled
        boxes_logit = gather_rows(boxes_logit, tokens)
        return Selected(
            tokens,
            gather_rows(features, tokens),
            # a token that may not propose gets a box in the middle: infinities would become NaN
            boxes_logit.masked_fill(~boxes_logit.isfinite(), 0.0),
            {"person": start},
        )

    def start(
        self,
        selected: Selected,
        boxes_unit: Float[Tensor, "b q 4"],
        content: Float[Tensor, "b q c"],
        encoded: Encoded,
        *,
        training: bool,
    ) -> tuple[Reference, Float[Tensor, "b q c"]]:
        """What all stages correct, and the content that the queries start with, for the boxes
        (cxcywh of the valid canvas) of the selected tokens.

        Gender and age are asked about here only where heads learn to correct them (`training`):
        elsewhere `annotate` asks, about fewer people.
        """
        boxes, logits = _canvas_boxes(boxes_unit, encoded), dict(selected.logits)
        if training and self.attributes_learn:
            logits |= self._attributes(encoded, boxes)
        content = content + selected.features.detach()
        if "keypoints" not in self.names:
            return Reference(selected.box_logit, logits=logits), content
        with torch.no_grad():
            joints, scores = encoded.answers.poses.in_boxes(boxes)
            joints = joints / encoded.sides()[:, None, None]
        pose = _pose_in_box(joints, scores, boxes_unit)
        content = content + self.pose_content(pose.to(content))
        joints, scores = self.by_name.references(joints, scores, boxes_unit)
        return Reference(selected.box_logit, joints, scores, logits), content

    def annotate(
        self, predictions: Mapping[str, Any], encoded: Encoded, chosen: Int[Tensor, "b k"]
    ) -> dict[str, Any]:
        """The last layer's predictions, with the attribute network's logits added for the chosen
        queries, read in their final boxes."""
        names = self.late(predictions)
        if not names or chosen.shape[1] == 0:
            return dict(predictions)
        boxes = gather_rows(predictions["box"].boxes_unit, chosen)
        found = self._attributes(encoded, _canvas_boxes(boxes, encoded))
        late = {name: add_logits(predictions[name], chosen, found[name]) for name in names}
        return {**predictions, **late}

    def late(self, predictions: Mapping[str, Any]) -> list[str]:
        """Of the predicted tasks those that `annotate` completes."""
        return [name for name in self.attributes if name in predictions]

    def _attributes(self, encoded: Encoded, boxes: Float[Tensor, "b n 4"]) -> dict[str, Tensor]:
        """Logits of the attributes that are taken over, for boxes xyxy px."""
        if not self.attributes:
            return {}
        found = encoded.answers.attributes.in_boxes(boxes)
        return {name: found[name] for name in self.attributes}


def _learns(config: HQNetConfig, name: str) -> bool:
    """Whether an attribute's loss is not switched off; of a task of one's own nobody can tell."""
    if not hasattr(config.tasks, name):
        return True
    task = getattr(config.tasks, name)
    return task is not None and task.loss > 0


def distinct_tokens(
    logits: Float[Tensor, "b s"], boxes: Float[Tensor, "b s 4"], count: int, iou_above: float
) -> tuple[Int[Tensor, "b k"], Bool[Tensor, "b k"]]:
    """The best tokens of which none overlaps a better one by more than `iou_above` (cxcywh boxes,
    non-maximum suppression), best first, then suppressed ones while places are left; and which were
    suppressed.

    Looks at the 4 · count best tokens. Only tensor operations, whatever the pictures: suppression
    is repeated until nothing can change (Cluster-NMS, Zheng et al. 2021).
    """
    best = top_tokens(logits, 4 * count)
    ranked = cxcywh_to_xyxy(gather_rows(boxes, best))
    overlaps = (pairwise_iou(ranked.float()) > iou_above).triu(1)
    kept = torch.ones_like(best, dtype=torch.bool)
    for _ in range(CHAIN):
        kept = ~(overlaps & kept[:, :, None]).any(1)
    places = torch.arange(best.shape[1], device=best.device) + 4 * count * ~kept
    order = places.topk(min(count, best.shape[1]), dim=1, largest=False, sorted=True).indices
    return best.gather(1, order), ~kept.gather(1, order)


def _on_canvas(boxes: Float[Tensor, "b s 4"], encoded: Encoded) -> Float[Tensor, "b s 4"]:
    """xyxy px to cxcywh of the valid canvas, cut at its edges; no number nearer than 1e-3 to 0 or
    1, whose logits would be infinite."""
    sides = encoded.sides().repeat(1, 2)[:, None]
    return xyxy_to_cxcywh((boxes.float() / sides).clamp(0, 1)).clamp(1e-3, 1 - 1e-3)


def _canvas_boxes(boxes_unit: Float[Tensor, "b n 4"], encoded: Encoded) -> Float[Tensor, "b n 4"]:
    """cxcywh of the valid canvas to xyxy px, in float32 and without a gradient."""
    return cxcywh_to_xyxy(
        boxes_unit.detach().float() * encoded.sides().float().repeat(1, 2)[:, None]
    )


def _pose_in_box(
    joints_unit: Float[Tensor, "b q k 2"],
    scores: Float[Tensor, "b q k"],
    boxes_unit: Float[Tensor, "b q 4"],
) -> Float[Tensor, "b q n"]:
    """Joints from the box's centre in its sides, cut at 2, and their scores: a pose looks the same
    wherever and however large the person is."""
    center, sides = boxes_unit[:, :, None].split(2, -1)
    places = ((joints_unit - center) / sides.clamp(min=1e-4)).clamp(-2, 2)
    return torch.cat([places, scores[..., None]], -1).flatten(2)
