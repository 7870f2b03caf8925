"""HQNet (Jin et al., "You Only Learn One Query", ECCV 2024): one query per person, every task a
small head on it."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from humanquery.backbones.neck import ChannelMapper
from humanquery.backbones.sight import Sight
from humanquery.core.affine import Size
from humanquery.core.batch import Batch
from humanquery.core.boxes import cxcywh_to_xyxy
from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons
from humanquery.core.skeleton import Skeleton
from humanquery.core.transfer import to_device
from humanquery.experts import build as build_backbone
from humanquery.models.hqnet import criterion
from humanquery.models.hqnet.config import HQNetConfig
from humanquery.models.hqnet.criterion import Outputs, Predictions
from humanquery.models.hqnet.denoising import NoisedQueries, noised_queries
from humanquery.models.hqnet.trunk import (
    Decoder,
    Encoder,
    QuerySelection,
    distinct_tokens,
    gather_rows,
    top_tokens,
)
from humanquery.nn.encodings import inverse_sigmoid
from humanquery.nn.transformer import MLP
from humanquery.tasks.age import AgeTask
from humanquery.tasks.base import (
    NO_PRIOR,
    PROPOSALS,
    Draws,
    Encoded,
    Prior,
    Reading,
    Task,
    TaskSizes,
    Truth,
    Truths,
)
from humanquery.tasks.box import BoxTask
from humanquery.tasks.gender import GenderTask
from humanquery.tasks.keypoint_confidence import KeypointConfidenceTask
from humanquery.tasks.keypoints import KeypointsTask
from humanquery.tasks.mask import MaskTask
from humanquery.tasks.person import PersonTask

ATTRIBUTES = ("gender", "age")
NOBODY = -8.0
"""logit of a place of which the backbone's detector says nothing, or that is no part of the
picture
"""

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        PersonTask,
        BoxTask,
        KeypointsTask,
        KeypointConfidenceTask,
        MaskTask,
        GenderTask,
        AgeTask,
    )
}


class HQNet(nn.Module):
    """A `System`: losses from `forward`, people from `predict`.

    `backbone` may replace the one that the config names: a module that maps b×3×h×w to four
    feature maps of strides 4, 8, 16, 32 and tells `channels`, `mean` and `std`.
    """

    def __init__(self, config: HQNetConfig, backbone: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.skeleton = Skeleton.named(config.skeleton)
        t = config.transformer
        self.backbone = build_backbone(config.backbone) if backbone is None else backbone
        self.neck = ChannelMapper(
            tuple(self.backbone.channels),
            t.dim,
            groups=min(32, t.dim // 4),
            extra_levels=t.levels - 3,
        )
        self.encoder = Encoder(t)
        self.selection = QuerySelection(t.dim)
        self.content = nn.Embedding(config.num_queries, t.dim)
        self.decoder = Decoder(t)
        if config.denoising is not None:
            self.denoising_label = nn.Parameter(torch.randn(t.dim))
        self._check_priors()
        if "keypoints" in config.priors:
            self.pose_content = MLP(3 * len(self.skeleton), t.dim, t.dim)
        sizes = TaskSizes(
            t.dim, t.decoder_layers, t.heads, t.levels, t.points, self.skeleton, config.priors
        )
        named = {name: getattr(config.tasks, name) for name in TASKS}
        self.tasks = nn.ModuleDict(
            {n: TASKS[n](c, sizes) for n, c in named.items() if c is not None}
        )
        self.register_buffer(
            "mean", torch.tensor(self.backbone.mean).view(3, 1, 1), persistent=False
        )
        self.register_buffer("std", torch.tensor(self.backbone.std).view(3, 1, 1), persistent=False)
        self._reset_trunk()

    def _check_priors(self) -> None:
        lacks = [
            name for name in self.config.priors if name not in getattr(self.backbone, "gives", ())
        ]
        if lacks:
            raise ConfigError(
                f"model.priors names {', '.join(lacks)}, but the backbone gives "
                f"{', '.join(getattr(self.backbone, 'gives', ())) or 'features only'}; take them "
                f"out or choose a backbone "
                "that was trained on people (RtmdetBackbone, MoveNetBackbone with heads, "
                "StackedBackbone)"
            )
        keypoints = self.config.tasks.keypoints
        looks_again = (
            keypoints is not None
            and keypoints.refinement is not None
            and keypoints.refinement.evidence
        )
        if looks_again and "keypoints" not in self.config.priors:
            raise ConfigError(
                'tasks.keypoints.refinement.evidence: got true without a prior on joints; name "keypoints" in model.priors '
                "or set it to false"
            )

    def _reset_trunk(self) -> None:
        """Xavier for the trunk's matrices, except what sets the first sampling points."""
        for trunk in (self.encoder, self.decoder):
            for name, weight in trunk.named_parameters():
                fixed = (
                    "sampling_offsets" in name
                    or "attention_weights" in name
                    or "level_embeds" in name
                )
                if weight.dim() > 1 and not fixed:
                    nn.init.xavier_uniform_(weight)
        nn.init.normal_(self.content.weight)

    # -- the way through the network
    # ---------------------------------------------------------------------------------

    def encode(self, batch: Batch) -> Encoded:
        """Pictures to memory."""
        return self.look(
            batch.images, batch.padding, [meta.canvas_size for meta in batch.metas], batch.finer
        )

    def look(
        self,
        images: Float[Tensor, "b 3 h w"],
        padding: Bool[Tensor, "b h w"],
        canvas_sizes: list[Size] | Int[Tensor, "b 2"],
        finer: Float[Tensor, "b 3 H W"] | None = None,
    ) -> Encoded:
        """`encode` of bare tensors; `canvas_sizes` as a tensor where the number of pictures is
        open (export)."""
        normed = self._normed(images, padding)
        closer = None if finer is None else self._normed(finer, padding)
        sight = (
            self.backbone.see(normed, closer)
            if self.config.priors
            else Sight(self.backbone(normed))
        )
        fine, *levels = self.neck(sight.features)
        return replace(
            self.encoder(fine, levels, padding, canvas_sizes), sight=sight.without_features()
        )

    def _normed(self, images: Tensor, padding: Bool[Tensor, "b h w"]) -> Tensor:
        """Normalised, 0 where padded; `images` may be at a whole multiple of the size of
        `padding`."""
        normed = (images - self.mean) / self.std
        outside = padding[:, None]
        if images.shape[-2:] != padding.shape[-2:]:
            outside = F.interpolate(outside.float(), size=images.shape[-2:], mode="nearest") > 0
        return normed.masked_fill(outside, 0.0)

    def prepare(self, encoded: Encoded) -> dict[str, Any]:
        return {name: task.prepare(encoded) for name, task in self.tasks.items()}

    def read_queries(
        self,
        encoded: Encoded,
        prepared: dict[str, Any],
        *,
        every_stage: bool,
        noised: NoisedQueries | None = None,
        tasks: Iterable[str] | None = None,
    ) -> Outputs:
        """Selection, decoder and heads. Without `every_stage` the heads run on the last layer
        only; `tasks` names the heads to run (default: all)."""
        heads = {name: task for name, task in self.tasks.items() if tasks is None or name in tasks}
        selected, chosen, reference_logit, person = self._select(encoded)
        first = self.tasks["box"].read(PROPOSALS, chosen, reference_logit, None).boxes_unit
        prior = self._prior(
            encoded, first.detach(), person, attributes=every_stage and self._learns_attributes()
        )

        content = self.content.weight[: selected.shape[1]].expand(selected.shape[0], -1, -1)
        if self.config.priors:
            content = content + chosen.detach()
        if prior.joints_unit is not None:
            content = content + self.pose_content(_pose_in_box(prior, first.detach()).to(content))
        references, blocked = first.detach(), None
        if noised is not None:
            content = torch.cat([noised.content.to(content), content], 1)
            references = torch.cat([noised.boxes_logit.sigmoid(), references], 1)
            blocked = noised.blocked
        decoded = self.decoder(content, references, encoded, self.tasks["box"].heads, blocked)

        front = 0 if noised is None else len(noised)
        layers = range(len(decoded.queries)) if every_stage else [len(decoded.queries) - 1]
        ordinary = [
            (i, decoded.queries[i][:, front:], decoded.references[i][:, front:]) for i in layers
        ]
        return Outputs(
            layers=[
                _read(heads, i, q, inverse_sigmoid(r), prepared, prior) for i, q, r in ordinary
            ],
            queries=[q for _, q, _ in ordinary],
            references=[r for _, _, r in ordinary],
            selected=selected,
            proposals=_read(heads, PROPOSALS, chosen, reference_logit, prepared, prior)
            if every_stage
            else None,
            denoising=None if noised is None else self._read_noised(decoded, front, prepared),
        )

    def _select(self, encoded: Encoded) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Tokens that become queries, best first: index b q, features b q c, reference logits b
        q 4, and the person prior."""
        dense = encoded.sight.boxes if "person" in self.config.priors else None
        features, proposals_logit = self.selection(encoded, dense)
        if dense is None:
            logits = self.tasks["person"].logits(PROPOSALS, features)
            selected = top_tokens(logits, self.config.num_queries)
            return (
                selected,
                gather_rows(features, selected),
                gather_rows(proposals_logit, selected),
                None,
            )
        blind = features.shape[1] - dense.logits.shape[1]
        prior = F.pad(dense.logits.float(), (0, blind), value=NOBODY).masked_fill(
            encoded.padding, NOBODY
        )
        logits = self.tasks["person"].logits(PROPOSALS, features, prior)
        usable = proposals_logit.isfinite().all(-1)
        logits = logits.masked_fill(~usable, NOBODY)
        selected, doubled = distinct_tokens(
            logits.detach(),
            proposals_logit.detach().float().sigmoid(),
            self.config.num_queries,
            self.config.distinct_iou,
        )
        person = prior.gather(1, selected).clamp(min=NOBODY) + NOBODY / 2 * doubled
        chosen, reference_logit = (
            gather_rows(features, selected),
            gather_rows(proposals_logit, selected),
        )
        return (
            selected,
            chosen,
            reference_logit.masked_fill(~reference_logit.isfinite(), 0.0),
            person,
        )

    def _learns_attributes(self) -> bool:
        return any(name in self.tasks and self.tasks[name].config.loss > 0 for name in ATTRIBUTES)

    def _prior(
        self,
        encoded: Encoded,
        boxes_unit: Float[Tensor, "b q 4"],
        person: Tensor | None,
        *,
        attributes: bool,
    ) -> Prior:
        """What the backbone says about whoever fills the boxes (cxcywh of the valid canvas)."""
        joints = scores = None
        boxes = _canvas_boxes(boxes_unit, encoded)
        if "keypoints" in self.config.priors:
            with torch.no_grad():
                joints, scores = encoded.sight.poses.in_boxes(boxes)
                joints = joints / encoded.sides()[:, None, None]
        asked = self._attributes(encoded, boxes) if attributes else {}
        return Prior(person, joints, scores, **asked)

    def _attributes(self, encoded: Encoded, boxes: Float[Tensor, "b n 4"]) -> dict[str, Tensor]:
        """The backbone's logits of those of gender and age that are priors, for boxes xyxy px of
        the canvas."""
        wanted = [name for name in ATTRIBUTES if name in self.config.priors]
        if not wanted:
            return {}
        said = dict(zip(ATTRIBUTES, encoded.sight.attributes.in_boxes(boxes), strict=True))
        return {name: said[name] for name in wanted}

    def look_closer(
        self, read: Predictions, encoded: Encoded, chosen: Int[Tensor, "b k"]
    ) -> Predictions:
        """What `read_queries` said without `every_stage`, and with it what the backbone says
        about gender and age in the boxes of the chosen queries. That costs time for each of
        them, so that nobody else is looked at."""
        names = [name for name in ATTRIBUTES if name in read and name in self.config.priors]
        if not names:
            return read
        said = self._attributes(
            encoded, _canvas_boxes(gather_rows(read["box"].boxes_unit, chosen), encoded)
        )
        return {
            **read,
            **{name: self.tasks[name].corrected(read[name], said[name], chosen) for name in names},
        }

    def look_at_best(
        self, outputs: Outputs, encoded: Encoded, *, score: float, max_persons: int | None = None
    ) -> Outputs:
        """With `look_closer` at whoever `persons` will keep; the same where nobody is kept or
        nothing can be asked."""
        last = outputs.layers[-1]
        if not any(name in last and name in self.config.priors for name in ATTRIBUTES):
            return outputs
        scores = last["person"].logit.float().sigmoid()
        best = scores.topk(min(max_persons or self.config.num_persons, scores.shape[1]))
        most = int((best.values >= score).sum(-1).max())  # host sync: how many are looked at
        if not most:
            return outputs
        return replace(
            outputs,
            layers=[*outputs.layers[:-1], self.look_closer(last, encoded, best.indices[:, :most])],
        )

    def _read_noised(self, decoded, front: int, prepared: dict[str, Any]) -> list[Predictions]:
        denoised = {name: task for name, task in self.tasks.items() if task.denoises}
        return [
            _read(
                denoised,
                i,
                queries[:, :front],
                inverse_sigmoid(references[:, :front]),
                prepared,
                NO_PRIOR,
            )
            for i, (queries, references) in enumerate(
                zip(decoded.queries, decoded.references, strict=True)
            )
        ]

    # -- the two uses
    # ------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, draws: Draws | None = None) -> dict[str, Float[Tensor, ""]]:
        """Weighted losses by name; their plain sum is the loss of HQNet (section A4.1 of the
        paper).

        Raises ValueError without targets. Normalisers are summed over ranks, so that losses add
        up over ranks.
        """
        if batch.targets is None:
            raise ValueError(
                "HQNet.forward needs batch.targets; use predict(batch) for pictures without truth"
            )
        draws = draws or Draws()
        noised = self._noise(batch, draws)
        encoded = self.encode(batch)
        prepared = self.prepare(encoded)
        outputs = self.read_queries(encoded, prepared, every_stage=True, noised=noised)
        truths = [
            Truth.of(t, m.canvas_size) for t, m in zip(batch.targets, batch.metas, strict=True)
        ]
        truths = Truths.of(truths, encoded.memory.device)
        return criterion.losses(
            self.tasks, self.config.matching, outputs, noised, truths, encoded, prepared, draws
        )

    def _noise(self, batch: Batch, draws: Draws) -> NoisedQueries | None:
        if self.config.denoising is None:
            return None
        boxes = [
            target.replace(masks=None) for target in batch.targets
        ]  # masks would only be copied
        truths = [Truth.of(t, m.canvas_size) for t, m in zip(boxes, batch.metas, strict=True)]
        return noised_queries(
            truths, self.denoising_label, self.config.denoising, self.config.num_queries, draws
        )

    @torch.no_grad()
    def predict(
        self,
        batch: Batch,
        *,
        score: float = 0.0,
        max_persons: int | None = None,
        tasks: Iterable[str] | None = None,
    ) -> list[Persons]:
        """People of every picture, best first, in pixels of the picture.

        Only queries with at least `score` are decoded, at most `max_persons` (see
        `HQNetConfig.num_persons`) per picture; `tasks` names those to decode besides person and
        box (default: all that the model has).
        """
        sizes = to_device(
            torch.tensor([meta.canvas_size for meta in batch.metas]), batch.images.device
        )
        encoded, prepared, outputs = self.first_look(
            batch.images, batch.padding, sizes, batch.finer, self._wanted(tasks)
        )
        outputs = self.look_at_best(outputs, encoded, score=score, max_persons=max_persons)
        return [
            self.persons(
                i,
                batch,
                outputs,
                encoded,
                prepared,
                score=score,
                max_persons=max_persons,
                tasks=tasks,
            )
            for i in range(len(batch))
        ]

    def first_look(
        self,
        images: Float[Tensor, "b 3 h w"],
        padding: Bool[Tensor, "b h w"],
        canvas_sizes: Int[Tensor, "b 2"],
        finer: Float[Tensor, "b 3 H W"] | None,
        tasks: frozenset[str],
    ) -> tuple[Encoded, dict[str, Any], Outputs]:
        """Everything of a prediction whose amount does not depend on how many people there are.
        It asks nothing of the host, so that a CUDA graph can hold it (`predict.graphs`)."""
        encoded = self.look(images, padding, canvas_sizes, finer)
        prepared = {
            name: task.prepare(encoded) if name in tasks else None
            for name, task in self.tasks.items()
        }
        return (
            encoded,
            prepared,
            self.read_queries(encoded, prepared, every_stage=False, tasks=tasks),
        )

    def _wanted(self, tasks: Iterable[str] | None) -> frozenset[str]:
        wanted = set(self.tasks) if tasks is None else {"person", "box", *tasks} & set(self.tasks)
        if "keypoints" in wanted and "keypoint_confidence" in self.tasks:
            wanted.add("keypoint_confidence")
        return frozenset(wanted)

    def persons(
        self,
        picture: int,
        batch: Batch,
        outputs: Outputs,
        encoded: Encoded,
        prepared: dict[str, Any],
        *,
        score: float = 0.0,
        max_persons: int | None = None,
        tasks: Iterable[str] | None = None,
    ) -> Persons:
        """People of one picture from the last layer's outputs; see `predict`."""
        last, meta = outputs.layers[-1], batch.metas[picture]
        scores = last["person"].logit[picture].float().sigmoid()
        scores, queries = scores.topk(min(max_persons or self.config.num_persons, len(scores)))
        kept = scores >= score
        reading = Reading(
            picture, queries[kept], scores[kept], meta.canvas_size, meta.image_size, meta.to_canvas
        )
        fields: dict[str, Tensor] = {}
        for name in self.tasks:
            if name in self._wanted(tasks):
                fields |= self.tasks[name].decode(last[name], reading, encoded, prepared[name])
        confidence = fields.pop("keypoint_confidence", None)
        if "keypoints" in fields and "keypoint_scores" not in fields:
            confidence = reading.scores if confidence is None else confidence
            fields["keypoint_scores"] = (
                confidence[:, None].expand(-1, len(self.skeleton)).contiguous()
            )
        fields = {
            name: value.float() if value.is_floating_point() else value
            for name, value in fields.items()
        }
        return Persons(
            image_size=meta.image_size,
            skeleton=self.skeleton,
            embeddings=outputs.queries[-1][picture, reading.queries].float(),
            **fields,
        )


def _canvas_boxes(boxes_unit: Float[Tensor, "b n 4"], encoded: Encoded) -> Float[Tensor, "b n 4"]:
    """cxcywh of the valid canvas to xyxy px, in float32 and without a gradient."""
    return cxcywh_to_xyxy(
        boxes_unit.detach().float() * encoded.sides().float().repeat(1, 2)[:, None]
    )


def _pose_in_box(prior: Prior, boxes_unit: Float[Tensor, "b q 4"]) -> Float[Tensor, "b q n"]:
    """Joints from the box's centre in its sides, cut at 2, and their scores."""
    center, sides = boxes_unit[:, :, None].split(2, -1)
    places = ((prior.joints_unit - center) / sides.clamp(min=1e-4)).clamp(-2, 2)
    return torch.cat([places, prior.joint_scores[..., None]], -1).flatten(2)


def _read(
    tasks: dict[str, Task],
    stage: int,
    queries: Tensor,
    reference_logit: Tensor,
    prepared: dict[str, Any],
    prior: Prior,
) -> Predictions:
    return {
        name: task.read(stage, queries, reference_logit, prepared[name], prior)
        for name, task in tasks.items()
    }
