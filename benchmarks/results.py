"""What every benchmark leaves behind: a JSON file that says what was measured, how and where."""

import argparse
import json
from pathlib import Path
from typing import Any

from humanquery.engine.curves import machine


def save(out: Path | None, options: argparse.Namespace, **results: Any) -> None:
    """Writes `results` with the machine and its commit, and the options they were asked with;
    nothing where `out` is None. Called after every part, so that a run that is stopped keeps what
    it has."""
    if out is None:
        return
    asked = {k: _plain(v) for k, v in vars(options).items()}
    text = json.dumps({"machine": machine(), "asked": asked, **results}, indent=1)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
