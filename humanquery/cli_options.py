"""Options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write.")]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace files that humanquery did not write itself."),
]
Weights = Annotated[
    str,
    typer.Option(
        "--weights",
        "-w",
        help="A shipped name, a .safetensors or an exported file; default: the shipped model.",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Sets = Annotated[
    list[str],
    typer.Option(
        "--set", help="Change one number: model.tasks.mask=none, engine.steps=500. Repeatable."
    ),
]


def names_of(text: str) -> list[str] | None:
    """The names of a comma-separated option, None where there are none."""
    return [name.strip() for name in text.split(",") if name.strip()] or None
