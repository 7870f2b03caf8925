"""What a run learned, as a picture and as text; and on which machine a number was measured."""

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from humanquery.core.errors import ConfigError, nearest
from humanquery.engine.journal import flat_numbers
from humanquery.engine.state import read_metrics

NOT_LOSSES = (
    "step",
    "time",
    "lr",
    "grad_norm",
    "images_per_s",
    "memory_gb",
    "evaluation",
    "unreadable",
)
SHOWN_SCORES = 8


def run_records(out: Path | str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(lines of losses, lines of evaluations) of a run's folder or metrics.jsonl; ConfigError where
    there is no run."""
    path = Path(out)
    path = path / "metrics.jsonl" if path.is_dir() else path
    records = read_metrics(path)
    if not records:
        raise ConfigError(
            f"{path}: no metrics here; expected the folder that was given to train as --out"
        )
    return [r for r in records if "total" in r], [r for r in records if "evaluation" in r]


def plot_runs(
    runs: Sequence[Path | str],
    png: Path | str,
    losses: Sequence[str] = (),
    scores: Sequence[str] = (),
    *,
    preferred: Sequence[str] = (),
) -> Path:
    """Learning curves of one or more runs: the total loss, the `losses` and evaluation `scores`
    asked for (nested ones as `box/AP`). Without any `scores`: those of `preferred` that there are,
    or else the first `SHOWN_SCORES`.

    One panel per quantity, one line per run named by its folder; losses on a log axis where they
    are all positive. An unknown loss or score raises ConfigError. Needs matplotlib (extra `train`).
    """
    from matplotlib.figure import (
        Figure,
    )  # no pyplot: it would keep the figure and choose a window system

    read = {_label(run, runs): run_records(run) for run in runs}
    if not read:
        raise ConfigError("plot_runs: no run was given")
    known = {
        name
        for lines, _ in read.values()
        for line in lines
        for name in line
        if name not in NOT_LOSSES
    }
    for name in losses:
        if name not in known:
            raise ConfigError(f"no run has a loss {name!r}.{nearest(name, known)}")
    curves = [(name, _loss_curves(read, name)) for name in dict.fromkeys(["total", *losses])]
    scored = dict.fromkeys(
        n for _, lines in read.values() for line in lines for n in flat_numbers(line["evaluation"])
    )
    for name in scores:
        if name not in scored:
            raise ConfigError(f"no run was evaluated for {name!r}.{nearest(name, scored)}")
    chosen = scores or [name for name in preferred if name in scored] or list(scored)[:SHOWN_SCORES]
    curves += [(name, _score_curves(read, name)) for name in chosen]
    columns = min(3, len(curves))
    lines = -(-len(curves) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.4 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, (name, of_runs) in zip(panels, curves, strict=False):
        for number, (run, (steps, values)) in enumerate(of_runs.items()):
            panel.plot(
                steps,
                values,
                label=run,
                color=f"C{number % 10}",
                marker="o" if len(steps) < 12 else None,
                ms=3,
            )
        if name in known and all(value > 0 for _, values in of_runs.values() for value in values):
            panel.set_yscale("log")
        panel.set_title(f"loss {name}" if name in known else name, fontsize=10)
        panel.set_xlabel("step")
        panel.grid(alpha=0.3, which="both")
    panels[0].legend(fontsize=8)
    for panel in panels[len(curves) :]:
        panel.remove()
    Path(png).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png, dpi=110)
    return Path(png)


def _label(run: Path | str, runs: Sequence[Path | str]) -> str:
    """The folder's name; the whole path where two folders share it."""
    names = [_folder(other).name for other in runs]
    return _folder(run).name if names.count(_folder(run).name) == 1 else str(_folder(run))


def _folder(run: Path | str) -> Path:
    path = Path(run).resolve()
    return path.parent if path.suffix == ".jsonl" else path


def _loss_curves(read: dict, name: str) -> dict:
    points = {
        run: [(r["step"], r[name]) for r in lines if r.get(name) is not None]
        for run, (lines, _) in read.items()
    }
    return {run: tuple(zip(*of_run, strict=True)) for run, of_run in points.items() if of_run}


def _score_curves(read: dict, name: str) -> dict:
    points = {
        run: [
            (r["step"], flat_numbers(r["evaluation"])[name])
            for r in lines
            if name in flat_numbers(r["evaluation"])
        ]
        for run, (_, lines) in read.items()
    }
    return {run: tuple(zip(*of_run, strict=True)) for run, of_run in points.items() if of_run}


def summarise(out: Path | str) -> str:
    """A run in a few lines: steps, time, speed, first and last losses, last and best evaluation
    numbers."""
    lines, evaluations = run_records(out)
    text = [f"{_folder(out).name}"]
    if lines:
        first, last = lines[0], lines[-1]
        minutes = last["time"] / 60
        text.append(
            f"  {last['step']} steps in {minutes:.1f} min, {last['images_per_s']:.1f} images/s at "
            f"the end"
        )
        for name in [n for n in last if n not in NOT_LOSSES]:
            text.append(f"  {name:<24} {_number(first.get(name))} -> {_number(last[name])}")
    if evaluations:
        found = [(record["step"], flat_numbers(record["evaluation"])) for record in evaluations]
        text.append(f"  evaluation at step {found[-1][0]} (smallest .. largest of {len(found)})")
        for name, value in found[-1][1].items():
            every = [scores[name] for _, scores in found if name in scores]
            text.append(
                f"  {name:<24} {_number(value)} ({_number(min(every))} .. {_number(max(every))})"
            )
    return "\n".join(text)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def machine() -> dict[str, Any]:
    """Where and when a number was measured: commit, cpu, cores, torch, gpu, date (UTC); "unknown"
    where unknown."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "commit": _commit(Path(__file__).parent),
        "cpu": _cpu(),
        "cores": os.cpu_count() or 0,
        "torch": torch.__version__,
        "gpu": gpu,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _commit(folder: Path) -> str:
    """Short hash of the checkout, with "+changes" where files differ from it."""
    try:
        asked = [
            "git",
            "-C",
            str(folder),
            "describe",
            "--always",
            "--exclude=*",
            "--dirty=+changes",
        ]
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip() or "unknown"


def _cpu() -> str:
    """The processor's name as Linux gives it, else what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.processor() or platform.machine() or "unknown"])[0]
