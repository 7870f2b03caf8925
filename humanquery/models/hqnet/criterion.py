"""HQ-Ins matching and the losses: loops over tasks and stages, nothing else."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from humanquery.core.assignment import assign_all
from humanquery.core.boxes import unit_to_canvas
from humanquery.core.errors import ConfigError, NonFiniteError, nearest
from humanquery.core.ranks import sum_over_ranks
from humanquery.models.hqnet.denoising import NoisedQueries
from humanquery.tasks.base import Draws, Encoded, Matches, Task, Truth, Truths, count_over_ranks
from humanquery.tasks.box import in_ignore_region

Predictions = dict[str, Any]  # task name -> that task's prediction


@dataclass(frozen=True, eq=False)
class Outputs:
    """Predictions of a forward pass, before matching or decoding."""

    layers: list[Predictions]
    """per decoder layer; only the last where nothing is trained"""
    queries: list[Tensor]
    """per decoder layer, b q c"""
    references: list[Tensor]
    selected: Tensor
    """tokens that became queries, best first, b q"""
    proposals: Predictions | None = None
    denoising: list[Predictions] | None = None


def stages_of(outputs: Outputs) -> list[tuple[str, Predictions]]:
    layers = [(f"layer{i}", predictions) for i, predictions in enumerate(outputs.layers)]
    return [("proposals", outputs.proposals), *layers]


@torch.no_grad()
def match(
    tasks: nn.ModuleDict,
    matching: tuple[str, ...],
    outputs: Outputs,
    truths: Truths | list[Truth],
    draws: Draws,
) -> list[Matches]:
    """One assignment per picture and stage, at the least sum of the costs of all tasks named in
    `matching`.

    A cost that is NaN or infinite raises NonFiniteError with stage and pictures: a prediction is
    broken, and the solver could only say that it is. Over several ranks it is raised on all, see
    `NonFiniteError`.

    All cost tables travel to the host together, where the assignments are solved, and all
    assignments together back.
    """
    device = outputs.selected.device
    truths = Truths.of(truths, device)
    named = [tasks[name] for name in matching if name in tasks]
    tables = []
    for tag, predictions in stages_of(outputs):
        terms = [task.costs(predictions[task.name], truths, draws, tag) for task in named]
        tables.append(sum(term.float() for term in terms if term is not None))
    tables = torch.stack(tables)
    broken = sum_over_ranks((~tables.isfinite()).any().float())
    # host sync: the solver runs there. One copy for both, since each makes the host wait
    packed = torch.cat([tables.flatten(), broken.reshape(1)]).cpu()
    tables, broken = packed[:-1].view(tables.shape), bool(packed[-1])
    if broken:
        _refuse(tables, [tag for tag, _ in stages_of(outputs)], truths)
    stages = [assign_all([costs.T for costs in table.split(truths.counts)]) for table in tables]
    return Matches.to_device(torch.stack([_listed(pairs) for pairs in stages]), device)


def check_matching(
    matching: tuple[str, ...], known: Mapping[str, type[Task]], built: nn.ModuleDict
) -> None:
    """Raises ConfigError for names that have no say, twice or not at all: they would train without
    the costs that their owner believes in."""
    with_costs = [name for name, task in known.items() if task.costs is not Task.costs]
    for name in matching:
        if name not in with_costs:
            raise ConfigError(
                f"model.matching: {name!r} is no task with a matching cost."
                f"{nearest(name, with_costs)}"
            )
    twice = [name for name, count in Counter(matching).items() if count > 1]
    if twice:
        raise ConfigError(
            f"model.matching: {', '.join(twice)} named more than once; the weight of a cost is set "
            f"in the task's config"
        )
    # the costs of all others are zero for people without the label
    always = [name for name in ("person", "box") if name in built]
    if not set(always) & set(matching):
        raise ConfigError(
            f"model.matching: got {list(matching)}, expected {' or '.join(always)} among them: "
            "only they tell all people and queries apart"
        )


def _refuse(tables: Float[Tensor, "stages n q"], tags: list[str], truths: Truths) -> None:
    for tag, table in zip(tags, tables, strict=True):
        people = ~table.isfinite().all(-1)
        if people.any():
            pictures = [i for i, part in enumerate(people.split(truths.counts)) if part.any()]
            raise NonFiniteError(
                f"matching at {tag}: costs of pictures {', '.join(map(str, pictures))} of the "
                f"batch are NaN or infinite; expected finite predictions and targets. Lower the "
                f"learning rate, or look at these pictures' annotations",
                stage=tag,
                pictures=tuple(pictures),
            )
    raise NonFiniteError("matching: costs of another rank are NaN or infinite")


def _listed(pairs: list[tuple[Tensor, Tensor]]) -> Int[Tensor, "3 m"]:
    """(queries, people) of every picture as one list of (picture, query, person)."""
    return torch.cat(
        [torch.stack([torch.full_like(q, i), q, p]) for i, (q, p) in enumerate(pairs)], 1
    )


def losses(
    tasks: nn.ModuleDict,
    matching: tuple[str, ...],
    outputs: Outputs,
    noised: NoisedQueries | None,
    truths: Truths,
    encoded: Encoded,
    prepared: dict[str, Any],
    draws: Draws,
) -> dict[str, Tensor]:
    """Every weighted loss by name: `<stage>.<loss>`, `denoising.<stage>.<loss>`, and the losses
    after the last layer."""
    named: dict[str, Tensor] = {}
    all_matches = match(tasks, matching, outputs, truths, draws)
    for (tag, predictions), matches in zip(stages_of(outputs), all_matches, strict=True):
        matches = _with_ignored(matches, predictions, truths, encoded)
        for name, task in tasks.items():
            found = task.losses(predictions[name], matches, truths, draws, tag)
            named |= {f"{tag}.{loss}": value for loss, value in found.items()}
    for name, task in tasks.items():
        named |= task.finish(
            outputs.layers[-1][name], all_matches[-1], truths, encoded, prepared[name]
        )
    if outputs.denoising is not None:
        named |= _denoising_losses(tasks, outputs.denoising, noised, truths, encoded)
    return named


def _with_ignored(
    matches: Matches, predictions: Predictions, truths: Truths, encoded: Encoded
) -> Matches:
    """Marks unmatched queries whose box lies in an ignore region (a crowd)."""
    if not truths.regions:
        return matches
    boxes = predictions["box"].boxes_unit.detach()
    ignored = torch.stack(
        [
            in_ignore_region(unit_to_canvas(boxes[i], size), regions)
            for i, (regions, size) in enumerate(
                zip(truths.regions, encoded.canvas_sizes, strict=True)
            )
        ]
    )
    ignored[matches.pictures, matches.queries] = False
    return replace(matches, ignored=ignored)


def _denoising_losses(
    tasks: nn.ModuleDict,
    layers: list[Predictions],
    noised: NoisedQueries | None,
    truths: Truths,
    encoded: Encoded,
) -> dict[str, Tensor]:
    if noised is None:
        return {}
    count = count_over_ranks(noised.groups * noised.num_people, encoded.memory)
    named = {}
    for i, predictions in enumerate(layers):
        for name, prediction in predictions.items():
            found = tasks[name].denoising_losses(prediction, noised.positives, truths, count)
            named |= {f"denoising.layer{i}.{loss}": value for loss, value in found.items()}
    return named
