"""A report of a few named numbers, as most evaluations of single tasks give."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FlatReport:
    """Numbers by name; None where nothing could be scored."""

    name: str
    """of the data set that was scored"""
    values: Mapping[str, float | int | None]

    def numbers(self) -> dict[str, float | int | None]:
        """`name/score`, flat."""
        return {f"{self.name}/{key}": value for key, value in self.values.items()}

    def table(self) -> str:
        """A line per number."""
        lines = [
            f"  {key:18}{'-' if value is None else f'{value:.4g}':>10}"
            for key, value in self.values.items()
        ]
        return "\n".join([self.name, *lines])

    def to_json(self) -> str:
        return json.dumps(self.numbers(), indent=1)


@dataclass(frozen=True)
class JoinedReport:
    """Reports of several data sets, one after the other."""

    parts: tuple[FlatReport, ...]

    def numbers(self) -> dict[str, float | int | None]:
        """Of all parts, flat."""
        return {name: value for part in self.parts for name, value in part.numbers().items()}

    def table(self) -> str:
        return "\n".join(part.table() for part in self.parts)

    def to_json(self) -> str:
        return json.dumps(self.numbers(), indent=1)

    def save(self, path: Path | str) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(self.to_json() + "\n")
