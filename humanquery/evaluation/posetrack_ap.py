"""PoseTrack's scores of tracked poses (rules of poseval): mAP per joint group and CLEAR MOT per
joint."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from humanquery import __version__
from humanquery.core.assignment import assign
from humanquery.core.errors import AnnotationError
from humanquery.core.persons import Persons
from humanquery.evaluation.pose_rows import (
    JOINTS,
    NO_SCORE,
    PoseLabels,
    PoseRows,
    PoseTruth,
    distances,
    found_rows,
    outside,
    true_rows,
)
from humanquery.evaluation.track_metrics import COMBINED

__all__ = [
    "JOINTS",
    "PoseLabels",
    "PoseReport",
    "PoseRules",
    "PoseScores",
    "PoseTruth",
    "evaluate_poses",
    "found_rows",
]

GROUPS = {
    "Head": ("head_top", "neck", "nose"),
    "Shou": ("right_shoulder", "left_shoulder"),
    "Elb": ("right_elbow", "left_elbow"),
    "Wri": ("right_wrist", "left_wrist"),
    "Hip": ("right_hip", "left_hip"),
    "Knee": ("right_knee", "left_knee"),
    "Ankl": ("right_ankle", "left_ankle"),
}
_FAR = 1e6


@dataclass(frozen=True)
class PoseRules:
    """Poseval's rules."""

    distance: float = 0.5
    """head sizes that a found joint may lie away"""
    tracking_joint_score: float | None = None
    """joints found with a lower score are left out of MOTA (never of mAP); joints without score
    stay"""
    tracking: bool = True
    """False: mAP only, of single pictures or clips; nobody needs a track id"""


@dataclass(frozen=True)
class PoseScores:
    """Per joint of `JOINTS`, 0..1 (MOTA may fall below 0); None where the joint is nowhere
    annotated."""

    ap: dict[str, float | None]
    mota: dict[str, float | None]
    motp: dict[str, float | None]
    """1 - mean distance of matched joints in head sizes; 0 where none is matched"""
    precision: dict[str, float | None]
    recall: dict[str, float | None]
    switches: int
    """over all joints"""
    people: int
    """true people over all frames that count"""
    frames: int
    """with annotated people; MOTA leaves out the last of them"""

    def groups(self, name: str = "ap") -> dict[str, float | None]:
        """Head, Shou, ... Ankl of one of ap, mota, motp, precision, recall."""
        values = getattr(self, name)
        return {
            group: _mean([values[joint] for joint in joints]) for group, joints in GROUPS.items()
        }

    def total(self, name: str = "ap") -> float | None:
        """Mean over the annotated joints; for `ap` this is PoseTrack's mAP."""
        return _mean(list(getattr(self, name).values()))


