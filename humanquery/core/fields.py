"""What a per-person field is to all that handle it: one declaration, made where the field is."""

from dataclasses import dataclass
from typing import Any

JOINT_KINDS = ("points", "joint_rows")
"""kinds with one entry per joint of the skeleton"""
KINDS = ("boxes", *JOINT_KINDS, "masks", "row", "area")
"""boxes n 4 (xyxy px), points n k 2 (px), joint_rows n k ... (one value per joint), masks n h w,
area n (px²), row: anything else with one row per person"""


@dataclass(frozen=True)
class FieldSpec:
    """Declares one field of `Persons` or `Target`. Plain data, so that it can stand in a file."""

    name: str
    kind: str = "row"
    json: str = ""
    """key in `Persons.to_json`; a dot nests ("gender.female"); empty: not written"""
    coco: str = ""
    """key in `Persons.to_coco`; empty: not written"""
    digits: int = 3
    """after the point, in JSON"""
    column: str = ""
    """type of the Arrow column in `Persons.to_rows`: float32, int64, or list<float32> where a
    person has several numbers; empty: none"""
    span: float | int | str = 0
    """range of the values, against which differences of exported files are judged: a number,
    "canvas" (px of it), or 0 for the largest value found"""
    tolerance: float = 1e-4
    """largest difference of an exported file's values, as a share of `span`"""
    attribute: bool = False
    """an impression of somebody's looks: left out with `attributes=False`, `--no-attributes`"""
    label: str = ""
    """how it is drawn: a format ("{:.0f}"), or two words for below and from one half on
    ("man|woman"); empty: not drawn"""
    part_of: str = ""
    """the field by which callers ask for it, where it is not asked for by its own name"""

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"field {self.name!r}: kind {self.kind!r}; one of {', '.join(KINDS)}")

    def text(self, value: float) -> str:
        """What a label says of this value, "" where the field is not drawn."""
        words = self.label.split("|")
        return words[value >= 0.5] if len(words) == 2 else self.label.format(value)

    def reach(self, side: float, largest: float) -> float:
        """Range of values on a canvas whose longer side has `side` px; `largest` value found."""
        if self.span == "canvas":
            return side
        return float(self.span) or largest

    def plain(self) -> dict[str, Any]:
        """JSON-ready; `FieldSpec(**plain)` is the field again."""
        return dict(vars(self))
