"""What a run tells while it runs: a progress bar, `metrics.jsonl`, TensorBoard."""

import json
import sys
import time
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Journal:
    """Writes for one rank (`active`); lines of steps after `start` are dropped, since a resumed run writes them again."""

    def __init__(self, out: Path, steps: int, start: int, *, active: bool = True):
        self.active, self.start, self.steps = active, start, steps
        self.path = out / "metrics.jsonl"
        self.progress: Progress | None = None
        self.last_total = float("nan")
        self.began = time.monotonic()
        self.pictures = 0
        if not active:
            return
        kept = [line for line in _lines(self.path) if json.loads(line)["step"] <= start]
        self.path.write_text("".join(line + "\n" for line in kept))
        self.file = self.path.open("a")
        self.board = _board(out)

    def __enter__(self) -> "Journal":
        if self.active and sys.stdout.isatty():
            columns = (
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[said]}"),
                TimeRemainingColumn(),
            )
            self.progress = Progress(*columns)
            self.progress.start()
            self.bar = self.progress.add_task("training", total=self.steps, completed=self.start, said="")
        return self

    def __exit__(self, *_problem) -> None:
        if self.progress:
            self.progress.stop()
        if self.active:
            self.file.close()
            if self.board:
                self.board.close()

    def advance(self, step: int, pictures: int) -> None:
        self.pictures += pictures
        if self.progress:
            said = f"loss {self.last_total:.2f}, {self._speed(step):.2f} s/step"
            self.progress.update(self.bar, completed=step, said=said)

    def _speed(self, step: int) -> float:
        return (time.monotonic() - self.began) / max(step - self.start, 1)

    def losses(self, step: int, row: dict[str, float]) -> None:
        if not self.active:
            return
        self.last_total = row["total"]
        seconds = self._speed(step)
        self._write(step, {**row, "seconds_per_step": seconds})
        if self.progress is None:
            left = (self.steps - step) * seconds / 60
            print(f"step {step}/{self.steps}  loss {row['total']:.3f}  {seconds:.2f} s/step  {left:.1f} min left", flush=True)

    def numbers(self, step: int, numbers: dict[str, float]) -> None:
        if not self.active or not numbers:
            return
        self._write(step, {f"evaluation/{name}": value for name, value in numbers.items()})
        shown = "  ".join(f"{name} {value:.3f}" for name, value in list(numbers.items())[:6])
        print(f"step {step}  {shown}", flush=True)

    def _write(self, step: int, row: dict[str, float]) -> None:
        self.file.write(json.dumps({"step": step, "time": round(time.time(), 1), **row}) + "\n")
        self.file.flush()
        if self.board:
            for name, value in row.items():
                self.board.add_scalar(name, value, step)

    def flush(self) -> None:
        if self.active:
            self.file.flush()


def _lines(path: Path) -> list[str]:
    """Whole lines only: a killed run may have left half of one."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    return [line for line in lines if line.startswith("{") and line.endswith("}")]


def _board(out: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the extra `train` is not installed
        return None
    return SummaryWriter(str(out / "tensorboard"))
