"""What a data set holds: gender and age (as the paper's Fig. A1), sizes, visibility, people per
picture; numbers and plots."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from humanquery.core.errors import HumanQueryError
from humanquery.core.skeleton import Skeleton
from humanquery.data.readers.coco import CocoSource, CocoSourceConfig

SMALL, LARGE = 32**2, 96**2
"""px²: COCO's bounds of small and large, by the area of the segment"""
OLDEST = 120


@dataclass(frozen=True)
class Stats:
    """Counts of people; crowds and other ignore regions are not people."""

    num_pictures: int
    num_people: int
    gender: dict[str, int]
    """male, female, unknown"""
    ages: list[int]
    """people per year of age, index = age in whole years; the middle of a range stands for it"""
    num_age_ranges: int
    """how many of these have a range instead of one age"""
    sizes: dict[str, int]
    """small, medium, large by COCO's bounds"""
    people_per_picture: dict[int, int]
    """number of people -> number of pictures"""
    num_with_joints: int
    visibility: dict[str, list[int]]
    """joint -> [not labelled, hidden, visible] among people whose joints were annotated"""
    num_face_boxes: int

    @property
    def num_ages(self) -> int:
        return sum(self.ages)

    @property
    def median_age(self) -> int | None:
        """Years; None where nobody's age is known."""
        passed = 0
        for age, count in enumerate(self.ages):
            passed += count
            if count and 2 * passed >= self.num_ages:
                return age
        return None


def measure(annotations: str | Path, *, skeleton: str = "") -> Stats:
    """Reads a COCO person file as training would (no picture is opened) and counts.

    A malformed annotation is left out, as in `CocoSource`; a file that is not COCO raises
    AnnotationError.
    """
    labels = ("keypoints", "gender", "age", "face_boxes")
    options = {
        "age_labels": "range",
        "suspect_boxes": "person",
        "unlabelled_keypoints": "unknown",
        "strict": False,
    }
    source = CocoSource(
        CocoSourceConfig(str(annotations), skeleton=skeleton, fields=labels, **options)
    )
    targets = [source.target(i).people() for i in range(len(source))]
    genders = _values([t.gender for t in targets])
    spans = _values([t.age for t in targets]).reshape(-1, 2)
    years = spans.mean(1).round().long().clamp(0, OLDEST)
    areas = torch.cat([torch.zeros(0), *(t.areas for t in targets)])
    crowding = torch.tensor([len(t) for t in targets], dtype=torch.long)
    joints = _values([t.visibility[t.keypoints.valid] for t in targets]).reshape(
        -1, len(source.skeleton)
    )
    female = int(genders.sum())
    num_small, num_large = int((areas < SMALL).sum()), int((areas > LARGE).sum())
    return Stats(
        num_pictures=len(source),
        num_people=len(areas),
        gender={
            "male": len(genders) - female,
            "female": female,
            "unknown": len(areas) - len(genders),
        },
        ages=torch.bincount(years, minlength=OLDEST + 1).tolist(),
        num_age_ranges=int((spans[:, 0] < spans[:, 1]).sum()),
        sizes={
            "small": num_small,
            "medium": len(areas) - num_small - num_large,
            "large": num_large,
        },
        people_per_picture={
            n: count for n, count in enumerate(torch.bincount(crowding).tolist()) if count
        },
        num_with_joints=len(joints),
        visibility=_visibility(joints, source.skeleton),
        num_face_boxes=len(_values([t.face_boxes for t in targets]).reshape(-1, 4)),
    )


def _values(labels: list) -> Tensor:
    """The valid values of all pictures, one after the other; plain tensors count whole."""
    known = [
        label if isinstance(label, Tensor) else label.value[label.valid]
        for label in labels
        if label is not None
    ]
    return torch.cat(known) if known else torch.zeros(0)


def _visibility(joints: Tensor, skeleton: Skeleton) -> dict[str, list[int]]:
    levels = [(joints == level).sum(0).tolist() for level in (0, 1, 2)]
    return {name: [level[i] for level in levels] for i, name in enumerate(skeleton.joints)}


FILES = ("stats.json", "stats.png")
"""that `write` writes"""


