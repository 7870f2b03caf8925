"""Weights files (one .safetensors that rebuilds its system) and training states (to go on where a run stopped)."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from humanquery.core.config import to_plain
from humanquery.core.errors import CheckpointError

FORMAT, VERSION = "humanquery", 1


@dataclass(frozen=True, eq=False)
class Weights:
    """The contents of a weights file."""

    config: dict[str, Any]
    """of the system, as `core.config.to_plain` gives it"""
    state: dict[str, Tensor]
    card: dict[str, Any]
    """what a model card says: data, licences, numbers, `score_threshold`"""


def save_weights(path: Path | str, system: nn.Module, card: Mapping[str, Any] | None = None, *, half: bool = False) -> None:
    """Writes the system's weights, config and card in one step (a killed writer leaves the old file); `half` stores fp16."""
    state = {n: t.detach().cpu().contiguous() for n, t in system.state_dict().items()}
    if half:
        state = {n: t.half() if t.dtype == torch.float32 else t for n, t in state.items()}
    metadata = {
        "format": FORMAT,
        "format_version": str(VERSION),
        "config": json.dumps(to_plain(system.config)),
        "card": json.dumps(dict(card or {})),
    }
    write_safely(Path(path), lambda temporary: save_file(state, temporary, metadata))


def read_weights(path: Path | str) -> Weights:
    """Reads what `save_weights` wrote. Nothing in the file is executed; any other file raises CheckpointError."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file")
    _refuse_pickles(path)
    try:
        with safe_open(path, "pt") as tensors:
            metadata = tensors.metadata() or {}
            _check_format(path, metadata)
            state = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    except SafetensorError as problem:
        raise CheckpointError(f"{path}: not a readable .safetensors file ({problem}); is the download complete?") from None
    return Weights(json.loads(metadata["config"]), state, json.loads(metadata.get("card", "{}")))


def _refuse_pickles(path: Path) -> None:
    head = path.read_bytes()[:4] if path.stat().st_size < 16 else path.open("rb").read(4)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        raise CheckpointError(
            f"{path}: a pickle (.pth/.pt), which may carry code, expected a .safetensors of humanquery; "
            "an official HQNet checkpoint becomes one with `humanquery convert`"
        )


def _check_format(path: Path, metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT or "config" not in metadata:
        raise CheckpointError(
            f"{path}: tensors without humanquery's config, expected a file that humanquery wrote; "
            "weights of other programs go through `humanquery convert` or a backbone's `weights`"
        )
    version = int(metadata.get("format_version", "0"))
    if version > VERSION:
        raise CheckpointError(f"{path}: format version {version}, this humanquery reads up to {VERSION}; upgrade humanquery")


def load_state(system: nn.Module, state: Mapping[str, Tensor], where: str = "weights") -> None:
    """Loads strictly, in the module's own precision; a mismatch raises CheckpointError with the names by module."""
    own = system.state_dict()
    problems = {
        "missing": own.keys() - state.keys(),
        "unexpected": state.keys() - own.keys(),
        "of another shape": {n for n in own.keys() & state.keys() if own[n].shape != state[n].shape},
    }
    if any(problems.values()):
        lines = [f"{len(names)} {kind}: {_by_module(names)}" for kind, names in problems.items() if names]
        raise CheckpointError(f"{where} do not fit {type(system).__name__}: " + "; ".join(lines))
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])


def _by_module(names: set[str]) -> str:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        module = ".".join(name.split(".")[:2])
        groups[module].append(name)
    return ", ".join(f"{module} ({len(found)}, e.g. {found[0]})" for module, found in list(groups.items())[:6])


def write_safely(path: Path, write: Any) -> None:
    """`write(temporary path)`, then flush to disk and rename: the file is the old one or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# -- training states ---------------------------------------------------------------------------------------------------

KEPT_STATES = 2


def save_state(out: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes `state-<step>.pt` and drops all but the last two."""
    path = out / f"state-{step:08d}.pt"
    write_safely(path, lambda temporary: torch.save(state, temporary))
    for old in _states(out)[:-KEPT_STATES]:
        old.unlink()
    return path


def latest_state(out: Path) -> dict[str, Any] | None:
    """The newest training state that can be read (a damaged one is passed over), or None. Nothing in it is executed."""
    for path in reversed(_states(out)):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # torch raises many kinds for a damaged file; the state before it is still whole
            continue
    return None


def _states(out: Path) -> list[Path]:
    return sorted(p for p in out.glob("state-*.pt") if re.fullmatch(r"state-\d+\.pt", p.name))
