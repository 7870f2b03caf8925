"""Weights as one file: a `.safetensors` whose metadata carries the config from which the system is
rebuilt."""

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from humanquery.core.config import to_plain
from humanquery.core.errors import CheckpointError
from humanquery.engine.file_versions import FORMAT_VERSION, upgraded_config, upgraded_state

FORMAT = "humanquery"


@dataclass(frozen=True, eq=False)
class Weights:
    """What a weights file says: the system's config as plain data (`core.config.to_plain`), its
    tensors, its card (free plain data: what it was trained on, licences, scores)."""

    config: dict[str, Any]
    state: dict[str, Tensor]
    card: dict[str, Any]


def save_weights(
    path: Path | str, system: nn.Module, card: dict[str, Any] | None = None, *, half: bool = False
) -> Path:
    """Writes `system` (its `config` and tensors) to `path`, whole or not at all; see
    `save_state_dict`.

    CheckpointError for a system made ready for prediction (`predict.load(...).system`): its batch
    norms are folded into convolutions, and a system rebuilt from the config has other tensors.
    """
    if any(getattr(module, "folded_norms", 0) for module in system.modules()):
        raise CheckpointError(
            f"{path}: this {type(system).__name__} has its batch norms folded for prediction and "
            f"could not be loaded again; save the system as it was trained, which "
            f"humanquery.predict.loading.trained(weights) gives"
        )
    return save_state_dict(path, system.state_dict(), system.config, card, half=half)


def save_state_dict(
    path: Path | str,
    state: dict[str, Tensor],
    config: Any,
    card: dict[str, Any] | None = None,
    *,
    half: bool = False,
) -> Path:
    """Writes tensors with the config of the system they belong to. `half`: float tensors as fp16,
    half the size; a tensor with a value that fp16 cannot hold stays as it is."""
    path = Path(path)
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(to_plain(config)),
        "card": json.dumps(card or {}),
    }
    tensors = {name: _shipped(value.detach(), half) for name, value in state.items()}
    with atomic(path) as unfinished:
        save_file(tensors, unfinished, metadata)
    return path


def _shipped(value: Tensor, half: bool) -> Tensor:
    # clone: safetensors refuses tensors that share memory, and tied weights do
    value = value.cpu().contiguous().clone()
    if not half or not value.is_floating_point():
        return value
    halved = value.half()
    return halved if torch.equal(halved.isfinite(), value.isfinite()) else value


class atomic:
    """`with atomic(path) as unfinished:` write the file `unfinished`; it becomes `path` once all of
    it is on disk."""

    def __init__(self, path: Path):
        self.path = path
        self.unfinished = path.with_name(f".{path.name}.unfinished")

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.unfinished

    def __exit__(self, kind, *_) -> None:
        if kind is not None:
            self.unfinished.unlink(missing_ok=True)
            return
        # "r+b": Windows flushes a file to disk only through a handle that may write
        with open(self.unfinished, "r+b") as written:
            os.fsync(written.fileno())
        self.unfinished.chmod(0o644)  # safetensors writes files that only their owner may read
        os.replace(self.unfinished, self.path)
        if os.name == "posix":  # the rename itself must survive a power cut
            folder = os.open(self.path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)


def read_weights(path: Path | str) -> Weights:
    """Reads what `save_weights` wrote; tensors on the CPU, in the file's dtypes.

    Anything else raises CheckpointError: no file, a pickle (never opened), no safetensors, a cut
    file, another program's safetensors, a newer format.
    """
    path = Path(path)
    _check_is_safetensors(path)
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            _check_is_ours(path, metadata)
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
        version = int(metadata["format_version"])
        return Weights(
            upgraded_config(json.loads(metadata["config"]), version),
            upgraded_state(state, version),
            json.loads(metadata.get("card", "{}")),
        )
    except (SafetensorError, KeyError, json.JSONDecodeError) as problem:
        raise CheckpointError(
            f"{path}: the file is damaged ({problem}); fetch or write it again"
        ) from problem


