"""Tracking of boxes: CLEAR (MOTA), identity (IDF1) and HOTA numbers, computed by TrackEval's
metric classes on our rows."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from humanquery import __version__
from humanquery.core.boxes import iou
from humanquery.core.errors import AnnotationError, HumanQueryError

COMBINED = "combined"


@dataclass(frozen=True)
class TrackingRules:
    """How found people are compared with true people. The defaults are MOTChallenge's, without
    its class clean-up."""

    iou: float = 0.5
    """least IoU of a pair in MOTA and IDF1; HOTA averages over .05 to .95"""
    integer_boxes: str = "none"
    """"none", "truth" or "both": whose x, y, width and height are cut to whole px first"""
    ignore_iou: float | None = None
    """found people who overlap an ignore region by more than this IoU, and no true person by
    `iou`, are left out"""

    def __post_init__(self):
        if self.integer_boxes not in ("none", "truth", "both"):
            raise AnnotationError(
                f"integer_boxes is {self.integer_boxes!r}, expected 'none', 'truth' or 'both'"
            )
        if not 0 < self.iou <= 1:
            raise AnnotationError(f"iou is {self.iou}, expected a number above 0, at most 1")


POSETRACK21 = TrackingRules(integer_boxes="both")
"""the box protocol of PoseTrack21 (HQNet Table 5); its own reader cuts only the truth:
integer_boxes="truth\""""


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """The people of one frame: true or found."""

    boxes: Float[np.ndarray, "n 4"]
    """xyxy px"""
    ids: Int[np.ndarray, " n"]
    """0 or more, each once per frame"""
    ignore_boxes: Float[np.ndarray, "m 4"] = field(default_factory=lambda: np.zeros((0, 4)))
    """truth only: regions in which nothing is known"""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class TrackingScores:
    """One sequence, or all together. Shares are 0..1 (MOTA may fall below 0); None where there
    is nothing to divide by."""

    mota: float | None
    motp: float | None
    """mean IoU of matched pairs"""
    idf1: float | None
    idp: float | None
    idr: float | None
    hota: float | None
    deta: float | None
    assa: float | None
    switches: int
    fragmentations: int
    mostly_tracked: int
    """true identities matched in more than 80 % of their frames"""
    partly_tracked: int
    mostly_lost: int
    """true identities matched in less than 20 % of their frames"""
    false_positives: int
    misses: int
    true_boxes: int
    found_boxes: int
    identities: int
    frames: int