def write(stats: Stats, out_dir: str | Path, title: str = "") -> list[Path]:
    """Writes `stats.json` and `stats.png` into `out_dir` (made if need be) and gives their paths.

    Without matplotlib (the extra `train`) HumanQueryError is raised before anything is written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as problem:
        raise HumanQueryError("plots need matplotlib; pip install 'humanquery[train]'") from problem
    paths = [Path(out_dir) / name for name in FILES]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    numbers = {"title": title, **asdict(stats), "median_age": stats.median_age}
    paths[0].write_text(json.dumps(numbers, indent=1) + "\n")
    figure = Figure(figsize=(13, 8), layout="constrained")
    _draw(figure, stats, title)
    figure.savefig(paths[1], dpi=110)
    return paths


MALE, FEMALE, GREY, DARK = "#3b75af", "#e0873d", "#c8c8c8", "#4a4a4a"


def _draw(figure: Any, stats: Stats, title: str) -> None:
    figure.suptitle(
        f"{title or 'data'}: {stats.num_people:,} people in {stats.num_pictures:,} pictures",
        fontsize=14,
    )
    panels = figure.subplot_mosaic(
        [["gender", "age", "age"], ["size", "crowding", "joints"]],
        width_ratios=[1, 1, 2],
        height_ratios=[1, 1.15],
    )
    _draw_gender(panels["gender"], stats)
    _draw_ages(panels["age"], stats)
    _draw_counts(panels["size"], stats.sizes, "size (COCO areas)", "people")
    _draw_crowding(panels["crowding"], stats)
    _draw_joints(panels["joints"], stats)
    for key in ("age", "size", "crowding", "joints"):
        panels[key].spines[["top", "right"]].set_visible(False)


def _draw_gender(panel: Any, stats: Stats) -> None:
    known = {name: stats.gender[name] for name in ("male", "female")}
    total = sum(known.values())
    panel.set_title(f"apparent gender ({total:,} of {stats.num_people:,} people)", fontsize=10)
    if not total:
        panel.text(
            0.5,
            0.5,
            "not labelled",
            ha="center",
            va="center",
            transform=panel.transAxes,
            color=DARK,
        )
        panel.set_axis_off()
        return
    names = [f"{name}\n{count:,}" for name, count in known.items()]
    panel.pie(
        known.values(),
        labels=names,
        colors=[MALE, FEMALE],
        autopct="%.0f %%",
        startangle=90,
        pctdistance=0.55,
    )


def _draw_ages(panel: Any, stats: Stats) -> None:
    last = max((age for age, count in enumerate(stats.ages) if count), default=0)
    panel.bar(range(len(stats.ages)), stats.ages, width=0.9, color=MALE)
    panel.set_xlim(-0.7, max(85, last + 1))
    panel.set(xlabel="years (the middle of a range)", ylabel="people")
    middle = "" if stats.median_age is None else f", median {stats.median_age}"
    ranges = f", {stats.num_age_ranges:,} of them ranges" if stats.num_age_ranges else ""
    panel.set_title(f"apparent age ({stats.num_ages:,} people{ranges}{middle})", fontsize=10)


def _draw_counts(panel: Any, counts: dict[str, int], title: str, label: str) -> None:
    bars = panel.bar(list(counts), list(counts.values()), color=MALE)
    panel.bar_label(bars, [f"{count:,}" for count in counts.values()], fontsize=9)
    panel.set_title(title, fontsize=10)
    panel.set_ylabel(label)


def _draw_crowding(panel: Any, stats: Stats) -> None:
    many = 15
    shown = {n: stats.people_per_picture.get(n, 0) for n in range(many)}
    shown[many] = sum(count for n, count in stats.people_per_picture.items() if n >= many)
    panel.bar(list(shown), list(shown.values()), color=MALE)
    panel.set_xticks([0, 5, 10, many], ["0", "5", "10", f"{many}+"])
    panel.set_title("people per picture", fontsize=10)
    panel.set_ylabel("pictures")


def _draw_joints(panel: Any, stats: Stats) -> None:
    names = [name.replace("_", " ") for name in stats.visibility]
    step = max(1, len(names) // 30)
    left = [0] * len(names)
    for level, label, color in (
        (2, "visible", MALE),
        (1, "hidden", FEMALE),
        (0, "not labelled", GREY),
    ):
        counts = [levels[level] for levels in stats.visibility.values()]
        panel.barh(range(len(names)), counts, left=left, color=color, label=label, height=0.85)
        left = [a + b for a, b in zip(left, counts, strict=True)]
    panel.set_yticks(range(0, len(names), step), names[::step], fontsize=8)
    panel.invert_yaxis()
    panel.set_xlabel("people")
    panel.set_title(f"joints ({stats.num_with_joints:,} people)", fontsize=10, pad=22)
    panel.legend(
        ncols=3, fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 0.995)
    )


def print_stats(stats: Stats, console: Console | None = None) -> None:
    """The counts as a table."""
    table = Table("what", "count", "share of people")
    rows = {"pictures": stats.num_pictures, "people": stats.num_people, **stats.gender}
    rows |= {
        "age known": stats.num_ages,
        "joints known": stats.num_with_joints,
        "face box": stats.num_face_boxes,
    }
    for name, count in (rows | stats.sizes).items():
        share = (
            ""
            if name in ("pictures", "people") or not stats.num_people
            else f"{count / stats.num_people:.1%}"
        )
        table.add_row(name, f"{count:,}", share)
    (console or Console()).print(table)
