"""HQ-Ins matching and the losses: loops over tasks and stages, nothing else."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from humanquery.core.assignment import assign_all
from humanquery.core.boxes import unit_to_canvas
from humanquery.core.target import Target
from humanquery.models.hqnet.denoising import NoisedQueries
from humanquery.tasks.base import Draws, Matches, Scene, Truth, count_over_ranks
from humanquery.tasks.box import in_ignore_region

Predictions = dict[str, Any]  # task name -> that task's prediction


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a forward pass says, before anybody decodes it."""

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
    tasks: nn.ModuleDict, matching: tuple[str, ...], outputs: Outputs, truths: list[Truth], draws: Draws
) -> list[Matches]:
    """One assignment per picture and stage, at the least sum of the costs of all tasks named in `matching`.

    All cost tables travel to the CPU together (one host sync).
    """
    costs = []
    for tag, predictions in stages_of(outputs):
        for picture, truth in enumerate(truths):
            terms = [tasks[n].cost(predictions[n], picture, truth, draws, tag) for n in matching if n in tasks]
            costs.append(sum(term.float() for term in terms if term is not None))
    pairs = assign_all(costs)
    per_stage = [pairs[i : i + len(truths)] for i in range(0, len(pairs), len(truths))]
    return [_matches(stage) for stage in per_stage]


def _matches(pairs: list[tuple[Tensor, Tensor]]) -> Matches:
    pictures = torch.cat([torch.full_like(q, i) for i, (q, _) in enumerate(pairs)])
    return Matches(pictures, torch.cat([q for q, _ in pairs]), torch.cat([p for _, p in pairs]))


def losses(
    tasks: nn.ModuleDict,
    matching: tuple[str, ...],
    outputs: Outputs,
    noised: NoisedQueries | None,
    targets: list[Target],
    scene: Scene,
    prepared: dict[str, Any],
    draws: Draws,
) -> dict[str, Tensor]:
    """Every weighted loss by name: `<stage>.<loss>`, `denoising.<stage>.<loss>`, and the losses after the last layer."""
    truths = [Truth.of(target, size) for target, size in zip(targets, scene.canvas_sizes, strict=True)]
    named: dict[str, Tensor] = {}
    all_matches = match(tasks, matching, outputs, truths, draws)
    for (tag, predictions), matches in zip(stages_of(outputs), all_matches, strict=True):
        matches = _with_ignored(matches, predictions, targets, scene)
        for name, task in tasks.items():
            found = task.losses(predictions[name], matches, truths, draws, tag)
            named |= {f"{tag}.{loss}": value for loss, value in found.items()}
    for name, task in tasks.items():
        named |= task.finish(outputs.layers[-1][name], all_matches[-1], truths, scene, prepared[name])
    if outputs.denoising is not None:
        named |= _denoising_losses(tasks, outputs.denoising, noised, truths, scene)
    return named


def _with_ignored(matches: Matches, predictions: Predictions, targets: list[Target], scene: Scene) -> Matches:
    """Marks unmatched queries whose box lies in an ignore region (a crowd)."""
    if not any(
        bool(t.ignore.any()) for t in targets
    ):  # targets come from the host; on a GPU this is one sync per picture
        return matches
    boxes = predictions["box"].boxes_unit.detach()
    ignored = torch.stack(
        [
            in_ignore_region(unit_to_canvas(boxes[i], size), target.boxes[target.ignore])
            for i, (target, size) in enumerate(zip(targets, scene.canvas_sizes, strict=True))
        ]
    )
    ignored[matches.pictures, matches.queries] = False
    return Matches(matches.pictures, matches.queries, matches.people, ignored)


def _denoising_losses(
    tasks: nn.ModuleDict, layers: list[Predictions], noised: NoisedQueries | None, truths: list[Truth], scene: Scene
) -> dict[str, Tensor]:
    if noised is None:
        return {}
    count = count_over_ranks(noised.groups * noised.num_people, scene.memory)
    named = {}
    for i, predictions in enumerate(layers):
        for name, prediction in predictions.items():
            found = tasks[name].denoising_losses(prediction, noised.positives, truths, count)
            named |= {f"denoising.layer{i}.{loss}": value for loss, value in found.items()}
    return named
