"""One training loop for every system."""

import contextlib
import copy
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from humanquery.core.batch import Batch
from humanquery.core.config import to_plain
from humanquery.core.errors import ConfigError, TrainingError
from humanquery.core.ranks import rank, sum_over_ranks, world_size
from humanquery.engine.checkpoint import atomic, load_state, save_state_dict
from humanquery.engine.distributed import (
    any_rank,
    gathered,
    gradient_sync,
    joined_ranks,
    placed_like,
    share,
)
from humanquery.engine.journal import Journal
from humanquery.engine.optim import WeightAverage, build_optimizer, clip_gradients, set_lr, whole
from humanquery.engine.signals import StopRequest
from humanquery.engine.state import (
    cut_metrics,
    latest,
    random_state,
    read_latest,
    read_metrics,
    remove_after,
    save_state,
    seed_everything,
    set_random_state,
    undisturbed,
)
from humanquery.engine.train_config import EngineConfig, differences, run_identity
from humanquery.ops.depthwise import use_fast_depthwise

Evaluate = Callable[[nn.Module], dict]
"""the weights as they would be shipped (averaged if averaging is on), in eval mode -> numbers,
nested as they like"""
Illustrate = Callable[[nn.Module], dict]
"""the same module -> name of a picture: h w 3 uint8 RGB"""


@runtime_checkable
class Loader(Protocol):
    """An endless stream of batches in which batch i depends on i alone (and on seed, rank and world
    size)."""

    def batches(self, start: int) -> Iterator[Batch]: ...


class TrainingInterrupted(TrainingError):
    """The run was asked to stop; its state is saved."""


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    steps: int
    weights: Path
    """the finished model.safetensors"""
    losses: dict[str, float]
    """means over the steps of the last log line, with `total`"""
    evaluation: dict[str, Any]
    """what `evaluate` gave last; empty without one"""
    seconds: float
    """of training, all resumed parts together"""


def train(
    system: nn.Module,
    loader: Loader,
    config: EngineConfig,
    out: Path | str,
    *,
    resume: bool = False,
    evaluate: Evaluate | None = None,
    illustrate: Illustrate | None = None,
    card: dict[str, Any] | None = None,
) -> TrainingResult:
    """Trains any `System` and leaves `model.safetensors`, `metrics.jsonl`, `config.json` and the
    last states in `out`.

    Optimizer step s (from 0) uses batches s·k .. s·k + k - 1 of the loader, k =
    `config.accumulate`. What is minimised is the mean over these micro-batches of the sum of all
    losses: equal to one k-fold batch for losses that average over something every micro-batch has
    equally much of (pictures, say); a loss divided by its micro-batch's number of people weighs
    every micro-batch alike, however many people stand in it. Over several ranks see
    `engine.distributed`; `out` must then be one folder that all of them see.

    `resume` goes on from the newest state in `out`, bit for bit as if there had been no
    interruption (on the CPU, with the same number of ranks), or begins if there is none. `system`
    is trained in place and keeps the plain, not the averaged weights (under FSDP it stays sharded);
    `evaluate` and `illustrate` see a copy, on rank 0 only, and cannot disturb the run's random
    numbers. `card` is written into the weights file.

    ConfigError: `out` has a run already, or the state to resume comes from another config.
    TrainingError: a loss or a gradient is not finite (before the optimizer step), or the losses are
    no losses. TrainingInterrupted: SIGTERM or Ctrl-C; the step was finished and the state saved.
    """
    with (
        joined_ranks(config.device) as device,
        _kernels(config.deterministic),
        StopRequest() as stop,
    ):
        run = _Run(system, config, Path(out), device, stop, evaluate, illustrate)
        run.begin(resume)
        speaks = rank() == 0
        with Journal(
            run.out,
            step=run.step,
            steps=config.steps,
            tensorboard=config.tensorboard,
            speaks=speaks,
        ) as run.journal:
            run.go(loader)
        return run.finish(card or {})


