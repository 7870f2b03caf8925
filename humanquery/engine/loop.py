"""One training loop for any `System`."""

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from humanquery.core.batch import Batch
from humanquery.core.config import to_plain
from humanquery.core.errors import ConfigError, TrainingError
from humanquery.engine import distributed
from humanquery.engine.checkpoint import latest_state, load_state, save_state, save_weights
from humanquery.engine.journal import Journal
from humanquery.engine.optim import MovingAverage, OptimConfig, optimizer_of, rate, set_rate


@dataclass(frozen=True)
class EngineConfig:
    """How a run is driven. Batch size and workers belong to the loader."""

    steps: int = 1000
    accumulate: int = 1
    """batches per step; their losses are averaged"""
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    deterministic: bool = False
    seed: int = 0
    device: str = "auto"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    checkpoint_every: int = 500
    """steps"""
    checkpoint_minutes: float = 5.0
    """at the latest after so many minutes; 0: only by steps"""
    log_every: int = 20
    evaluate_every: int = 0
    """0: only at the end"""
    pictures_every: int = 0
    optim: OptimConfig = field(default_factory=OptimConfig)


class Loader(Protocol):
    """Batch i depends on i alone, so that a resumed run sees what an uninterrupted one would have seen."""

    def batches(self, start: int) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class TrainingResult:
    steps: int
    weights: Path
    numbers: dict[str, float]
    """of the last evaluation; empty without one"""


Evaluate = Callable[[nn.Module], dict[str, float]]
Illustrate = Callable[[nn.Module, Path], None]


class Interrupted(TrainingError):
    """The run was asked to stop; its state is saved."""


