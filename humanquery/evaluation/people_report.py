"""What an evaluation says: numbers, counts and the rules they were made with; as JSON, as flat
numbers, as a table."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from humanquery import __version__

AREAS: dict[str, tuple[float, float]] = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
    "without_small": (32.0**2, 1e10),
}
"""px² of the annotated segment, both ends inside"""

AREA_RULE = (
    "sizes by annotated area in px²: small below 32², medium 32² to 96², large above 96², both "
    "ends inside; "
    "'w/o Small' is one more COCO area range [32², 1e10]: smaller people, and unmatched found "
    "people smaller than "
    "that, are ignored (neither right nor wrong)"
)

TITLES = {
    "box": "Box",
    "mask": "Mask",
    "keypoints": "Keypoints",
    "gender": "Gender AP",
    "age": "Age-10 AP",
}


@dataclass(frozen=True)
class SizeScores:
    """0..1; None where the range holds nobody."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    ar: float | None
    people: int | None = None
    """true people that count in this range"""


@dataclass(frozen=True)
class FamilyScores:
    """Scores of one family (box, mask, keypoints, gender, age) by size range (keys of `AREAS`)."""

    sizes: dict[str, SizeScores]
    ar_at: dict[int, float | None]
    """recall of all sizes with at most this many found people per picture"""

    def __getitem__(self, size: str) -> SizeScores:
        return self.sizes[size]

    @property
    def ap(self) -> float | None:
        return self.sizes["all"].ap


@dataclass(frozen=True)
class ReliabilityBin:
    """Of the matched people whose P(female) lies in [low, high): how many, what was said, what was
    so."""

    low: float
    high: float
    people: int
    mean_probability: float | None
    share_female: float | None


@dataclass(frozen=True)
class GenderNumbers:
    """Over people with a gender label. `coverage`: share of them that a found box (IoU ≥ 0.5) was
    matched to."""

    labelled: int
    matched: int
    coverage: float
    accuracy: float | None
    reliability: tuple[ReliabilityBin, ...]
    calibration_error: float | None
    """mean gap between said and observed probability, weighted by people (ECE)"""


@dataclass(frozen=True)
class AgeNumbers:
    """Over people with an age label. An error is the distance to the labelled age, or to the
    labelled interval."""

    labelled: int
    matched: int
    coverage: float
    within_ten: float | None
    """share with an error below ten years; where the label is an interval, share inside it"""
    mean_error: float | None
    """years"""


@dataclass(frozen=True)
class BestThreshold:
    """The score threshold with the highest F1 of boxes at IoU 0.5, and what it gives."""

    threshold: float
    f1: float
    precision: float
    recall: float


