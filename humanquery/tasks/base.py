"""The interface of tasks: head, matching cost, losses and decoding of one property of people."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from humanquery.core.affine import Size
from humanquery.core.fields import FieldSpec
from humanquery.core.ranks import sum_over_ranks
from humanquery.core.skeleton import Skeleton
from humanquery.core.transfer import constants
from humanquery.nn.transformer import Shapes
from humanquery.tasks.truth import Matches, Truth, Truths

PROPOSALS = -1  # the stage before the first decoder layer

JointFeatures = Callable[
    [Float[Tensor, "b n k 2"], Float[Tensor, "b n 2"]], Float[Tensor, "b n k f"]
]
"""joints (px of the padded canvas) of n people per picture and the sides of their boxes (px) to f =
`TaskSizes.joint_features` numbers for each joint"""


@dataclass(frozen=True, eq=False)
class Encoded:
    """The encoded pictures, before any query; shared by all tasks."""

    fine: Float[Tensor, "b c h w"]
    """neck output of stride 4, kept for masks"""
    memory: Float[Tensor, "b s c"]
    position: Float[Tensor, "b s c"]
    padding: Bool[Tensor, "b s"]
    shapes: Shapes
    valid_ratios: Float[Tensor, "b levels 2"]
    """valid share of each level (x, y)"""
    canvas_sizes: list[Size] | Int[Tensor, "b 2"]
    """(height, width) of the valid part of each picture; a tensor in an exported graph"""
    padded_size: Size
    joint_features: JointFeatures | None = None
    """what is measured around given joints, for the joint decoder; None where nothing is"""
    answers: Any = None
    """of the system that encoded: whatever its own parts ask of later; tasks do not read it"""

    def sides(self) -> Float[Tensor, "b 2"]:
        """(width, height) of the valid canvases."""
        if isinstance(self.canvas_sizes, Tensor):
            return self.canvas_sizes.flip(-1).to(self.memory)
        return constants([[w, h] for h, w in self.canvas_sizes], self.memory)

    def finest_memory(self) -> Float[Tensor, "b c h w"]:
        """Memory of the finest level as a map."""
        h, w = self.shapes[0]
        return self.memory[:, : h * w].transpose(1, 2).unflatten(2, (h, w))


@dataclass(frozen=True, eq=False)
class Draws:
    """Random numbers of one step, by name. Names let a test hand in the numbers of another
    implementation."""

    generator: torch.Generator | None = None
    given: dict[str, Tensor] = field(default_factory=dict)

    def uniform(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        if name in self.given:
            return self.given[name].to(like).reshape(shape)
        return torch.rand(shape, generator=self.generator, device=like.device, dtype=like.dtype)


@dataclass(frozen=True, eq=False)
class Reference:
    """What a stage starts from. Every head predicts a correction to it: a delta to the box, offsets
    to the joints (to the box's centre where there are none), logits that are added. In the paper
    the box alone is one (DETR's iterative refinement, Zhu et al. 2021, of every task)."""

    box_logit: Float[Tensor, "b q 4"]
    """inverse sigmoid of the stage's input box, cxcywh in 0..1 of the valid canvas"""
    joints_unit: Float[Tensor, "b q k 2"] | None = None
    joint_scores: Float[Tensor, "b q k"] | None = None
    """how sure the reference joints are, 0..1"""
    logits: Mapping[str, Float[Tensor, "b q ..."]] = field(default_factory=dict)
    """task -> logits in the form of its prediction"""

    def corrected(self, task: str, logits: Float[Tensor, "b q *n"]) -> Float[Tensor, "b q *n"]:
        """Logits of a head, added to the task's reference logits if there are any."""
        return logits + self.logits[task] if task in self.logits else logits


def add_logits(
    prediction: Any, chosen: Int[Tensor, "b k"], logits: Float[Tensor, "b k ..."]
) -> Any:
    """A prediction, whose only field is a tensor of logits b q ..., with more added to some of its
    queries: reference logits that are known only once it is known who is kept."""
    (name,) = (one.name for one in fields(prediction))
    index = chosen.reshape(*chosen.shape, *[1] * (logits.dim() - 2)).expand_as(logits)
    return replace(
        prediction, **{name: getattr(prediction, name).float().scatter_add(1, index, logits)}
    )


class Task(nn.Module):
    """One property of people, read from their queries. `heads` holds an independent copy per
    decoder layer and one for proposals.

    `prepare` runs once per forward; its result comes back in every `read`, `finish` and `tensors`
    as `prepared`. A task that is not built in is used by importing its file and naming its class
    in `TasksConfig.extra`; what it brings to people is declared here and nowhere else.
    """

    name: str
    config_type: type
    """dataclass of its numbers"""
    result: str = ""
    """the field of people by which callers ask for it; empty: it is always computed"""
    needs: tuple[str, ...] = ()
    """tasks that are read when this one is asked for"""
    fields: tuple[FieldSpec, ...] = ()
    """declarations of its fields of people, where `Persons` does not have them"""
    loss_names: tuple[str, ...] = ()
    """of `losses`"""
    denoises = False
    """whether denoising queries are trained on this task"""

    def prepare(self, encoded: Encoded) -> Any:
        return None

    def read(
        self,
        stage: int,
        queries: Float[Tensor, "b q c"],
        reference: Reference,
        prepared: Any,
    ) -> Any:
        """Prediction of one stage: decoder layer 0.. or `PROPOSALS`, as a correction to
        `reference`."""
        raise NotImplementedError

    def costs(
        self, prediction: Any, truths: Truths, draws: Draws, tag: str
    ) -> Float[Tensor, "n q"] | None:
        """Weighted matching cost of every person of the batch with every query of the person's
        picture; a person without this label costs nothing. None: the task has no say in
        matching.
        """
        return None

    def cost(
        self, prediction: Any, picture: int, truth: Truth, draws: Draws, tag: str
    ) -> Float[Tensor, "q g"] | None:
        """`costs` of one picture's people alone."""
        found = self.costs(
            prediction, Truths.of([truth], truth.boxes_unit.device, first=picture), draws, tag
        )
        return None if found is None else found.T

    def losses(
        self, prediction: Any, matches: Matches, truths: Truths, draws: Draws, tag: str
    ) -> dict[str, Float[Tensor, ""]]:
        """Weighted losses of one stage. People without the label take no part."""
        raise NotImplementedError

    def denoising_losses(
        self, prediction: Any, matches: Matches, truths: Truths, count: Tensor
    ) -> dict[str, Tensor]:
        """Losses on denoising queries, normalised by `count` (groups times people)."""
        raise NotImplementedError

    def finish(
        self, prediction: Any, matches: Matches, truths: Truths, encoded: Encoded, prepared: Any
    ) -> dict[str, Tensor]:
        """Losses that follow the last layer's matching only."""
        return {}

    def final_loss_names(self) -> tuple[str, ...]:
        """Of `finish`."""
        return ()

    def tensors(
        self, prediction: Any, chosen: Int[Tensor, "b k"], encoded: Encoded, prepared: Any
    ) -> dict[str, Float[Tensor, "b k ..."]]:
        """What is given about the chosen queries, by name of the field, in canvas px. The outputs
        of an exported graph, and what `tasks.decode.decode` makes people of everywhere. Traced, so
        free of sizes that depend on values."""
        raise NotImplementedError(f"{type(self).__name__} has no `tensors`: it gives nothing")


def at_queries(
    values: Float[Tensor, "b q ..."], chosen: Int[Tensor, "b k"]
) -> Float[Tensor, "b k ..."]:
    """The rows of the chosen queries of each picture."""
    index = chosen.reshape(*chosen.shape, *[1] * (values.dim() - 2))
    return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


def count_over_ranks(count: Tensor | int | float, like: Tensor) -> Float[Tensor, ""]:
    """A normaliser: summed over all ranks, at least 1."""
    if not isinstance(count, Tensor):
        count = torch.full((), float(count), device=like.device)
    return sum_over_ranks(count.float()).clamp(min=1.0)


def mean_over_known(loss: Float[Tensor, " m"], known: Bool[Tensor, " m"]) -> Float[Tensor, ""]:
    """Of the people of all ranks who have the label; the others' losses are computed and not used,
    since selecting rows would wait for the device."""
    return torch.where(known, loss, 0.0).sum() / count_over_ranks(known.sum(), loss)


def zero_loss(*predictions: Tensor) -> Float[Tensor, ""]:
    """A zero that keeps the graph, for a sum over no people. Divide it by `count_over_ranks(0,
    ...)` where other ranks count."""
    return sum(p.float().sum() * 0 for p in predictions)


def copies(make: Callable[[], nn.Module], stages: int) -> nn.ModuleList:
    """One head per stage, all starting from the same weights."""
    first = make()
    heads = [first] + [make() for _ in range(stages - 1)]
    for head in heads[1:]:
        head.load_state_dict(first.state_dict())
    return nn.ModuleList(heads)


def zero_init(layer: nn.Module) -> nn.Module:
    """A linear layer, a convolution or an MLP that starts at 0 whatever it is given."""
    last = layer[-1] if isinstance(layer, nn.Sequential) else layer
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return layer


def prior_bias(layer: nn.Linear, probability: float = 0.01) -> nn.Linear:
    """Starts a logit at a small probability (focal loss, Lin et al. 2017)."""
    nn.init.constant_(layer.bias, -torch.tensor((1 - probability) / probability).log().item())
    return layer


@dataclass(frozen=True)
class TaskSizes:
    """What a task must know of the network to build itself."""

    dim: int
    layers: int
    heads: int
    levels: int
    points: int
    skeleton: Skeleton
    referenced: tuple[str, ...] = ()
    """tasks that get a `Reference` besides the box; their heads start at 0, so that an untrained
    model gives the reference itself"""
    joint_features: int = 0
    """width of `Encoded.joint_features`; 0: there are none"""

    @property
    def stages(self) -> int:
        """decoder layers and the proposals (the last head, reached as index -1)"""
        return self.layers + 1