@dataclass(frozen=True)
class TrackingReport:
    """One evaluation of tracking."""

    sequences: dict[str, TrackingScores]
    combined: TrackingScores
    """counts of all sequences together, and the shares they make (not the mean of the rows)"""
    rules: TrackingRules
    engine: str = ""
    version: str = field(default=f"humanquery {__version__}")

    def __getitem__(self, sequence: str) -> TrackingScores:
        return self.sequences[sequence]

    def numbers(self) -> dict[str, float | int]:
        """Flat, of all sequences together, for logs: {"tracking/mota": ..., "tracking/switches":
        ...}."""
        flat = dataclasses.asdict(self.combined)
        return {f"tracking/{name}": value for name, value in flat.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; absent numbers are None (null)."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def save(self, path: Path | str) -> None:
        Path(path).write_text(
            json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    def table(self) -> str:
        """Aligned text: one row per sequence, one for all together, and the rules."""
        rows = {**self.sequences, COMBINED: self.combined}
        wide = max(map(len, rows)) + 2
        header = " " * wide + "".join(
            f"{title:>{w}}" for title, w in zip(_COLUMNS, _WIDTHS, strict=True)
        )
        lines = [header, *(f"{name:<{wide}}{_cells(scores)}" for name, scores in rows.items()), ""]
        people = self.combined
        lines.append(
            f"{len(self.sequences)} sequences, {people.frames} frames, {people.identities} true "
            f"identities in "
            f"{people.true_boxes} boxes, {people.found_boxes} boxes found"
        )
        lines.append(f"First eight in %; {_rules_text(self.rules)}.")
        lines.append(f"Made with {self.version}, {self.engine}.")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


_SHARES = {
    "MOTA": "mota",
    "MOTP": "motp",
    "IDF1": "idf1",
    "IDP": "idp",
    "IDR": "idr",
    "HOTA": "hota",
    "DetA": "deta",
    "AssA": "assa",
}
_COUNTS = {
    "IDSW": "switches",
    "Frag": "fragmentations",
    "MT": "mostly_tracked",
    "ML": "mostly_lost",
    "FP": "false_positives",
    "FN": "misses",
}
_COLUMNS = (*_SHARES, *_COUNTS)
_WIDTHS = (*[7] * len(_SHARES), *[7] * len(_COUNTS))


def evaluate_tracking(
    sequences: Mapping[str, tuple[Sequence[Any], Sequence[Any]]], rules: TrackingRules | None = None
) -> TrackingReport:
    """Scores of tracked boxes, per sequence and together.

    `sequences`: name -> (truth, found), two lists with one entry per frame; an entry is whatever
    `tracked_frame` takes. Lists of different length, and frames that `tracked_frame` refuses,
    raise AnnotationError naming sequence and frame. TrackEval (`pip install
    'humanquery[track]'`) does the counting.
    """
    rules = rules or TrackingRules()
    if not sequences:
        raise AnnotationError("no sequences to evaluate; pass {name: (truth, found)}")
    if COMBINED in sequences:
        raise AnnotationError(
            f"a sequence is named {COMBINED!r}, which is the name of the last row; rename it"
        )
    metrics = _metrics(rules.iou)
    data = {name: _sequence(name, *_both(name, pair), rules) for name, pair in sequences.items()}
    results = {
        key: {name: metric.eval_sequence(rows) for name, rows in data.items()}
        for key, metric in metrics.items()
    }
    together = {key: metric.combine_sequences(results[key]) for key, metric in metrics.items()}
    return TrackingReport(
        sequences={
            name: _scores({key: results[key][name] for key in metrics}, rows["num_timesteps"])
            for name, rows in data.items()
        },
        combined=_scores(together, sum(rows["num_timesteps"] for rows in data.values())),
        rules=rules,
        engine=f"trackeval {version('trackeval')}",
    )


def tracked_frame(people: Any, where: str = "people") -> TrackedFrame:
    """The people of one frame as plain arrays.

    Takes a `TrackedFrame`, a `Target` or `Persons` with track ids, a mapping {"boxes": n×4 xyxy,
    "ids": n} or any object with such attributes (`track_ids` for `ids` is fine, `ignore` marks
    regions). Missing, negative or repeated ids and boxes that are not finite raise
    AnnotationError that begins with `where`.
    """
    read = people.get if isinstance(people, Mapping) else lambda name: getattr(people, name, None)
    boxes, ids, ignore = read("boxes"), read("ids"), read("ignore")
    ids = read("track_ids") if ids is None else ids
    if ids is None and boxes is not None and not len(boxes):
        ids = []
    if boxes is None or ids is None:
        raise AnnotationError(
            f"{where}: no {'boxes' if boxes is None else 'track ids'} in a "
            f"{type(people).__name__}; expected boxes n×4 "
            "xyxy and ids n (Target and Persons need track_ids)"
        )
    boxes, ids = _array(boxes, np.float64).reshape(-1, 4), _ids(ids, where)
    if len(boxes) != len(ids):
        raise AnnotationError(
            f"{where}: {len(boxes)} boxes and {len(ids)} ids; give one id per box"
        )
    regions = read("ignore_boxes")
    regions = np.zeros((0, 4)) if regions is None else _array(regions, np.float64).reshape(-1, 4)
    if ignore is not None:
        skipped = _array(ignore, bool)
        regions = np.concatenate([regions, boxes[skipped]])
        boxes, ids = boxes[~skipped], ids[~skipped]
    _check_rows(boxes, ids, where)
    return TrackedFrame(boxes, ids, regions)


def _ids(ids: Any, where: str) -> Int[np.ndarray, " n"]:
    plain = ids.detach().cpu().numpy() if isinstance(ids, torch.Tensor) else np.asarray(ids)
    if plain.size and not np.issubdtype(plain.dtype, np.integer):
        raise AnnotationError(f"{where}: ids of type {plain.dtype}, expected whole numbers")
    return plain.astype(np.int64).reshape(-1)


def _array(values: Any, kind: type) -> np.ndarray:
    plain = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
    return np.asarray(plain, dtype=kind)


def _check_rows(boxes: np.ndarray, ids: np.ndarray, where: str) -> None:
    if not np.isfinite(boxes).all():
        raise AnnotationError(f"{where}: a box holds NaN or infinity; expected finite px")
    if (ids < 0).any():
        raise AnnotationError(
            f"{where}: id {int(ids.min())}, expected 0 or more; people without identity cannot be "
            f"scored as tracks"
        )
    known, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise AnnotationError(
            f"{where}: id {known[counts.argmax()]} comes {counts.max()} times; within a frame each "
            f"person has its own id"
        )


def _both(
    name: str, pair: tuple[Sequence[Any], Sequence[Any]]
) -> tuple[list[TrackedFrame], list[TrackedFrame]]:
    truth, found = pair
    if len(truth) != len(found):
        more = (
            "found people beyond the sequence"
            if len(found) > len(truth)
            else "frames without a result"
        )
        raise AnnotationError(
            f"sequence {name!r}: {len(truth)} frames of truth and {len(found)} of found people "
            f"({more}); give one entry "
            "per frame, an empty one where nobody is"
        )
    kinds = ("truth", truth), ("found", found)
    frames = [
        [
            tracked_frame(people, f"sequence {name!r}, frame {t} (from 0), {kind}")
            for t, people in enumerate(entries)
        ]
        for kind, entries in kinds
    ]
    return frames[0], frames[1]


def _sequence(
    name: str, truth: list[TrackedFrame], found: list[TrackedFrame], rules: TrackingRules
) -> dict[str, Any]:
    """What TrackEval's metrics read: ids counted without gaps and the IoU of every pair, per
    frame."""
    kept, overlaps = [], []
    for true, people in zip(truth, found, strict=True):
        true_boxes = _whole(true.boxes) if rules.integer_boxes != "none" else true.boxes
        boxes = _whole(people.boxes) if rules.integer_boxes == "both" else people.boxes
        overlap = _iou(true_boxes, boxes)
        counts = ~_in_ignored(true, boxes, overlap, rules)
        kept.append(people.ids[counts])
        overlaps.append(overlap[:, counts])
    true_ids, num_true = _without_gaps([frame.ids for frame in truth])
    found_ids, num_found = _without_gaps(kept)
    return {
        "seq": name,
        "num_timesteps": len(truth),
        "num_gt_ids": num_true,
        "num_tracker_ids": num_found,
        "num_gt_dets": sum(map(len, true_ids)),
        "num_tracker_dets": sum(map(len, found_ids)),
        "gt_ids": true_ids,
        "tracker_ids": found_ids,
        "similarity_scores": overlaps,
    }


def _iou(a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    return iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()


def _whole(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    """x, y, width and height cut to whole px, towards 0."""
    corner, sides = np.trunc(boxes[:, :2]), np.trunc(boxes[:, 2:] - boxes[:, :2] + 1e-9)
    return np.concatenate([corner, corner + sides], 1)


def _in_ignored(
    true: TrackedFrame, boxes: np.ndarray, overlap: np.ndarray, rules: TrackingRules
) -> np.ndarray:
    if rules.ignore_iou is None or not len(true.ignore_boxes):
        return np.zeros(len(boxes), bool)
    inside = (_iou(true.ignore_boxes, boxes) > rules.ignore_iou).any(0)
    return inside & ~(overlap >= rules.iou).any(0)


def _without_gaps(frames: list[Int[np.ndarray, "_n"]]) -> tuple[list[Int[np.ndarray, "_n"]], int]:
    """The same ids as 0, 1, 2, ..., and how many there are."""
    known, numbers = np.unique(
        np.concatenate([np.zeros(0, np.int64), *frames]), return_inverse=True
    )
    return np.split(numbers, np.cumsum([len(ids) for ids in frames])[:-1]) if frames else [], len(
        known
    )


def _metrics(threshold: float) -> dict[str, Any]:
    try:
        from trackeval.metrics import CLEAR, HOTA, Identity
    except ImportError as problem:
        raise HumanQueryError(
            f"scoring of tracking needs TrackEval ({problem}); pip install 'humanquery[track]', or "
            f"without its OpenCV, "
            "which wants libGL: pip install --no-deps trackeval tabulate"
        ) from problem
    quiet = {"THRESHOLD": threshold, "PRINT_CONFIG": False}
    return {"clear": CLEAR(dict(quiet)), "identity": Identity(dict(quiet)), "hota": HOTA()}


def _scores(results: dict[str, dict[str, Any]], frames: int) -> TrackingScores:
    """TrackEval's fields by our names; where it writes 0 for 0 / 0, None."""
    clear, identity, hota = results["clear"], results["identity"], results["hota"]
    matched, misses, false = (int(clear[key]) for key in ("CLR_TP", "CLR_FN", "CLR_FP"))
    true, found = matched + misses, matched + false
    share = {
        "mota": (clear["MOTA"], true),
        "motp": (clear["MOTP"], matched),
        "idf1": (identity["IDF1"], true + found),
        "idp": (identity["IDP"], found),
        "idr": (identity["IDR"], true),
        "hota": (np.mean(hota["HOTA"]), true + found),
        "deta": (np.mean(hota["DetA"]), true + found),
        "assa": (np.mean(hota["AssA"]), true + found),
    }
    tracked = [int(clear[key]) for key in ("MT", "PT", "ML")]
    return TrackingScores(
        **{name: float(value) if over else None for name, (value, over) in share.items()},
        switches=int(clear["IDSW"]),
        fragmentations=int(clear["Frag"]),
        mostly_tracked=tracked[0],
        partly_tracked=tracked[1],
        mostly_lost=tracked[2],
        false_positives=false,
        misses=misses,
        true_boxes=true,
        found_boxes=found,
        identities=sum(tracked),
        frames=frames,
    )


def _cells(scores: TrackingScores) -> str:
    shares = [getattr(scores, name) for name in _SHARES.values()]
    cells = ["n/a" if share is None else f"{share * 100:.1f}" for share in shares]
    cells += [str(getattr(scores, name)) for name in _COUNTS.values()]
    return "".join(f"{cell:>{w}}" for cell, w in zip(cells, _WIDTHS, strict=True))


def _rules_text(rules: TrackingRules) -> str:
    whole = {
        "none": "",
        "truth": ", true boxes cut to whole px",
        "both": ", boxes cut to whole px",
    }[rules.integer_boxes]
    ignored = (
        ""
        if rules.ignore_iou is None
        else f", found people in ignore regions (IoU > {rules.ignore_iou:g}) left out"
    )
    return (
        f"pairs at IoU ≥ {rules.iou:g}{whole}{ignored}; MOTP is the mean IoU of pairs; HOTA over "
        "IoU .05 to .95"
    )