@contextlib.contextmanager
def _kernels(deterministic: bool) -> Iterator[None]:
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    benchmark, fill = (
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    if deterministic:
        # nothing here reads what it has not written; torch would spend a pass over every new tensor
        # to make sure
        torch.utils.deterministic.fill_uninitialized_memory = False
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
        torch.utils.deterministic.fill_uninitialized_memory = fill


class _Run:
    """The parts of one run and where it stands: `step` optimizer steps are done."""

    journal: Journal

    def __init__(
        self,
        system,
        config: EngineConfig,
        out: Path,
        device,
        stop: StopRequest,
        evaluate,
        illustrate,
    ):
        self.system, self.config, self.out, self.device, self.stop = (
            system,
            config,
            out,
            device,
            stop,
        )
        self.evaluate, self.illustrate = evaluate, illustrate
        self.system_config = getattr(
            system, "config", None
        )  # FSDP changes the class of `system`, not this
        self.step = 0
        self.seconds_before = 0.0
        self.names: tuple[str, ...] | None = None
        self.window = torch.zeros(0)  # sums of the losses since the last log line, on the device
        self.window_steps = 0

    # ------------------------------------------------------------------ begin

    def begin(self, resume: bool) -> None:
        """Puts every part in place, from the newest state if there is one."""
        state = self._found_state(resume)
        identity = run_identity(self.config, self.system_config)
        if state is not None:
            changed = differences(state["identity"], identity)
            if changed:
                raise ConfigError(
                    f"{self.out}: this run was begun with another config; resuming would mix the "
                    f"two:\n  "
                    + "\n  ".join(changed)
                    + "\nSet it back, or train into another folder."
                )
            load_state(self.system, state["model"])
        gathered(None)  # all have looked into the folder before rank 0 writes there
        if rank() == 0:
            self._prepare_folder(state)
        use_fast_depthwise(self.system)
        layout = {"memory_format": torch.channels_last} if self.config.channels_last else {}
        self.system.to(self.device, **layout).train()
        wants_copy = rank() == 0 and (self.evaluate or self.illustrate)
        self.shown = copy.deepcopy(self.system).eval() if wants_copy else None
        self.model = share(
            self.system,
            self.config.parallel,
            self.device,
            units=self.config.fsdp_units,
            unused=self.config.find_unused_parameters,
        )
        self.optimizer = build_optimizer(self.system, self.config.optim)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.average = (
            WeightAverage(self.system, self.config.optim.ema) if self.config.optim.ema else None
        )
        seed_everything(self.config.seed + 1_000_003 * rank())  # each rank its own dropout
        if state is not None:
            self._restore(state)

    def _found_state(self, resume: bool) -> dict[str, Any] | None:
        if resume:
            return read_latest(self.out)
        if latest(self.out) or (self.out / "metrics.jsonl").exists():
            raise ConfigError(
                f"{self.out}: a run is here already; go on with --resume, or choose another --out"
            )
        return None

    def _prepare_folder(self, state: dict[str, Any] | None) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        done = state["step"] if state else 0
        remove_after(self.out, done)
        cut_metrics(self.out / "metrics.jsonl", done)
        plain = {"engine": to_plain(self.config), "system": to_plain(self.system_config)}
        with atomic(self.out / "config.json") as unfinished:
            unfinished.write_text(json.dumps(plain, indent=1) + "\n")

    def _restore(self, state: dict[str, Any]) -> None:
        self.step, self.seconds_before = state["step"], state["seconds"]
        moments = state["optimizer"]["state"]
        state["optimizer"]["state"] = {
            index: {
                k: v if k == "step" else placed_like(v, self.parameters[index])
                for k, v in of_one.items()
            }
            for index, of_one in moments.items()
        }
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.updates = state["average"]["updates"]
            for name, value in self.average.state.items():
                value.copy_(placed_like(state["average"]["state"][name], value))
        if len(state["ranks"]) != world_size():
            # the old ranks' random numbers are nobody's now; what follows is a valid run, but not
            # the same one
            seed_everything(self.config.seed + 1_000_003 * rank() + 7919 * self.step)
            return
        mine = state["ranks"][rank()]
        set_random_state(mine["random"], self.device)
        self.names = tuple(state["names"]) if state["names"] else None
        self.window, self.window_steps = mine["window"].to(self.device), mine["window_steps"]

    # --------------------------------------------------------------------- go

    def go(self, loader: Loader) -> None:
        """All remaining steps, with logs, evaluations, pictures and states at their times."""
        if self.step:
            self.journal.say(f"resumed after step {self.step} of {self.config.steps}")
        self.begun = self.saved_at = self.logged_at = time.perf_counter()
        self.images, self.logged_step = 0, self.step
        stream = loader.batches(self.step * self.config.accumulate)
        while self.step < self.config.steps:
            batches = self._next(stream)
            norm, stopped, due = self._step(batches)
            self.images += sum(len(batch) for batch in batches)
            last = self.step == self.config.steps
            self.journal.advance(self.step)
            if self.step == 1 or last or self.step % self.config.log_every == 0:
                self._log(norm)
            if self.evaluate and (last or _every(self.config.evaluate_every, self.step)):
                self._show(lambda: self.journal.evaluation(self.step, self.evaluate(self.shown)))
            if self.illustrate and (last or _every(self.config.pictures_every, self.step)):
                self._show(lambda: self.journal.pictures(self.step, self.illustrate(self.shown)))
            if due or stopped or last or _every(self.config.checkpoint_steps, self.step):
                self._save()
            if stopped and not last:
                self._leave()
        if hasattr(stream, "close"):
            stream.close()

    def _next(self, stream: Iterator[Batch]) -> list[Batch]:
        """All micro-batches of a step before any is computed, so that a stop while waiting finds an
        intact state."""
        try:
            with undisturbed(
                self.device
            ):  # torch's DataLoader draws a seed where it begins, and so where we resume
                batches = list(itertools.islice(stream, self.config.accumulate))
        except Exception:
            if (
                self.stop.asked_by and world_size() == 1
            ):  # Ctrl-C also reaches, and ends, the loader's processes
                self._save()
                self._leave()
            raise
        if len(batches) < self.config.accumulate:
            raise TrainingError(
                f"step {self.step + 1}: the loader has no more batches; a training loader must be "
                f"endless"
            )
        return batches

    def _step(self, batches: list[Batch]) -> tuple[Tensor, bool, bool]:
        """One optimizer step; gives the gradient norm, whether anybody asked to stop, whether a
        state is due."""
        self.lr = set_lr(self.optimizer, self.config.optim, self.step, self.config.steps)
        per_batch = []
        for i, batch in enumerate(batches):
            with gradient_sync(self.model, last=i == len(batches) - 1):
                values = self._losses(batch)
                per_batch.append(values.detach())
                (values.sum() * (world_size() / len(batches))).backward()
        losses = torch.stack(per_batch)
        norm = clip_gradients(self.parameters, self.config.optim.clip)
        waited = time.perf_counter() - self.saved_at
        due = 0 < self.config.checkpoint_minutes * 60 <= waited
        bad = ~(losses.isfinite().all() & norm.isfinite())
        stopped = self.stop.asked_by is not None
        bad, stopped, due = any_rank(
            [stopped, due], bad, self.device
        )  # the one host sync of a step
        if bad:
            self._refuse(losses, norm, batches)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.system)
        mean = losses.mean(0)
        self.window = mean if not self.window_steps else self.window + mean
        self.window_steps += 1
        self.step += 1
        return norm, stopped, due

    def _losses(self, batch: Batch) -> Tensor:
        """Every loss of one micro-batch, in the order of `names`."""
        batch = batch.to(self.device)
        if self.config.channels_last:
            images = batch.images.contiguous(memory_format=torch.channels_last)
            batch = dataclasses.replace(batch, images=images)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        ):
            losses = self.model(batch)
        if self.names is None:
            self.names = tuple(sorted(losses))
            if any(names != self.names for names in gathered(self.names)):
                raise TrainingError(
                    f"step {self.step + 1}: the ranks' losses have different names; every batch "
                    f"needs all"
                )
        if not losses or tuple(sorted(losses)) != self.names:
            raise TrainingError(
                f"step {self.step + 1}: losses {sorted(losses)}, expected {list(self.names)} as "
                f"before; "
                f"{type(self.system).__name__} must return the same names, at least one, for every "
                f"batch"
            )
        shaped = [
            f"{name} has shape {list(losses[name].shape)}"
            for name in self.names
            if losses[name].ndim
        ]
        if shaped:
            raise TrainingError(
                f"step {self.step + 1}: every loss must be one number, but {', '.join(shaped)}"
            )
        values = torch.stack([losses[name].float() for name in self.names])
        if not values.requires_grad:
            raise TrainingError(
                f"step {self.step + 1}: no trainable parameter has a part in the losses "
                f"{', '.join(self.names)}"
            )
        return values

    def _refuse(self, losses: Tensor, norm: Tensor, batches: list[Batch]) -> None:
        """Raises TrainingError that says which losses of which pictures are not finite; no weight
        was changed."""
        self.optimizer.zero_grad(set_to_none=True)
        mine = []
        for values, batch in zip(losses.tolist(), batches, strict=True):
            broken = [
                f"{n} = {v}"
                for n, v in zip(self.names, values, strict=True)
                if not abs(v) < float("inf")
            ]
            if broken:
                pictures = ", ".join(meta.path or f"image {meta.image_id}" for meta in batch.metas)
                mine.append(f"{', '.join(broken)} (pictures: {pictures})")
        found = [line for lines in gathered(mine) for line in lines]
        if not found:
            found = [f"all losses are finite, but the norm of their gradients is {norm.item()}"]
        raise TrainingError(
            f"step {self.step + 1}: not finite: "
            + "; ".join(found)
            + ". The optimizer step was not made. "
            "Look at these pictures' labels (humanquery data check), or lower optim.lr."
        )

    # -------------------------------------------------------- log, show, save

    def _log(self, norm: Tensor) -> None:
        # .tolist() waits for the device; only at log steps
        *losses, norm = torch.cat(
            [sum_over_ranks(self.window / self.window_steps), norm.reshape(1)]
        ).tolist()
        now = time.perf_counter()
        seconds = now - self.logged_at
        record = {
            "step": self.step,
            "time": round(self.seconds_before + now - self.begun, 3),
            "total": sum(losses),
            **dict(zip(self.names, losses, strict=True)),
            "lr": self.lr,
            "grad_norm": norm,
            "images_per_s": round(self.images * world_size() / seconds, 3),
        }
        if self.device.type == "cuda":
            record["memory_gb"] = round(torch.cuda.max_memory_allocated(self.device) / 2**30, 2)
        self.journal.losses(record, seconds / (self.step - self.logged_step))
        self.logged_at, self.logged_step, self.images, self.window_steps = now, self.step, 0, 0

    def _show(self, act: Callable[[], None]) -> None:
        """Runs `act` on rank 0 with the weights to be shipped in `shown`; the run's random numbers
        do not notice."""
        weights = self._whole_weights()
        if self.shown is None:
            return
        load_state(self.shown, weights)
        begun = time.perf_counter()
        with undisturbed(self.device), torch.no_grad():
            act()
        self.logged_at += time.perf_counter() - begun  # speed means training speed

    def _whole_weights(self) -> dict[str, Tensor]:
        """Averaged weights if averaging is on. All ranks must call it."""
        state = self.average.state if self.average else self.system.state_dict()
        return {name: whole(value.detach()) for name, value in state.items()}

    def _save(self) -> None:
        """The state after `step` steps, written by rank 0."""
        optimizer = self.optimizer.state_dict()
        optimizer["state"] = {
            i: {k: whole(v) for k, v in one.items()} for i, one in optimizer["state"].items()
        }
        average = self.average and {
            "updates": self.average.updates,
            "state": {name: whole(value) for name, value in self.average.state.items()},
        }
        mine = {
            "random": random_state(self.device),
            "window": self.window.cpu(),
            "window_steps": self.window_steps,
        }
        state = {
            "identity": run_identity(self.config, self.system_config),
            "batches": self.step * self.config.accumulate,
            "seconds": self.seconds_before + time.perf_counter() - self.begun,
            "model": {
                name: whole(value.detach()) for name, value in self.system.state_dict().items()
            },
            "optimizer": optimizer,
            "average": average,
            "names": list(self.names or ()),
            "ranks": gathered(mine),
        }
        if rank() == 0:
            self.journal.on_disk()
            save_state(self.out, self.step, state)
        self.saved_at = time.perf_counter()

    def _leave(self) -> None:
        asked_by = self.stop.asked_by or "another rank"
        raise TrainingInterrupted(
            f"stopped by {asked_by} after step {self.step} of {self.config.steps}; the state is "
            f"saved in {self.out}, "
            f"go on with --resume"
        )

    # ----------------------------------------------------------------- finish

    def finish(self, card: dict[str, Any]) -> TrainingResult:
        """Writes the weights and sums the run up."""
        records = read_metrics(self.out / "metrics.jsonl")
        evaluation = next((r["evaluation"] for r in reversed(records) if "evaluation" in r), {})
        logged = next((r for r in reversed(records) if "total" in r), {})
        weights = self._whole_weights()
        path = self.out / "model.safetensors"
        losses = {name: logged[name] for name in ("total", *(self.names or ())) if name in logged}
        losses, evaluation = gathered((losses, evaluation))[
            0
        ]  # rank 0's file was complete when it read it
        training = {"steps": self.step, "seed": self.config.seed, "evaluation": evaluation}
        if rank() == 0:
            save_state_dict(path, weights, self.system_config, {"training": training, **card})
        return TrainingResult(
            steps=self.step,
            weights=path,
            losses=losses,
            evaluation=evaluation,
            seconds=round(self.seconds_before + time.perf_counter() - self.begun, 3),
        )


def _every(interval: int, step: int) -> bool:
    return bool(interval) and step % interval == 0
