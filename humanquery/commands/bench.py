"""Where the time of a recipe's training step goes."""

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from torch import nn

from humanquery.commands.train import RecipeLoader
from humanquery.core.config import override
from humanquery.core.errors import ConfigError
from humanquery.engine.curves import machine
from humanquery.engine.distributed import pick_device
from humanquery.engine.state import seed_everything
from humanquery.engine.stopwatch import Seconds, Stopwatch
from humanquery.engine.trainer import Trainer
from humanquery.models import build
from humanquery.models.hqnet import criterion
from humanquery.recipes import Recipe, find

WARM_UP = 2
"""steps before the measured ones: first allocations, kernels chosen"""
TRUNK = ("backbone", "neck", "encoder", "selection", "decoder")
SHARED = "matching", "losses"


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a part, summed over `steps` steps."""

    recipe: str
    steps: int
    parts: dict[str, Seconds]

    @property
    def whole(self) -> Seconds:
        return sum(self.parts.values(), Seconds())

    def share(self, *begins: str) -> float:
        """Of the whole step without the wait for data, in CPU time where there is any: what is in
        parts that begin so."""
        times = {
            name: seconds.busy or seconds.wall
            for name, seconds in self.parts.items()
            if name != "data"
        }
        return sum(t for name, t in times.items() if name.startswith(begins)) / max(
            sum(times.values()), 1e-9
        )

    def table(self) -> str:
        """One line per part: milliseconds of a step, and of this process on the CPU, which a busy
        machine does not stretch."""
        lines = [f"{'part':28}{'ms':>10}{'CPU ms':>10}{'share':>8}"]
        for name, seconds in [*self.parts.items(), ("step", self.whole)]:
            wall, busy = (1000 * value / self.steps for value in (seconds.wall, seconds.busy))
            share = "" if name in ("data", "step") else f"{self.share(name):8.1%}"
            lines.append(f"{name:28}{wall:10.1f}{busy:10.1f}{share}")
        lines.append(f"matching and losses, forward: {self.share(*SHARED):.1%} of the step")
        return "\n".join(lines)

    def plain(self) -> dict[str, Any]:
        """For JSON: seconds per step, with the machine and the commit."""
        named = {**self.parts, "step": self.whole}
        parts = {
            name: {"wall": s.wall / self.steps, "busy": s.busy / self.steps}
            for name, s in named.items()
        }
        shares = {"matching_and_losses": self.share(*SHARED)}
        return {
            "recipe": self.recipe,
            "steps": self.steps,
            "seconds": parts,
            "shares": shares,
            "machine": machine(),
        }


def bench_train(recipe: str | Recipe, overrides: list[str], steps: int = 10) -> StepTimes:
    """Trains a few steps in this process and says where the time went; nothing is written.

    Batches come from the recipe's own loader. Fewer than one step raises ConfigError.
    """
    if steps < 1:
        raise ConfigError(f"bench train: got {steps} steps, expected at least 1")
    name = recipe if isinstance(recipe, str) else "custom"
    recipe = override(find(recipe) if isinstance(recipe, str) else recipe, overrides)
    device = pick_device(recipe.engine.device)
    seed_everything(recipe.engine.seed)
    engine = replace(recipe.engine, steps=WARM_UP + steps)
    trainer, watch = Trainer(build(recipe.model), engine, device), Stopwatch(device)
    trainer.begin()
    undo = [watch.around(*part) for part in [*_parts(trainer.system), *_parts_of_a_step(trainer)]]
    stream = RecipeLoader(recipe).batches(0)
    try:
        for step in range(WARM_UP + steps):
            if step == WARM_UP:
                watch.start()
            with watch.part("data"):
                batches = list(islice(stream, engine.accumulate))
            trainer.step(batches)
        watch.stop()
    finally:
        stream.close()
        for restore in undo:
            restore()
        trainer.release()
    return StepTimes(name, steps, watch.total("heads' glue and rest"))


def _parts_of_a_step(trainer: Trainer) -> list[tuple[Any, str, str]]:
    return [
        (trainer, "place", "data"),
        (trainer, "backward", "backward"),
        (trainer, "update", "optimizer"),
    ]


def _parts(system: nn.Module) -> list[tuple[Any, str, str]]:
    """(owner, method, name) of what is timed."""
    parts = [(getattr(system, name), "forward", name) for name in TRUNK if hasattr(system, name)]
    if hasattr(getattr(system, "backbone", None), "see"):
        parts.append((system.backbone, "see", "backbone"))
    tasks = getattr(system, "tasks", {})
    for name, task in tasks.items():
        parts += [(task, method, "heads") for method in ("prepare", "read")]
        parts += [
            (task, method, f"losses: {name}") for method in ("losses", "finish", "denoising_losses")
        ]
    return [*parts, (criterion, "match", "matching")] if tasks else parts
