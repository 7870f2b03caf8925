"""One training loop for every system: a run in its folder, with logs, evaluations and states."""

import contextlib
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

from humanquery.core.config import to_plain
from humanquery.core.errors import ConfigError, TrainingError
from humanquery.core.ranks import rank, sum_over_ranks, world_size
from humanquery.engine.checkpoint import atomic, load_state, save_state_dict
from humanquery.engine.distributed import gathered, joined_ranks
from humanquery.engine.journal import Journal
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
from humanquery.engine.train_config import (
    EngineConfig,
    added_parts,
    comparable,
    differences,
    run_identity,
)
from humanquery.engine.trainer import Trainer

Evaluate = Callable[[nn.Module], dict]
"""the weights as they would be shipped (averaged if averaging is on), in eval mode -> numbers,
nested as they like"""
Illustrate = Callable[[nn.Module], dict]
"""the same module -> name of a picture: h w 3 uint8 RGB"""


@runtime_checkable
class Loader(Protocol):
    """An endless stream of micro-batches in which number i depends on i alone (and on seed, rank
    and world size): `Batch`es, or (name of the data set, `Batch`), see `Trainer.step`.

    It may also have `identity() -> dict`, plain data that names what is learned from (see
    `train_config.run_identity`), and `unreadable`, a mapping from a sentence about a picture that
    was skipped to how often.
    """

    def batches(self, start: int) -> Iterator[Any]: ...


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
    resumed_at: tuple[int, ...] = ()
    """steps after which the run was taken up again"""
    unreadable: dict[str, int] = dataclasses.field(default_factory=dict)
    """why a picture could not be read and was replaced -> how often, since the last resumption"""