def read_card(path: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(config, card) of a weights file, from its header alone: no tensor is read. Errors as
    `read_weights`."""
    path = Path(path)
    _check_is_safetensors(path)
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
        _check_is_ours(path, metadata)
        config = upgraded_config(json.loads(metadata["config"]), int(metadata["format_version"]))
        return config, json.loads(metadata.get("card", "{}"))
    except (SafetensorError, KeyError, json.JSONDecodeError) as problem:
        raise CheckpointError(
            f"{path}: the file is damaged ({problem}); fetch or write it again"
        ) from problem


def _check_is_safetensors(path: Path) -> None:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path}: {what}; expected a .safetensors file of humanquery")
    size = path.stat().st_size
    with open(path, "rb") as opened:
        start = opened.read(8)
        length = int.from_bytes(start, "little")
        head = opened.read(min(length, 100_000_000)) if len(start) == 8 else b""
        # a safetensors file may also begin with 0x80: its first bytes are a length
        pickled = start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and head[:1] != b"{")
        if pickled or path.suffix in (".pth", ".pt", ".ckpt", ".pkl"):
            raise CheckpointError(
                f"{path}: this is a pickle (torch.save), which can run code when opened; expected "
                f".safetensors. "
                f"Turn it into one: humanquery convert {path.name} {path.stem}.safetensors"
            )
        if start == b"version ":
            raise CheckpointError(
                f"{path}: this is a Git LFS pointer, not the weights; run git lfs pull"
            )
    if len(start) < 8 or head[:1] not in (b"{", b""):
        raise CheckpointError(
            f"{path}: {size} bytes that are not a safetensors file; expected weights of humanquery"
        )
    try:
        entries = json.loads(head)
        ends = [
            entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(
            f"{path}: the header cannot be read: either cut at {size} bytes or not a safetensors "
            f"file; fetch it again"
        ) from None
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        raise CheckpointError(
            f"{path}: cut off: {size} of {expected} bytes are there; fetch or write it again"
        )


def _check_is_ours(path: Path, metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        origin = (
            f"format {metadata['format']!r}"
            if "format" in metadata
            else "no format in its metadata"
        )
        raise CheckpointError(
            f"{path}: a safetensors file of another program ({origin}, expected {FORMAT!r}); "
            f"weights of the official HQNet are taken over by humanquery convert"
        )
    version = metadata.get("format_version", "")
    if not version.isdigit():
        raise CheckpointError(f"{path}: format_version is {version!r}, expected a number")
    if int(version) > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {version}, this humanquery reads up to {FORMAT_VERSION}; "
            f"update humanquery"
        )


def load_state(system: nn.Module, state: dict[str, Tensor]) -> None:
    """Fills `system` with `state`, every name and shape equal, or raises CheckpointError and
    changes nothing.

    Values take the dtype of the module's tensors (fp16 files widen to fp32).
    """
    own = system.state_dict()
    problems = {
        "missing in the file": own.keys() - state.keys(),
        "unknown to the model": state.keys() - own.keys(),
        "of another shape": {
            n for n in own.keys() & state.keys() if own[n].shape != state[n].shape
        },
    }
    if any(problems.values()):
        lines = [
            f"  {len(names)} {what}: {_by_module(names)}"
            for what, names in problems.items()
            if names
        ]
        for name in sorted(problems["of another shape"])[:3]:
            lines.append(
                f"    {name}: {list(state[name].shape)} in the file, {list(own[name].shape)} in "
                f"the model"
            )
        raise CheckpointError(
            f"these weights do not belong to this {type(system).__name__}:\n"
            + "\n".join(lines)
            + "\nWere they trained with another config (tasks, sizes, backbone)?"
        )
    system.load_state_dict(state, strict=True)


def _by_module(names: Iterable[str], shown: int = 6) -> str:
    """`backbone.layer1 (12), tasks.box (4), ... 3 more modules`: names grouped by their first two
    dotted parts."""
    counts = Counter(".".join(name.split(".")[:-1][:2]) or name for name in names)
    parts = [f"{module} ({count})" for module, count in sorted(counts.items())]
    rest = [f"... {len(parts) - shown} more modules"] if len(parts) > shown else []
    return ", ".join(parts[:shown] + rest)
