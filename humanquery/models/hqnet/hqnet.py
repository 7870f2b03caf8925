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
from humanquery.core.affine import Size
from humanquery.core.batch import Batch
from humanquery.core.config import from_plain
from humanquery.core.errors import ConfigError, nearest
from humanquery.core.fields import FieldSpec
from humanquery.core.persons import Persons
from humanquery.core.skeleton import Skeleton
from humanquery.core.system import Ask, Picture
from humanquery.core.target import Target
from humanquery.core.transfer import to_device
from humanquery.experts import build as build_backbone
from humanquery.experts.answers import answer
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models.hqnet import criterion
from humanquery.models.hqnet.config import HQNetConfig, TasksConfig
from humanquery.models.hqnet.criterion import Outputs, Predictions
from humanquery.models.hqnet.denoising import NoisedQueries, noised_queries
from humanquery.models.hqnet.joint_layouts import skeleton_of
from humanquery.models.hqnet.one_look import OneLook
from humanquery.models.hqnet.priors import Priors
from humanquery.models.hqnet.trunk import Decoder, Encoder, QuerySelection, Selected
from humanquery.nn.encodings import inverse_sigmoid
from humanquery.tasks.age import AgeTask
from humanquery.tasks.base import (
    PROPOSALS,
    Draws,
    Encoded,
    Reference,
    Task,
    TaskSizes,
    Truth,
    Truths,
    at_queries,
)
from humanquery.tasks.box import BoxTask
from humanquery.tasks.decode import best_queries, decode
from humanquery.tasks.face import FaceTask
from humanquery.tasks.gender import GenderTask
from humanquery.tasks.keypoint_confidence import KeypointConfidenceTask
from humanquery.tasks.keypoints import KeypointsTask
from humanquery.tasks.mask import MaskTask
from humanquery.tasks.person import PersonTask

BUILT_IN: tuple[type[Task], ...] = (
    PersonTask,
    BoxTask,
    KeypointsTask,
    KeypointConfidenceTask,
    MaskTask,
    GenderTask,
    AgeTask,
    FaceTask,
)


def build_tasks(config: TasksConfig, sizes: TaskSizes) -> nn.ModuleDict:
    """The tasks of a config by name, built-in ones first.

    An extra task whose class nobody has imported, or whose name is taken, raises ConfigError: a
    file of weights can name a class, but never have code fetched or run for it.
    """
    built = nn.ModuleDict()
    for kind in BUILT_IN:
        numbers = getattr(config, kind.name)
        if numbers is not None:
            built[kind.name] = kind(numbers, sizes)
    for extra in config.extra:
        kind = imported_task(extra.task)
        if kind.name in built:
            raise ConfigError(f"tasks.extra: {extra.task} is another task named {kind.name!r}")
        numbers = from_plain(kind.config_type, dict(extra.config), f"tasks.extra.{kind.name}")
        built[kind.name] = kind(numbers, sizes)
    return built


def imported_task(name: str) -> type[Task]:
    """The task class of that name, of those that somebody has imported; else ConfigError."""
    known = {kind.__name__: kind for kind in Task.__subclasses__()}
    if name not in known:
        raise ConfigError(
            f"tasks.extra: no task class {name!r} is imported; import the file that defines it "
            f"first (command line: humanquery --import FILE.py ...).{nearest(name, known)}"
        )
    return known[name]


