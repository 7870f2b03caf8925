"""What a run tells while it runs: one progress bar, metrics.jsonl, TensorBoard, pictures."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def plain_numbers(value: Any) -> Any:
    """JSON-ready: tensor and numpy scalars become numbers, what is not finite becomes None."""
    if isinstance(value, dict):
        return {str(key): plain_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_numbers(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flat_numbers(tree: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """`{"box": {"AP": 0.9}}` -> `{"box/AP": 0.9}`; what is no number is left out."""
    flat: dict[str, float] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flat_numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[f"{prefix}{name}"] = float(value)
    return flat


class Journal:
    """Rank 0's voice; on other ranks (`speaks` False) every method does nothing.

    On a terminal one progress bar, otherwise a plain line per log step.
    """

    def __init__(self, out: Path, *, step: int, steps: int, tensorboard: bool, speaks: bool):
        self.out, self.steps, self.speaks = out, steps, speaks
        self.bar: Progress | None = None
        self.events: Any = None
        if not speaks:
            return
        self.metrics = open(out / "metrics.jsonl", "a", buffering=1)  # noqa: SIM115 (closed in __exit__)
        if tensorboard:
            self.events = _tensorboard(out, step)
        if sys.stdout.isatty():
            columns = (
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[summary]}"),
            )
            self.bar = Progress(*columns, TimeRemainingColumn(), transient=False)
            self.task = self.bar.add_task("train", total=steps, completed=step, summary="")

    def __enter__(self) -> "Journal":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self.bar:
            self.bar.stop()
        if self.events:
            self.events.close()
        if self.speaks:
            self.metrics.close()

    def advance(self, step: int) -> None:
        if self.bar:
            self.bar.update(self.task, completed=step)

    def losses(self, record: dict[str, Any], seconds_per_step: float) -> None:
        """A line of metrics.jsonl: step, time (s of training), total, losses, lr, grad_norm,
        images_per_s."""
        if not self.speaks:
            return
        self.metrics.write(json.dumps(plain_numbers(record)) + "\n")
        summary = f"loss {record['total']:.4f}  lr {record['lr']:.2e}  {seconds_per_step:.2f} s/it"
        if self.bar:
            self.bar.update(self.task, completed=record["step"], summary=summary)
        else:
            left = (self.steps - record["step"]) * seconds_per_step
            print(f"step {record['step']}/{self.steps}  {summary}  {_clock(left)} left", flush=True)
        self._scalars(
            record["step"],
            flat_numbers(plain_numbers({k: v for k, v in record.items() if k != "step"})),
        )

    def evaluation(self, step: int, scores: dict[str, Any]) -> None:
        """A line `{"step": ..., "evaluation": {...}}`."""
        if not self.speaks:
            return
        scores = plain_numbers(scores)
        self.metrics.write(json.dumps({"step": step, "evaluation": scores}) + "\n")
        numbers = flat_numbers(scores)
        self.say(
            f"step {step}: "
            + "  ".join(f"{name} {value:.4g}" for name, value in list(numbers.items())[:8])
        )
        self._scalars(step, {f"evaluation/{name}": value for name, value in numbers.items()})

    def pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """`pictures/<step>-<name>.png` from h w 3 uint8 RGB."""
        if not self.speaks:
            return
        folder = self.out / "pictures"
        folder.mkdir(exist_ok=True)
        for name, picture in pictures.items():
            Image.fromarray(picture).save(folder / f"{step:08d}-{name}.png")
            if self.events:
                self.events.add_image(name, picture, step, dataformats="HWC")

    def say(self, text: str) -> None:
        if not self.speaks:
            return
        if self.bar:
            self.bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, flush=True)

    def on_disk(self) -> None:
        """Before a state is saved: all lines up to its step must survive with it."""
        if self.speaks:
            self.metrics.flush()
            os.fsync(self.metrics.fileno())

    def _scalars(self, step: int, numbers: dict[str, float]) -> None:
        if self.events:
            for name, value in numbers.items():
                self.events.add_scalar(name, value, step)


def _tensorboard(out: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # extra `train` is not installed; metrics.jsonl has the same numbers
        return None
    return SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