@dataclass(frozen=True)
class PoseReport:
    """One evaluation of tracked poses."""

    sequences: dict[str, PoseScores]
    combined: PoseScores
    rules: PoseRules
    version: str = field(default=f"humanquery {__version__}")

    def __getitem__(self, sequence: str) -> PoseScores:
        return self.sequences[sequence]

    def numbers(self) -> dict[str, float | int]:
        """Flat, of all sequences together: {"poses/ap": ..., "poses/mota": ..., "poses/ap_head":
        ...}."""
        names = ("ap", "mota", "motp", "precision", "recall")
        flat = {f"poses/{name}": self.combined.total(name) for name in names}
        for name in ("ap", "mota"):
            flat |= {f"poses/{name}_{g.lower()}": v for g, v in self.combined.groups(name).items()}
        return {name: value for name, value in flat.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; absent numbers are None (null)."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def save(self, path: Path | str) -> None:
        Path(path).write_text(
            json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    def table(self) -> str:
        """Aligned text: mAP, then (with tracking) MOTA by joint group with total MOTP, precision
        and recall."""
        rows = {**self.sequences, COMBINED: self.combined}
        wide = max(map(len, rows)) + 2
        titles = [*GROUPS, "Total"]
        lines = ["AP".ljust(wide) + _line(titles)]
        lines += [name.ljust(wide) + _line(_by_group(s, "ap")) for name, s in rows.items()]
        if self.rules.tracking:
            lines += ["", "MOTA".ljust(wide) + _line([*titles, "MOTP", "Prec", "Rec"])]
        for name, scores in rows.items() if self.rules.tracking else ():
            totals = [_percent(scores.total(kind)) for kind in ("motp", "precision", "recall")]
            lines.append(name.ljust(wide) + _line([*_by_group(scores, "mota"), *totals]))
        people = self.combined
        lines += [
            "",
            f"{len(self.sequences)} sequences, {people.frames} annotated frames, {people.people} "
            f"poses",
        ]
        limit = self.rules.tracking_joint_score
        filtered = "" if limit is None else f"; joints scored below {limit:g} left out of MOTA"
        lines.append(
            f"All in %; joints within {self.rules.distance:g} head sizes count "
            f"(PoseTrack){filtered}."
        )
        lines.append(f"Made with {self.version}.")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


def evaluate_poses(
    sequences: Mapping[str, tuple[Sequence[PoseTruth], Sequence[Persons]]],
    rules: PoseRules | None = None,
) -> PoseReport:
    """PoseTrack's mAP and MOTA per joint, per sequence and together.

    `sequences`: name -> (truth, found), two lists with one entry per frame: `PoseTruth` and
    `Persons` with keypoints and track ids. Frames without true people count for nothing. Where
    every person found or every true person of a frame is missing, MOTA counts one miss and one
    false joint, whatever the number of people: so does poseval. Lists of different length and
    people without joints, head boxes or ids (unless `PoseRules.tracking` is off) raise
    AnnotationError.
    """
    rules = rules or PoseRules()
    if not sequences:
        raise AnnotationError("no sequences to evaluate; pass {name: (truth, found)}")
    counted = {
        name: _count_sequence(name, truth, found, rules)
        for name, (truth, found) in sequences.items()
    }
    return PoseReport(
        sequences={name: _scores([counts]) for name, counts in counted.items()},
        combined=_scores(list(counted.values())),
        rules=rules,
    )


@dataclass(eq=False)
class _Counts:
    """What one sequence adds. Lists per joint."""

    ranked: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    """per frame: joint index, score and whether right, of every joint found"""
    annotated: Int[np.ndarray, " 15"]
    mot: "_JointMot"
    people: int
    frames: int


def _count_sequence(
    name: str, truth: Sequence[PoseTruth], found: Sequence[Persons], rules: PoseRules
) -> _Counts:
    if len(truth) != len(found):
        raise AnnotationError(
            f"sequence {name!r}: {len(truth)} frames of truth and {len(found)} of found people; "
            f"give one entry per frame, "
            "an empty one where nobody is"
        )
    frames = []
    for t, (labels, people) in enumerate(zip(truth, found, strict=True)):
        where = f"sequence {name!r}, frame {t} (from 0)"
        true = true_rows(labels, f"{where}, truth", tracked=rules.tracking)
        rows = found_rows(people, f"{where}, found", tracked=rules.tracking)
        if len(true):
            frames.append(tuple(outside(side, labels.ignore_regions) for side in (true, rows)))
    counts = _Counts(
        [],
        np.zeros(len(JOINTS), np.int64),
        _JointMot(),
        sum(len(t) for t, _ in frames),
        len(frames),
    )
    for t, (true, rows) in enumerate(frames):
        counts.annotated += true.present.sum(0)
        counts.ranked.append(_rank(true, rows, rules.distance))
        if (
            rules.tracking and t < len(frames) - 1
        ):  # poseval leaves out the last frame of a sequence
            counts.mot.add(true, _confident(rows, rules.tracking_joint_score), rules.distance)
    return counts


def _confident(rows: PoseRows, least: float | None) -> PoseRows:
    if least is None:
        return rows
    rows = rows.only((rows.scores >= least) | (rows.scores == NO_SCORE))
    return rows.keep(rows.present.any(1))


def _rank(
    true: PoseRows, rows: PoseRows, limit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    near = distances(true, rows) <= limit
    right = np.zeros((len(rows), len(JOINTS)), bool)
    if len(true) and len(rows):
        pckh = near.sum(-1) / np.maximum(true.present.sum(1), 1)
        best = np.zeros_like(pckh)
        owner = pckh.argmax(1)
        best[np.arange(len(rows)), owner] = pckh.max(1)
        for g in np.flatnonzero(best.max(0) > 0):
            right[best[:, g].argmax()] = near[best[:, g].argmax(), g]
    person, joint = np.nonzero(rows.present)
    return joint, rows.scores[person, joint], right[person, joint]


class _JointMot:
    """CLEAR MOT on the points of each joint; a true joint prefers the id that it was last matched
    to, however long ago."""

    def __init__(self):
        self.objects, self.misses, self.false, self.switches, self.matches = np.zeros(
            (5, len(JOINTS)), np.int64
        )
        self.distance = np.zeros(len(JOINTS))
        self._last: list[dict[int, int]] = [{} for _ in JOINTS]

    def add(self, true: PoseRows, rows: PoseRows, limit: float) -> None:
        if not len(true) or not len(rows):
            for counter in (self.objects, self.misses, self.false):
                counter += 1
            return
        apart = distances(true, rows)
        for joint in range(len(JOINTS)):
            g, d = np.flatnonzero(true.present[:, joint]), np.flatnonzero(rows.present[:, joint])
            self._add(joint, true.ids[g], rows.ids[d], apart[np.ix_(d, g)][..., joint].T, limit)

    def _add(
        self,
        joint: int,
        true_ids: np.ndarray,
        found_ids: np.ndarray,
        apart: np.ndarray,
        limit: float,
    ) -> None:
        last, place = self._last[joint], {int(identity): d for d, identity in enumerate(found_ids)}
        allowed = apart <= limit
        pairs: list[tuple[int, int]] = []
        for g, identity in enumerate(true_ids.tolist()):
            d = place.get(last.get(identity, -1))
            if d is not None and allowed[g, d]:
                pairs.append((g, d))
                allowed[g], allowed[:, d] = False, False
        cost = torch.from_numpy(np.where(allowed, apart, _FAR))
        rest = [
            (g, d)
            for g, d in zip(*(side.tolist() for side in assign(cost)), strict=True)
            if allowed[g, d]
        ]
        for g, d in pairs + rest:
            identity, now = int(true_ids[g]), int(found_ids[d])
            self.switches[joint] += last.get(identity, now) != now
            last[identity] = now
            self.distance[joint] += apart[g, d]
        matched = len(pairs) + len(rest)
        self.matches[joint] += matched
        self.objects[joint] += len(true_ids)
        self.misses[joint] += len(true_ids) - matched
        self.false[joint] += len(found_ids) - matched


def _scores(parts: list[_Counts]) -> PoseScores:
    ranked = [frame for part in parts for frame in part.ranked]
    joint, score, right = (
        np.concatenate([np.zeros(0), *(frame[i] for frame in ranked)]) for i in range(3)
    )
    annotated = sum(part.annotated for part in parts)
    objects, misses, false, switches, matches, distance = (
        sum(getattr(part.mot, name) for part in parts)
        for name in ("objects", "misses", "false", "switches", "matches", "distance")
    )
    return PoseScores(
        ap=_named(
            _average_precision(score[joint == j], right[joint == j], int(annotated[j]))
            for j in range(len(JOINTS))
        ),
        mota=_named(
            _share(o - m - f - s, o)
            for o, m, f, s in zip(objects, misses, false, switches, strict=True)
        ),
        motp=_named(
            None if not o else 1 - d / n if n else 0.0
            for o, n, d in zip(objects, matches, distance, strict=True)
        ),
        precision=_named(_share(n, n + f) for n, f in zip(matches, false, strict=True)),
        recall=_named(_share(n, o) for n, o in zip(matches, objects, strict=True)),
        switches=int(switches.sum()),
        people=sum(part.people for part in parts),
        frames=sum(part.frames for part in parts),
    )


def _average_precision(scores: np.ndarray, right: np.ndarray, annotated: int) -> float | None:
    """VOC, all points; of equal scores the later one goes first, as in poseval."""
    if not annotated:
        return None
    hits = np.cumsum(right[np.argsort(scores, kind="stable")[::-1]])
    precision = np.concatenate([hits / np.arange(1, len(hits) + 1), [0.0]])
    recall = np.concatenate([[0.0], hits / annotated, [1.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall) * envelope).sum())


def _named(values) -> dict[str, float | None]:
    return {name: None if v is None else float(v) for name, v in zip(JOINTS, values, strict=True)}


def _share(part: Any, whole: Any) -> float | None:
    return None if not whole else float(part / whole)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _by_group(scores: PoseScores, name: str) -> list[str]:
    return [_percent(value) for value in (*scores.groups(name).values(), scores.total(name))]


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value * 100:.1f}"


def _line(cells: list[str]) -> str:
    return "".join(f"{cell:>7}" for cell in cells)