class HQNet(nn.Module):
    """A `System`: losses from `forward`, people from `predict`.

    `backbone` may replace the one that the config names: a module that maps b×3×h×w to four
    feature maps of strides 4, 8, 16, 32 and tells `channels`, `mean` and `std`.
    """

    def __init__(self, config: HQNetConfig, backbone: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.skeleton = skeleton_of(config.skeleton)
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
        known = getattr(self.backbone, "answers_about", ())
        self.priors = Priors(config, known, self.skeleton) if config.priors else None
        sizes = TaskSizes(
            t.dim, t.decoder_layers, t.heads, t.levels, t.points, self.skeleton, config.priors,
            0 if self.priors is None else self.priors.joint_features,
        )  # fmt: skip
        self.tasks = build_tasks(config.tasks, sizes)
        kinds = {kind.name: kind for kind in (*BUILT_IN, *map(type, self.tasks.values()))}
        criterion.check_matching(config.matching, kinds, self.tasks)
        self.register_buffer(
            "mean", torch.tensor(self.backbone.mean).view(3, 1, 1), persistent=False
        )
        self.register_buffer("std", torch.tensor(self.backbone.std).view(3, 1, 1), persistent=False)
        self._reset_trunk()

    @property
    def input(self) -> LetterboxConfig:
        return self.config.input

    @property
    def specs(self) -> dict[str, FieldSpec]:
        """Declarations of the fields that `Persons` does not have of its own."""
        return {spec.name: spec for task in self.tasks.values() for spec in task.fields}

    @property
    def outputs(self) -> dict[str, FieldSpec]:
        """What can be asked for, with its declaration (`System.outputs`)."""
        known = {**Persons.specs(), **self.specs}
        return {task.result: known[task.result] for task in self.tasks.values() if task.result}

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of all losses that `forward` gives, for any batch."""
        layers = [f"layer{i}" for i in range(self.config.transformer.decoder_layers)]
        names = []
        for task in self.tasks.values():
            names += [
                f"{stage}.{loss}"
                for stage in ("proposals", *layers)
                for loss in task.loss_names
                if (stage, loss) != ("proposals", "keypoint_oks")  # the release drops it there
            ]
            names += task.final_loss_names()
            if task.denoises and self.config.denoising is not None:
                names += [f"denoising.{s}.{loss}" for s in layers for loss in task.loss_names]
        return tuple(names)

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

    def encode(self, batch: Batch) -> Encoded:
        """Pictures to memory."""
        sizes = [meta.canvas_size for meta in batch.metas]
        return self.encode_images(batch.images, batch.padding, sizes, batch.zoomed())

    def encode_images(
        self,
        images: Float[Tensor, "b 3 h w"],
        padding: Bool[Tensor, "b h w"],
        canvas_sizes: list[Size] | Int[Tensor, "b 2"],
        zoomed: Float[Tensor, "b 3 H W"] | None = None,
    ) -> Encoded:
        """`encode` of bare tensors; `canvas_sizes` as a tensor where the number of pictures is
        open (export)."""
        normed = self._normed(images, padding)
        if self.priors is None:
            fine, *levels = self.neck(self.backbone(normed))
            return self.encoder(fine, levels, padding, canvas_sizes)
        answers = answer(
            self.backbone, normed, None if zoomed is None else self._normed(zoomed, padding)
        )
        fine, *levels = self.neck(answers.features)
        encoded = replace(
            self.encoder(fine, levels, padding, canvas_sizes), answers=answers.without_features()
        )
        return replace(encoded, joint_features=self.priors.features_around(encoded))

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
        selected = self._select(encoded)
        start, features = Reference(selected.box_logit), selected.features
        first = self.tasks["box"].read(PROPOSALS, features, start, None).boxes_unit
        # len() would fix the number of pictures in a trace
        content = self.content.weight[: features.shape[1]].expand(features.shape[0], -1, -1)
        if self.priors is not None:
            start, content = self.priors.start(
                selected, first.detach(), content, encoded, training=every_stage
            )
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
                _read(heads, i, q, replace(start, box_logit=inverse_sigmoid(r)), prepared)
                for i, q, r in ordinary
            ],
            queries=[q for _, q, _ in ordinary],
            references=[r for _, _, r in ordinary],
            selected=selected.tokens,
            proposals=_read(heads, PROPOSALS, features, start, prepared) if every_stage else None,
            denoising=None if noised is None else self._read_noised(decoded, front, prepared),
        )

    def _select(self, encoded: Encoded) -> Selected:
        features, proposals_logit = self.selection(encoded)
        if self.priors is not None:
            return self.priors.propose(features, proposals_logit, encoded, self.tasks["person"])
        return Selected.best(
            features, proposals_logit, self.tasks["person"], self.config.num_queries
        )

    def annotate(
        self, predictions: Predictions, encoded: Encoded, chosen: Int[Tensor, "b k"]
    ) -> Predictions:
        """The last layer's predictions of `read_queries` without `every_stage`, completed for the
        queries that are kept (`Priors.annotate`)."""
        if self.priors is None:
            return predictions
        return self.priors.annotate(predictions, encoded, chosen)

    def _read_noised(self, decoded, front: int, prepared: dict[str, Any]) -> list[Predictions]:
        denoised = {name: task for name, task in self.tasks.items() if task.denoises}
        return [
            _read(
                denoised,
                i,
                queries[:, :front],
                Reference(inverse_sigmoid(references[:, :front])),
                prepared,
            )
            for i, (queries, references) in enumerate(
                zip(decoded.queries, decoded.references, strict=True)
            )
        ]

    # -- the two uses

    def forward(self, batch: Batch, draws: Draws | None = None) -> dict[str, Float[Tensor, ""]]:
        """Weighted losses by name; their plain sum is the loss of HQNet (section A4.1 of the
        paper).

        Raises ValueError without targets, ConfigError for joints of another skeleton,
        NonFiniteError where a prediction is not finite. Normalisers are summed over ranks, so that
        losses add up over ranks.
        """
        if batch.targets is None:
            raise ValueError(
                "HQNet.forward needs batch.targets; use predict(batch) for pictures without truth"
            )
        for target, meta in zip(batch.targets, batch.metas, strict=True):
            check_skeleton(target, self.skeleton, meta.path)
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
    def predict(self, batch: Batch, ask: Ask = Ask()) -> list[Picture]:
        """People of every picture, best first, in pixels of the picture.

        At most `HQNetConfig.num_persons` of each, or `ask.max_persons`; heads of outputs that
        nobody asked for do not run. An output that the model lacks raises ConfigError.
        """
        most = self._most(ask)
        if not most:
            return [Picture(Persons.empty(meta.image_size, self.skeleton)) for meta in batch.metas]
        encoded, prepared, outputs = self._seen(batch, ask)
        found = self.found_people(encoded, prepared, outputs, ask.score, most)
        people = decode(
            found,
            batch.metas,
            encoded.padded_size,
            skeleton=self.skeleton,
            ask=replace(ask, max_persons=most),
            specs=self.specs,
        )
        return [Picture(persons) for persons in people]

    def _seen(self, batch: Batch, ask: Ask) -> tuple[Encoded, dict[str, Any], Outputs]:
        sizes = torch.tensor([meta.canvas_size for meta in batch.metas])
        sizes = to_device(sizes, batch.images.device)
        return self.first_look(
            batch.images, batch.padding, sizes, batch.zoomed(), self._wanted(ask)
        )

    @property
    def late(self) -> frozenset[str]:
        """Outputs that cost time for everybody they are given of (`core.system.LooksTwice`)."""
        masks = {"masks"} & set(self.outputs)
        return frozenset(
            masks.union(() if self.priors is None else self.priors.late(dict(self.tasks.items())))
        )

    @torch.no_grad()
    def look(self, batch: Batch, ask: Ask = Ask()) -> OneLook:
        """`predict` of a single picture, without `late`, about which `OneLook.more` answers."""
        return OneLook(self, *self._seen(batch, ask), batch.metas[0], ask, self._most(ask))

    def first_look(
        self,
        images: Float[Tensor, "b 3 h w"],
        padding: Bool[Tensor, "b h w"],
        canvas_sizes: Int[Tensor, "b 2"],
        zoomed: Float[Tensor, "b 3 H W"] | None,
        tasks: frozenset[str],
    ) -> tuple[Encoded, dict[str, Any], Outputs]:
        """Everything of a prediction whose amount does not depend on how many people there are.
        It asks nothing of the host, so that a CUDA graph can hold it (`predict.cuda_graphs`)."""
        encoded = self.encode_images(images, padding, canvas_sizes, zoomed)
        prepared = {
            name: task.prepare(encoded) if name in tasks else None
            for name, task in self.tasks.items()
        }
        outputs = self.read_queries(encoded, prepared, every_stage=False, tasks=tasks)
        return encoded, prepared, outputs

    def found_people(
        self,
        encoded: Encoded,
        prepared: dict[str, Any],
        outputs: Outputs,
        score: Float[Tensor, ""] | float | int,
        most: int,
    ) -> dict[str, Float[Tensor, "b k ..."] | Int[Tensor, "b _"]]:
        """All tensors of the best queries (`tasks.decode.best_queries`), in canvas px: those of the
        tasks that were read, `embeddings`, and `queries` and `tokens`: which query each row is, and
        which memory token each query started from."""
        chosen = best_queries(outputs.layers[-1]["person"].logit, score, most)
        return self.about(encoded, prepared, outputs, chosen)

    def about(
        self,
        encoded: Encoded,
        prepared: dict[str, Any],
        outputs: Outputs,
        chosen: Int[Tensor, "b k"],
        without: frozenset[str] = frozenset(),
    ) -> dict[str, Float[Tensor, "b k ..."] | Int[Tensor, "b _"]]:
        """`found_people` for these queries, but for the tasks named in `without`."""
        last = {name: p for name, p in outputs.layers[-1].items() if name not in without}
        last = self.annotate(last, encoded, chosen)
        found: dict[str, Tensor] = {}
        for name in last:
            found |= self.tasks[name].tensors(last[name], chosen, encoded, prepared[name])
        embeddings = at_queries(outputs.queries[-1], chosen).float()
        return {**found, "embeddings": embeddings, "queries": chosen, "tokens": outputs.selected}

    def _most(self, ask: Ask) -> int:
        """How many people of a picture are kept at most; 0 is 0."""
        most = self.config.num_persons if ask.max_persons is None else ask.max_persons
        return min(most, self.config.num_queries)

    def _wanted(self, ask: Ask) -> frozenset[str]:
        """Names of the tasks to read."""
        unknown = sorted((ask.outputs or frozenset()) - set(self.outputs))
        if unknown:
            raise ConfigError(
                f"this model gives no {unknown[0]!r}.{nearest(unknown[0], self.outputs)}"
            )
        wanted = {n for n, task in self.tasks.items() if not task.result or ask.wants(task.result)}
        helpers = {name for task in self.tasks.values() for name in task.needs}
        needed = {name for n in wanted for name in self.tasks[n].needs}
        return frozenset((wanted - helpers | needed) & set(self.tasks))


def check_skeleton(target: Target, skeleton: Skeleton, path: str = "") -> None:
    """Raises ConfigError where a truth's joints are of another layout than the model's: equal in
    number is not equal in meaning."""
    if target.keypoints is not None and target.skeleton != skeleton:
        theirs = "none" if target.skeleton is None else f"{target.skeleton.name!r}"
        where = f"{path}: " if path else ""
        raise ConfigError(
            f"{where}the truth's joints are of skeleton {theirs} "
            f"({target.keypoints.value.shape[1]} joints), the model's of {skeleton.name!r} "
            f"({len(skeleton)} joints); build the model with the skeleton of the data, or convert "
            "the data's joints to the model's"
        )


def _read(
    tasks: dict[str, Task],
    stage: int,
    queries: Tensor,
    reference: Reference,
    prepared: dict[str, Any],
) -> Predictions:
    return {
        name: task.read(stage, queries, reference, prepared[name]) for name, task in tasks.items()
    }
