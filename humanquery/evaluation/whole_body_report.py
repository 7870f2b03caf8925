"""What an evaluation of whole bodies in given boxes says: AP per part, and how far joints lie from
the truth in sizes of their part."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from humanquery.core.skeleton import Skeleton
from humanquery.evaluation.people_report import FamilyScores
from humanquery.evaluation.whole_body_ap import Row

LEAST_JOINTS = 2
"""labelled joints of a part, below which it has no size"""


@dataclass(frozen=True)
class PartError:
    """Over people with labels of the part; an error is a distance in diagonals of the extent of
    the part's labelled joints."""

    people: int
    mean: float | None
    median: float | None


@dataclass(frozen=True)
class WholeBodyReport:
    """One evaluation, by part of the skeleton."""

    families: dict[str, FamilyScores]
    errors: dict[str, PartError]
    people: int
    notes: tuple[str, ...] = field(default=())

    def numbers(self) -> dict[str, float | int | None]:
        """Flat, for logs: {"body/ap": ..., "face/error": ...}."""
        flat: dict[str, float | int | None] = {}
        for part, scores in self.families.items():
            whole = scores["all"]
            names = ("ap", "ap50", "ap75", "ar")
            flat |= {f"{part}/{name}": getattr(whole, name) for name in names}
            flat[f"{part}/ap_without_small"] = scores["without_small"].ap
        flat |= {f"{part}/error": error.mean for part, error in self.errors.items()}
        return flat

    def table(self) -> str:
        lines = [f"{'':10}{'AP':>8}{'AP50':>8}{'AP75':>8}{'AR':>8}{'w/o Small':>11}{'error':>9}"]
        for part, scores in self.families.items():
            whole = scores["all"]
            shown = [whole.ap, whole.ap50, whole.ap75, whole.ar]
            cells = "".join(_cell(value).rjust(8) for value in shown)
            cells += _cell(scores["without_small"].ap).rjust(11)
            error = self.errors.get(part)
            people = f"  ({error.people} people)" if error else ""
            cells += _cell(error.mean if error else None).rjust(9)
            lines.append(f"{part:10}{cells}{people}")
        return "\n".join([*lines, *self.notes])

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def save(self, path: Path | str) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(self.to_json() + "\n")


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def part_errors(
    truth: list[Row], found: list[Row], skeleton: Skeleton, parts: list[str] | None = None
) -> dict[str, PartError]:
    """Distances of row i of `found` to row i of `truth`, which are the same people."""
    named = parts or list(skeleton.parts)
    distances: dict[str, list[float]] = {part: [] for part in named}
    for true, seen in zip(truth, found, strict=True):
        joints = np.array(true["keypoints"], float).reshape(-1, 3)
        guessed = np.array(seen["keypoints"], float).reshape(-1, 3)
        for part in named:
            span = slice(*skeleton.parts[part])
            counted = joints[span, 2] > 0
            if counted.sum() < LEAST_JOINTS:
                continue
            places = joints[span, :2][counted]
            size = float(np.hypot(*np.ptp(places, axis=0)))
            apart = np.linalg.norm(guessed[span, :2][counted] - places, axis=1)
            distances[part].append(float(apart.mean()) / max(size, 1e-6))
    return {part: _summary(values) for part, values in distances.items()}


def _summary(values: list[float]) -> PartError:
    if not values:
        return PartError(0, None, None)
    return PartError(len(values), float(np.mean(values)), float(np.median(values)))