def train(
    system: nn.Module,
    loader: Loader,
    config: EngineConfig,
    out: Path | str,
    *,
    resume: bool = False,
    allow_changes: bool = False,
    identity: dict[str, Any] | None = None,
    started_from: dict[str, Any] | None = None,
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
    interruption (on the CPU, with the same number of ranks), or begins if there is none; which of
    both is printed and stands in the card. `system` is trained in place and keeps the plain, not
    the averaged weights (under FSDP it stays sharded); `evaluate` and `illustrate` see a copy, on
    rank 0 only, and cannot disturb the run's random numbers. `card` is written into the weights
    file.

    A run has an identity: both configs, the loader's `identity`, and what else `identity` holds
    (the recipe's name, say). `started_from` says which weights the caller put into `system` before
    (`weights`: their name, `sha256`); None: fresh ones. What differs from the run in `out` is
    refused field by field; with `allow_changes` it is printed and written into config.json and the
    card. A state of a run begun before there were identities is resumed with a notice.

    ConfigError: `out` has a run already, or the state to resume comes from another run.
    TrainingError: a loss or a gradient is not finite (before the optimizer step), or the losses are
    no losses. TrainingInterrupted: SIGTERM or Ctrl-C; the step was finished and the state saved.
    """
    with (
        joined_ranks(config.device) as device,
        _kernels(config.deterministic),
        StopRequest() as stop,
    ):
        run = _Run(system, loader, config, Path(out), device, stop, evaluate, illustrate)
        speaks = rank() == 0
        try:
            run.begin(resume, allow_changes, identity or {}, started_from)
            with Journal(
                run.out,
                step=run.step,
                steps=config.steps,
                tensorboard=config.tensorboard,
                speaks=speaks,
            ) as run.journal:
                run.go()
            return run.finish(card or {})
        finally:
            run.trainer.release()


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
    """A run in its folder, and where it stands."""

    journal: Journal

    def __init__(
        self,
        system: nn.Module,
        loader: Loader,
        config: EngineConfig,
        out: Path,
        device: torch.device,
        stop: StopRequest,
        evaluate: Evaluate | None,
        illustrate: Illustrate | None,
    ):
        self.loader, self.config, self.out = loader, config, out
        self.device, self.stop = device, stop
        self.evaluate, self.illustrate = evaluate, illustrate
        wants_copy = rank() == 0 and bool(evaluate or illustrate)
        self.trainer = Trainer(system, config, device, copied=wants_copy)
        self.seconds_before = 0.0
        self.history: list[dict[str, Any]] = []
        self.notices: list[str] = []
        """printed as soon as the journal is open"""
        self.window = torch.zeros(0)  # sums of the losses since the last log line, on the device
        self.window_steps = 0

    @property
    def step(self) -> int:
        """Optimizer steps that are done."""
        return self.trainer.done

    # ------------------------------------------------------------------ begin

    def begin(
        self,
        resume: bool,
        allow_changes: bool,
        parts: dict[str, Any],
        started_from: dict[str, Any] | None,
    ) -> None:
        """Puts every part in place, from the newest state if there is one."""
        state = self._found_state(resume)
        before = _read_config(self.out) if state is not None else {}
        self.history = list(before.get("history", ()))
        self.started_from = started_from or before.get("started_from")
        self.identity = self._identity_now(parts, started_from, state)
        if state is None:
            self._note_start(resume, started_from)
        else:
            self._note_resumption(state, allow_changes)
        gathered(None)  # all have looked into the folder before rank 0 writes there
        if rank() == 0:
            self._prepare_folder(state)
        self.trainer.begin(state)
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

    def _identity_now(
        self, parts: dict[str, Any], started_from: dict[str, Any] | None, state: dict | None
    ) -> dict[str, Any]:
        of_loader = getattr(self.loader, "identity", dict)()
        weights = (started_from or {}).get("sha256", "fresh")
        if state is not None and started_from is None:
            # a resumed run need not name again what it started from
            weights = state.get("identity", {}).get("started_from", weights)
        return run_identity(
            self.config, self.trainer.system_config, **parts, **of_loader, started_from=weights
        )

    def _note_start(self, resume: bool, started_from: dict[str, Any] | None) -> None:
        origin = started_from["weights"] if started_from else "fresh weights"
        nothing = f"nothing to resume in {self.out}: " if resume else ""
        self.notices.append(f"{nothing}a new run starts from {origin}")
        self.history.append({"started_from": origin, "step": 0})

    def _note_resumption(self, state: dict[str, Any], allow_changes: bool) -> None:
        """Compares the run with the state's; ConfigError names every difference that was not
        allowed."""
        old = state.get("identity", {})
        changed = differences(
            comparable(old, self.identity, self.trainer.system_config), self.identity
        )
        if changed and not allow_changes:
            raise ConfigError(
                f"{self.out}: the run here is another one; resuming would mix the two:\n  "
                + "\n  ".join(changed)
                + "\nSet it back, train into another folder, or allow it with --allow-changes, "
                "which is then written down in the run."
            )
        step = state["step"]
        self.notices.append(
            f"resumed after step {step} of {self.config.steps}; the weights are those of the run "
            f"in {self.out}"
        )
        missing = added_parts(old, self.identity)
        if missing:
            self.notices.append(
                f"notice: this run was begun before runs had an identity; not compared: "
                f"{', '.join(missing)}"
            )
        self.notices += [f"allowed change: {line}" for line in changed]
        self.history.append({"resumed_at": step, **({"changes": changed} if changed else {})})

    def _prepare_folder(self, state: dict[str, Any] | None) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        done = state["step"] if state else 0
        remove_after(self.out, done)
        cut_metrics(self.out / "metrics.jsonl", done)
        plain = {
            "engine": to_plain(self.config),
            "system": to_plain(self.trainer.system_config),
            "identity": self.identity,
            "started_from": self.started_from,
            "history": self.history,
        }
        with atomic(self.out / "config.json") as unfinished:
            unfinished.write_text(json.dumps(plain, indent=1) + "\n")

    def _restore(self, state: dict[str, Any]) -> None:
        self.seconds_before = state["seconds"]
        if len(state["ranks"]) != world_size():
            # the old ranks' random numbers are nobody's now; what follows is a valid run, but not
            # the same one
            seed_everything(self.config.seed + 1_000_003 * rank() + 7919 * self.step)
            return
        mine = state["ranks"][rank()]
        set_random_state(mine["random"], self.device)
        if tuple(state["names"]) == (self.trainer.names or ()):
            self.window, self.window_steps = mine["window"].to(self.device), mine["window_steps"]

    # --------------------------------------------------------------------- go

    def go(self) -> None:
        """All remaining steps, with logs, evaluations, pictures and states at their times."""
        for notice in self.notices:
            self.journal.say(notice)
        self.begun = self.saved_at = self.logged_at = time.perf_counter()
        self.images, self.logged_step = 0, self.step
        stream = self.loader.batches(self.step * self.config.accumulate)
        while self.step < self.config.steps:
            batches = self._next(stream)
            norm, stopped, due = self._step(batches)
            self.images += sum(len(b[1] if isinstance(b, tuple) else b) for b in batches)
            last = self.step == self.config.steps
            self.journal.advance(self.step)
            if self.step == 1 or last or self.step % self.config.log_every == 0:
                self._log(norm)
            if self.evaluate and (last or _every(self.config.evaluate_every, self.step)):
                self._show(lambda shown: self.journal.evaluation(self.step, self.evaluate(shown)))
            if self.illustrate and (last or _every(self.config.pictures_every, self.step)):
                self._show(lambda shown: self.journal.pictures(self.step, self.illustrate(shown)))
            if due or stopped or last or _every(self.config.checkpoint_steps, self.step):
                self._save()
            if stopped and not last:
                self._leave()
        if hasattr(stream, "close"):
            stream.close()
        self._report_unreadable()

    def _next(self, stream: Iterator[Any]) -> list[Any]:
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

    def _step(self, batches: list[Any]) -> tuple[Tensor, bool, bool]:
        """One optimizer step; gives the gradient norm, whether anybody asked to stop, whether a
        state is due."""
        waited = time.perf_counter() - self.saved_at
        due = 0 < self.config.checkpoint_minutes * 60 <= waited
        flags = [self.stop.asked_by is not None, due]
        step = self.trainer.step(batches, flags)
        self.window = step.losses if not self.window_steps else self.window + step.losses
        self.window_steps += 1
        return step.norm, *step.flags

    def _unreadable(self) -> dict[str, int]:
        """Of this rank's loader."""
        return dict(getattr(self.loader, "unreadable", None) or {})

    def _report_unreadable(self) -> None:
        found = self._unreadable()
        if found:
            shown = "; ".join(list(found)[:3]) + (" ..." if len(found) > 3 else "")
            self.journal.say(
                f"{len(found)} pictures could not be read and were replaced "
                f"{sum(found.values())} times: {shown}"
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
            **dict(zip(self.trainer.names, losses, strict=True)),
            "lr": self.trainer.lr,
            "grad_norm": norm,
            "images_per_s": round(self.images * world_size() / seconds, 3),
        }
        if self.device.type == "cuda":
            record["memory_gb"] = round(torch.cuda.max_memory_allocated(self.device) / 2**30, 2)
        unreadable = sum(self._unreadable().values())
        record |= {"unreadable": unreadable} if unreadable else {}
        self.journal.losses(record, seconds / (self.step - self.logged_step))
        self.logged_at, self.logged_step, self.images, self.window_steps = now, self.step, 0, 0

    def _show(self, act: Callable[[nn.Module], None]) -> None:
        """Runs `act` on rank 0 with a system that has the weights to be shipped; the run's random
        numbers are as before."""
        weights, shown = self.trainer.weights(), self.trainer.copy
        if shown is None:
            return
        load_state(shown, weights)
        begun = time.perf_counter()
        with undisturbed(self.device), torch.no_grad():
            act(shown)
        self.logged_at += time.perf_counter() - begun  # speed means training speed

    def _save(self) -> None:
        """The state after `step` steps, written by rank 0."""
        mine = {
            "random": random_state(self.device),
            "window": self.window.cpu(),
            "window_steps": self.window_steps,
        }
        state = {
            "identity": self.identity,
            "batches": self.step * self.config.accumulate,
            "seconds": self.seconds_before + time.perf_counter() - self.begun,
            **self.trainer.state(),
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
        weights = self.trainer.finish()
        path = self.out / "model.safetensors"
        names = ("total", *(self.trainer.names or ()))
        losses = {name: logged[name] for name in names if name in logged}
        # rank 0's file was complete when it read it
        losses, evaluation = gathered((losses, evaluation))[0]
        unreadable: dict[str, int] = {}
        for of_rank in gathered(self._unreadable()):
            for reason, times in of_rank.items():
                unreadable[reason] = unreadable.get(reason, 0) + times
        resumed = tuple(event["resumed_at"] for event in self.history if "resumed_at" in event)
        if rank() == 0:
            training = self._card_facts(evaluation, resumed, unreadable)
            about = {"started_from": self.started_from} if self.started_from else {}
            about = {"training": training, **about, **card}
            save_state_dict(path, weights, self.trainer.system_config, about)
        return TrainingResult(
            steps=self.step,
            weights=path,
            losses=losses,
            evaluation=evaluation,
            seconds=round(self.seconds_before + time.perf_counter() - self.begun, 3),
            resumed_at=resumed,
            unreadable=unreadable,
        )

    def _card_facts(
        self, evaluation: dict[str, Any], resumed: tuple[int, ...], unreadable: dict[str, int]
    ) -> dict[str, Any]:
        """What happened in the run. Of allowed changes the fields alone: values may be paths."""
        training = {"steps": self.step, "seed": self.config.seed, "evaluation": evaluation}
        allowed = {
            str(event["resumed_at"]): [line.split(":")[0] for line in event["changes"]]
            for event in self.history
            if "changes" in event
        }
        training |= {"resumed_at": list(resumed)} if resumed else {}
        training |= {"changes_allowed": allowed} if allowed else {}
        training |= {"unreadable_pictures": len(unreadable)} if unreadable else {}
        return training


def _read_config(out: Path) -> dict[str, Any]:
    """config.json of an earlier part of the run; empty where there is none that can be read."""
    try:
        read = json.loads((out / "config.json").read_text())
    except (OSError, ValueError):  # it only adds history: the state decides what is resumed
        return {}
    return read if isinstance(read, dict) else {}


def _every(interval: int, step: int) -> bool:
    return bool(interval) and step % interval == 0
