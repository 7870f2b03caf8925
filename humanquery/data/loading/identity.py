"""What a source is, as plain data: equal for the same pictures and labels, wherever they lie."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from humanquery.core.config import to_plain

LOCATIONS = ("annotations", "images", "folder", "labels", "listed")
"""fields of source configs that say where something lies, not what it is"""
OF_THE_MACHINE = ("cache_mb",)
"""fields that change memory or speed alone"""


def source_identity(config: Any, source: Any = None) -> dict[str, Any]:
    """The options of a source config, SHA-256 of its label files by their names, and, of an opened
    `source`, how many samples it has.

    A source with a method `identity() -> dict` speaks for itself. Pictures are not hashed: they may
    be terabytes.
    """
    if hasattr(source, "identity"):
        return {"is": type(config).__name__, **source.identity()}
    found = _described(config)
    return found if source is None else {**found, "samples": len(source)}


def _described(config: Any) -> Any:
    if isinstance(config, tuple | list):
        return [_described(item) for item in config]
    if not dataclasses.is_dataclass(config):
        return to_plain(config)
    fields = {
        f.name: _described(getattr(config, f.name))
        for f in dataclasses.fields(config)
        if f.name not in (*LOCATIONS, *OF_THE_MACHINE)
    }
    labels = {path.name: file_hash(path) for path in label_files(config)}
    return {"is": type(config).__name__, **fields, **({"labels": labels} if labels else {})}


def label_files(config: Any) -> list[Path]:
    """Files with labels that a source config names: its `annotations` or `listed`, or the
    JSON and text files in its `folder` and in `folder/gt`. Its parts are not asked."""
    for field in ("annotations", "listed"):
        named = getattr(config, field, "")
        if isinstance(named, str) and named:
            return [Path(named)]
    folder = getattr(config, "folder", "")
    if not isinstance(folder, str | Path) or not str(folder):
        return []
    places = (Path(folder), Path(folder) / "gt")
    return sorted(p for place in places for end in ("*.json", "*.txt") for p in place.glob(end))


def file_hash(path: Path | str) -> str:
    """SHA-256 of a file, read in pieces; "absent" where there is none."""
    try:
        with open(path, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        # whoever opens the source says what is wrong; an evaluation part may come later
        return "absent"