def train(
    system: nn.Module,
    loader: Loader,
    config: EngineConfig,
    out: Path,
    *,
    resume: bool = False,
    evaluate: Evaluate | None = None,
    illustrate: Illustrate | None = None,
    card: dict[str, Any] | None = None,
) -> TrainingResult:
    """Minimises the plain sum of the system's losses; leaves `model.safetensors`, `metrics.jsonl`, `config.json` in `out`.

    With `resume`, goes on from the newest state in `out` (from the start if there is none); on the CPU the result then
    equals an uninterrupted run bit for bit. A loss that is not finite raises TrainingError before the step that it would
    spoil. Ctrl-C and SIGTERM save the state and raise `Interrupted`.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if not resume and latest_state(out) is not None:
        raise ConfigError(f"{out} holds the state of an earlier run; add --resume to go on, or choose another folder")
    return _Run(system, loader, config, out, resume, evaluate, illustrate, card or {}).go()


class _Run:
    """The parts of one run, so that the loop below reads as sentences."""

    def __init__(self, system, loader, config, out, resume, evaluate, illustrate, card):
        distributed.start()
        self.config, self.loader, self.out, self.card = config, loader, out, card
        self.evaluate, self.illustrate = evaluate, illustrate
        self.device = _device(config.device)
        _seed(config)
        self.system = system.to(self.device)
        if config.channels_last:
            self.system = self.system.to(memory_format=torch.channels_last)
        self.step = 0
        self.stored = latest_state(out) if resume else None
        if self.stored is not None:
            load_state(self.system, self.stored["model"], f"the state in {out}")
        self.wrapped = distributed.spread(self.system, config.parallel)
        self.optimizer = optimizer_of(self.system, config.optim)
        decay = config.optim.ema_decay
        self.average = MovingAverage(self.system, decay) if decay else None
        self.leader = distributed.rank() == 0
        if self.stored is not None:
            self._restore(self.stored)
        self.journal = Journal(out, config.steps, self.step, active=self.leader)
        self.saved_at = time.monotonic()
        self.stop_asked = False

    def go(self) -> TrainingResult:
        if self.leader:
            (self.out / "config.json").write_text(json.dumps(to_plain(self.config), indent=1))
        numbers: dict[str, float] = {}
        batches = self.loader.batches(self.step * self.config.accumulate)
        self.system.train()
        with self.journal, self._stop_on_signals():
            while self.step < self.config.steps:
                self._one_step(batches)
                if self.stop_asked:
                    self._save()
                    raise Interrupted(f"stopped after step {self.step}; go on with --resume --out {self.out}")
                if self._due(self.config.evaluate_every) and self.step < self.config.steps:
                    numbers = self._evaluate()
                if self.illustrate and self._due(self.config.pictures_every) and self.leader:
                    self._aside(lambda model: self.illustrate(model, self.out / "pictures" / f"{self.step:08d}"))
                if self._time_to_save():
                    self._save()
            numbers = self._evaluate() or numbers
            return TrainingResult(self.step, self._finish(), numbers)

    def _one_step(self, batches: Iterator[Batch]) -> None:
        config = self.config
        set_rate(self.optimizer, rate(self.step, config.steps, config.optim), config.optim)
        self.optimizer.zero_grad(set_to_none=True)
        named: dict[str, Tensor] = {}
        pictures = 0
        for _ in range(config.accumulate):
            batch = next(batches).to(self.device)
            pictures += len(batch)
            losses = self._losses(batch)
            self._check_finite(losses, batch)
            total = sum(losses.values()) * (distributed.world_size() / config.accumulate)
            total.backward()
            for name, value in losses.items():
                named[name] = named.get(name, 0) + value.detach() / config.accumulate
        norm = self._clip()
        self.optimizer.step()
        if self.average:
            self.average.update(self.system)
        self.step += 1
        if self.step % config.log_every == 0 or self.step == config.steps:
            self._log(named, norm, pictures)
        self.journal.advance(self.step, pictures)

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        if self.config.channels_last:
            images = batch.images.contiguous(memory_format=torch.channels_last)
            batch = Batch(images, batch.padding, batch.metas, batch.targets)
        if self.config.precision == "bf16":
            with torch.autocast(self.device.type, torch.bfloat16):
                return self.wrapped(batch)
        return self.wrapped(batch)

    def _check_finite(self, losses: dict[str, Tensor], batch: Batch) -> None:
        values = torch.stack([value.detach().float() for value in losses.values()])
        if bool(torch.isfinite(values).all()):  # host sync: a broken step must not happen
            return
        bad = [name for name, value in losses.items() if not torch.isfinite(value.detach()).all()]
        paths = ", ".join(meta.path or str(meta.image_id) for meta in batch.metas[:4])
        raise TrainingError(
            f"step {self.step}: loss {', '.join(bad)} is not finite (pictures: {paths}); the weights are those of the step "
            "before. Look at the labels of these pictures, or lower optim.lr"
        )

    def _clip(self) -> Tensor | None:
        limit = self.config.optim.clip_norm
        parameters = [p for p in self.system.parameters() if p.grad is not None]
        return torch.nn.utils.clip_grad_norm_(parameters, limit) if limit else None

    def _log(self, named: dict[str, Tensor], norm: Tensor | None, pictures: int) -> None:
        """Losses add up over ranks, so that the journal tells the run's losses, not one rank's."""
        names, values = list(named), torch.stack([v.float() for v in named.values()])
        if distributed.world_size() > 1:
            names, values = _sum_named(names, values)
        row = dict(zip(names, values.tolist(), strict=True))  # host sync: only where a line is written
        extra = {"total": sum(row.values()), "lr": self.optimizer.param_groups[0]["lr"]}
        if norm is not None:
            extra["gradient_norm"] = float(norm)
        self.journal.losses(self.step, {**extra, **row})

    def _due(self, every: int) -> bool:
        return bool(every) and self.step % every == 0

    def _evaluate(self) -> dict[str, float]:
        if self.evaluate is None:
            return {}
        numbers = self._aside(self.evaluate) if self.leader else {}
        self.journal.numbers(self.step, numbers)
        return numbers

    def _aside(self, use: Callable[[nn.Module], Any]) -> Any:
        """`use(system)` with the averaged weights in eval mode; then everything is as before, random states included."""
        random_states = _random_states()
        own = {n: t.detach().clone() for n, t in self.system.state_dict().items()} if self.average else None
        if self.average:
            self.system.load_state_dict(self.average.state)
        self.system.eval()
        try:
            with torch.no_grad():
                return use(self.system)
        finally:
            if own is not None:
                self.system.load_state_dict(own)
            self.system.train()
            _set_random_states(random_states)

    # -- states --------------------------------------------------------------------------------------------------------

    def _time_to_save(self) -> bool:
        minutes = self.config.checkpoint_minutes
        late = bool(minutes) and time.monotonic() - self.saved_at > 60 * minutes
        if distributed.world_size() > 1:
            late = False  # clocks of ranks differ; all must save at the same step
        return self._due(self.config.checkpoint_every) or late

    def _save(self) -> None:
        model, optimizer = distributed.full_state(self.system), self._optimizer_state()
        if self.leader:
            state = {"step": self.step, "model": model, "optimizer": optimizer, "random": _random_states()}
            if self.average:
                state["average"] = self.average.state_dict()
            self.journal.flush()
            save_state(self.out, self.step, state)
        self.saved_at = time.monotonic()

    def _optimizer_state(self) -> dict[str, Any]:
        if self.config.parallel == "fsdp" and distributed.world_size() > 1:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

            return get_optimizer_state_dict(self.system, self.optimizer, options=StateDictOptions(full_state_dict=True))
        return self.optimizer.state_dict()

    def _restore(self, stored: dict[str, Any]) -> None:
        self.step = stored["step"]
        if self.config.parallel == "fsdp" and distributed.world_size() > 1:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

            options = StateDictOptions(full_state_dict=True)
            set_optimizer_state_dict(self.system, self.optimizer, stored["optimizer"], options=options)
        else:
            self.optimizer.load_state_dict(stored["optimizer"])
        if self.average and "average" in stored:
            self.average.load_state_dict(stored["average"])
        _set_random_states(stored["random"])

    def _finish(self) -> Path:
        path = self.out / "model.safetensors"
        self._save()
        if self.leader:
            self._aside(lambda model: save_weights(path, model, card=self.card))
        return path

    @contextlib.contextmanager
    def _stop_on_signals(self):
        """The first Ctrl-C or SIGTERM ends the run after the current step; a second Ctrl-C ends it at once."""

        def ask(number, _frame):
            self.stop_asked = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        try:
            before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: signals are somebody else's
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def _seed(config: EngineConfig) -> None:
    seed = config.seed * 1000 + distributed.rank()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if config.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)


def _random_states() -> dict[str, Any]:
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    states = {
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def _set_random_states(states: dict[str, Any]) -> None:
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in states["cuda"]])


def _sum_named(names: list[str], values: Tensor) -> tuple[list[str], Tensor]:
    """Sums losses over ranks by name: a rank without people in its batch has fewer denoising losses than another."""
    import torch.distributed as dist

    gathered: list[Any] = [None] * distributed.world_size()
    dist.all_gather_object(gathered, dict(zip(names, values.tolist(), strict=True)))
    total: dict[str, float] = {}
    for row in gathered:
        for name, value in row.items():
            total[name] = total.get(name, 0.0) + value
    return list(total), torch.tensor(list(total.values()))
