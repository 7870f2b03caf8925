"""The state of an unfinished run: `state-<step>.pt` beside its metrics, so that a resumed run
goes on bit for bit."""

import contextlib
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from humanquery.core.errors import CheckpointError
from humanquery.engine.checkpoint import atomic

KEPT = 2  # a kill while one is being replaced still leaves the other
STATE_VERSION = 1


def state_files(out: Path) -> list[Path]:
    """State files of a run's folder, newest first."""
    found = [
        (int(match[1]), path)
        for path in out.glob("state-*.pt")
        if (match := re.fullmatch(r"state-(\d+)", path.stem))
    ]
    return [path for _, path in sorted(found, reverse=True)]


def latest(out: Path) -> Path | None:
    """The newest state file of a run's folder, or None."""
    return next(iter(state_files(Path(out))), None)


def save_state(out: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes `state-<step>.pt` whole or not at all, then deletes all but the last `KEPT`.
    Tensors and plain data."""
    path = out / f"state-{step:08d}.pt"
    with atomic(path) as unfinished:
        torch.save({"version": STATE_VERSION, "step": step, **state}, unfinished)
    for old in state_files(out)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def read_state(path: Path) -> dict[str, Any]:
    """Reads one state file (plain data and tensors only, no code); a broken or newer one raises
    CheckpointError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # torch raises what zip, pickle or the file system raised
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise CheckpointError(f"{path}: this training state cannot be read ({reason})") from problem
    if not isinstance(state, dict) or "version" not in state or "step" not in state:
        raise CheckpointError(f"{path}: not a training state of humanquery")
    if state["version"] > STATE_VERSION:
        raise CheckpointError(
            f"{path}: state version {state['version']}, this humanquery reads up to "
            f"{STATE_VERSION}; update humanquery"
        )
    return state


def read_latest(out: Path) -> dict[str, Any] | None:
    """The newest state that can be read, or None where there is no state file; all broken raises
    CheckpointError."""
    problems = []
    for path in state_files(out):
        try:
            return read_state(path)
        except CheckpointError as problem:
            problems.append(str(problem))
    if problems:
        raise CheckpointError(
            "\n".join(
                [*problems, f"no state in {out} can be resumed; start again in another folder"]
            )
        )
    return None


def remove_after(out: Path, step: int) -> None:
    """Deletes states of later steps (they were broken, or the run would go on from them) and
    unfinished files."""
    for path in state_files(out):
        if path.stem > f"state-{step:08d}":
            path.unlink()
    for path in out.glob(".*.unfinished"):
        path.unlink()


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of Python's, numpy's and torch's own generators, as plain data and tensors."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    version, words, gauss_next = random.getstate()
    return {
        "python": [version, torch.tensor(words, dtype=torch.int64), gauss_next],
        "numpy": [
            str(name),
            torch.from_numpy(keys.astype(np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """The inverse of `random_state`; a state from the CPU leaves CUDA's generator alone, and the
    other way round."""
    version, words, gauss_next = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss_next))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Whatever draws random numbers inside, the generators stand afterwards where they stood
    before."""
    before = random_state(device)
    try:
        yield
    finally:
        set_random_state(before, device)


def seed_everything(seed: int) -> None:
    """Python, numpy and torch (CPU and CUDA)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that was cut off while it was written is left
    out."""
    if not path.is_file():
        return []
    lines = path.read_text().splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise CheckpointError(
                    f"{path}:{number}: not a line of JSON: {line[:60]!r}"
                ) from None
    return records


def cut_metrics(path: Path, step: int) -> None:
    """Removes what was written after `step`, which a resumed run will write again."""
    kept = [record for record in read_metrics(path) if record["step"] <= step]
    with atomic(path) as unfinished:
        unfinished.write_text("".join(json.dumps(record) + "\n" for record in kept))