@dataclass(frozen=True)
class EvaluationReport:
    """One evaluation. Families that the truth does not annotate or the system does not give are
    absent."""

    families: dict[str, FamilyScores]
    pictures: int
    people: int
    """true people, without ignore regions"""
    ignored: int
    found: int
    gender: GenderNumbers | None = None
    age: AgeNumbers | None = None
    box_threshold: BestThreshold | None = None
    median_seconds: float | None = None
    """time per picture, where a system was run"""
    notes: tuple[str, ...] = ()
    engine: str = ""
    area_rule: str = AREA_RULE
    version: str = field(default=f"humanquery {__version__}")

    def numbers(self) -> dict[str, float]:
        """Flat, for logs: {"box/ap": ..., "box/ap50": ..., "box/ap_small": ..., "gender/accuracy":
        ...}."""
        flat: dict[str, float | None] = {}
        for family, scores in self.families.items():
            whole = scores["all"]
            flat |= {
                f"{family}/{name}": getattr(whole, name) for name in ("ap", "ap50", "ap75", "ar")
            }
            flat |= {
                f"{family}/ap_{size}": row.ap for size, row in scores.sizes.items() if size != "all"
            }
        if self.gender is not None:
            flat |= {
                "gender/accuracy": self.gender.accuracy,
                "gender/coverage": self.gender.coverage,
            }
        if self.age is not None:
            flat |= {"age/within_ten": self.age.within_ten, "age/mean_error": self.age.mean_error}
        if self.box_threshold is not None:
            flat |= {
                "box/best_threshold": self.box_threshold.threshold,
                "box/best_f1": self.box_threshold.f1,
            }
        return {name: value for name, value in flat.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; absent numbers are None (null)."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def save(self, path: Path | str) -> None:
        Path(path).write_text(
            json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    def table(self) -> str:
        """Aligned text: one row per family, then people, attributes, time and the rules."""
        return "\n".join(
            [
                *_family_lines(self),
                "",
                *_count_lines(self),
                *_attribute_lines(self),
                *_closing_lines(self),
            ]
        )

    def __str__(self) -> str:
        return self.table()


MAIN_NUMBERS = (
    "box/ap",
    "box/ap_without_small",
    "mask/ap",
    "keypoints/ap",
    "gender/accuracy",
    "age/within_ten",
    "age/mean_error",
    "box/best_f1",
)
"""what one looks at first, in the names of `EvaluationReport.numbers`"""
COLUMNS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AP w/o Small", "AR")


def _family_lines(report: EvaluationReport) -> list[str]:
    lines = [" " * 10 + "".join(f"{title:>{max(8, len(title) + 2)}}" for title in COLUMNS)]
    for family, scores in report.families.items():
        whole, sizes = scores["all"], scores.sizes
        by_size = [
            sizes[s].ap if s in sizes else None
            for s in ("small", "medium", "large", "without_small")
        ]
        cells = [whole.ap, whole.ap50, whole.ap75, *by_size, whole.ar]
        widths = [max(8, len(title) + 2) for title in COLUMNS]
        line = "".join(f"{_percent(c):>{w}}" for c, w in zip(cells, widths, strict=True))
        lines.append(f"{TITLES[family]:<10}{line}")
    return lines


def _count_lines(report: EvaluationReport) -> list[str]:
    lines = [
        f"{report.pictures} pictures, {report.people} people, {report.ignored} ignore regions, "
        f"{report.found} found"
    ]
    for family, scores in report.families.items():
        counts = [
            f"{row.people} {name.replace('_', ' ')}"
            for name, row in scores.sizes.items()
            if row.people is not None
        ]
        if counts:
            lines.append(f"{TITLES[family]}: people that count: {', '.join(counts)}")
    return lines


def _attribute_lines(report: EvaluationReport) -> list[str]:
    lines = []
    if report.gender is not None:
        g = report.gender
        lines.append(
            f"Gender: {_percent(g.accuracy)} % right of {g.matched} matched people "
            f"({_percent(g.coverage)} % of the "
            f"{g.labelled} labelled), calibration error {_percent(g.calibration_error)} %"
        )
    if report.age is not None:
        a = report.age
        years = "n/a" if a.mean_error is None else f"{a.mean_error:.2f}"
        lines.append(
            f"Age: mean error {years} years, {_percent(a.within_ten)} % within ten years, "
            f"of {a.matched} matched people ({_percent(a.coverage)} % of the {a.labelled} labelled)"
        )
    if report.box_threshold is not None:
        b = report.box_threshold
        lines.append(
            f"Best score threshold for boxes: {b.threshold:.3f} "
            f"(F1 {_percent(b.f1)}, precision {_percent(b.precision)}, recall {_percent(b.recall)} "
            f"% at IoU 0.5)"
        )
    return lines


def _closing_lines(report: EvaluationReport) -> list[str]:
    lines = []
    if report.median_seconds is not None:
        lines.append(f"Median time per picture: {report.median_seconds * 1e3:.1f} ms")
    lines.append(f"AP and AR in %; {report.area_rule}.")
    lines += [f"Note: {note}." for note in report.notes]
    lines.append(f"Made with {report.version}, {report.engine}.")
    return lines


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value * 100:.1f}"
