"""COCO AP and AR of boxes, masks and keypoints, equal to pycocotools to the last digit (hotcoco
does the counting)."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import hotcoco
import numpy as np
from jaxtyping import Float

from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.core.persons import Persons
from humanquery.core.skeleton import Skeleton
from humanquery.core.target import Target
from humanquery.evaluation import attribute_ap as attributes
from humanquery.evaluation.coco_rows import (
    UNKNOWN,
    PictureFound,
    PictureTruth,
    check_found,
    check_joints,
    check_truth,
    found_of,
    truth_of,
)
from humanquery.evaluation.people_report import AREAS, EvaluationReport, FamilyScores, SizeScores

ENGINE = f"hotcoco {hotcoco.__version__}"
CocoFamily = Literal["box", "mask", "keypoints"]
IOU_TYPES = {"box": "bbox", "mask": "segm", "keypoints": "keypoints"}
TRUTH_FIELDS = {
    "box": "boxes",
    "mask": "segments",
    "keypoints": "joints",
    "gender": "gender",
    "age": "age",
}
"""family -> field of `PictureTruth`; `PictureFound` names them alike"""

Entry = tuple[int, PictureTruth, PictureFound]


def coco_scores(
    truth: hotcoco.COCO,
    found: hotcoco.COCO,
    family: CocoFamily,
    *,
    sigmas: Sequence[float] = (),
    category_ids: Sequence[int] | None = None,
) -> FamilyScores:
    """AP and AR as pycocotools counts them, for each range of `AREAS`, over `category_ids` (None:
    all).

    `sigmas`: OKS constants of the joints, needed by keypoints. Keypoints have no "small" row: COCO
    labels no joints there.
    """
    judge = hotcoco.COCOeval(truth, found, IOU_TYPES[family])
    areas = {
        name: list(bounds)
        for name, bounds in AREAS.items()
        if not (family == "keypoints" and name == "small")
    }
    judge.params.areaRng, judge.params.areaRngLbl = list(areas.values()), list(areas)
    if category_ids is not None:
        judge.params.catIds = list(category_ids)
    if family == "keypoints":
        judge.params.kpt_oks_sigmas = list(sigmas)
    judge.evaluate()
    judge.accumulate()
    precision, recall = np.asarray(judge.eval["precision"]), np.asarray(judge.eval["recall"])
    most = list(judge.params.maxDets)
    sizes = {
        name: _size_scores(precision[..., a, -1], recall[..., a, -1])
        for a, name in enumerate(areas)
    }
    return FamilyScores(
        sizes, {limit: _mean_known(recall[..., 0, m]) for m, limit in enumerate(most)}
    )


def _size_scores(
    precision: Float[np.ndarray, "t r c"], recall: Float[np.ndarray, "t c"]
) -> SizeScores:
    return SizeScores(
        ap=_mean_known(precision),
        ap50=_mean_known(precision[0]),
        ap75=_mean_known(precision[5]),
        ar=_mean_known(recall),
    )


def _mean_known(values: Float[np.ndarray, "..."]) -> float | None:
    """pycocotools writes -1 where a category has nobody in the range."""
    known = values[values > -1]
    return float(np.mean(known)) if known.size else None


class CocoEvaluator:
    """Collects pictures as they come, then scores them all.

    `skeleton`: the joints that truth and findings share; None leaves keypoints out. Pixels are not
    kept: masks become RLE when a picture is added, and only those that COCO reads (the best 100 a
    picture).

    Who counts. Ignore regions of the truth are COCO crowds: what is found in them is neither right
    nor wrong. A person whose mask nobody drew becomes such a region for mask AP (its box), so that
    a mask found there does no harm. A person without counted joints is ignored by keypoint AP. A
    person without gender or age label is *not* ignored by gender AP and Age-10 AP: that is how the
    official numbers are made (see `attributes`).
    """

    def __init__(self, skeleton: Skeleton | None = None):
        if skeleton is not None and not skeleton.sigmas:
            raise ConfigError(
                f"CocoEvaluator: skeleton {skeleton.name!r} has no OKS sigmas, so keypoint AP is "
                f"not defined for it; "
                f"use a skeleton with sigmas, or skeleton=None to score without keypoints"
            )
        self.skeleton = skeleton
        self._entries: dict[int, Entry] = {}
        self._given: tuple[int, frozenset[str]] | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, target: Target, persons: Persons, *, image_id: int | None = None) -> None:
        """One picture, both in its own pixels. `image_id` only needs to be unique (default: 1, 2,
        3, ...).

        Another picture size or skeleton, NaN, or fields that earlier pictures did not have raise
        AnnotationError.
        """
        image_id = len(self) + 1 if image_id is None else image_id
        where = f"picture {image_id}"
        if tuple(target.image_size) != tuple(persons.image_size):
            raise AnnotationError(
                f"{where}: the truth is on {_size(target.image_size)} px, "
                f"the found people on {_size(persons.image_size)} px; "
                f"both must be in pixels of the picture (not of the network's canvas)"
            )
        self.add_picture(image_id, truth_of(target), found_of(persons))

    def add_picture(self, image_id: int, truth: PictureTruth, found: PictureFound) -> None:
        """As `add`, from COCO numbers."""
        where = f"picture {image_id}"
        if image_id in self._entries:
            raise AnnotationError(
                f"{where} was added before; every picture is scored once, give each its own "
                f"image_id"
            )
        check_truth(truth, where)
        if self.skeleton is not None and truth.joints is not None and len(truth):
            check_joints(truth.joints, truth.skeleton, self.skeleton, f"{where}: true people")
        check_found(found, where, self.skeleton)
        if len(found):
            self._check_fields(image_id, found.fields)
        self._entries[image_id] = (image_id, truth, found)

    def families(self) -> list[str]:
        """Those that the truth annotates (for at least one person) and the system gives."""
        given = frozenset(TRUTH_FIELDS.values()) if self._given is None else self._given[1]
        if "boxes" not in given:
            given -= {"gender", "age"}  # people are matched by their boxes
        entries = self._entries.values()
        return [
            family
            for family, field in TRUTH_FIELDS.items()
            if field in given
            and (family != "keypoints" or self.skeleton is not None)
            and any(_labels(truth, family) for _, truth, _ in entries)
        ]

    def scores(self, median_seconds: float | None = None) -> EvaluationReport:
        """The whole report; no picture or no person in the truth raises AnnotationError."""
        if not self._entries:
            raise AnnotationError("nothing to score: no picture was added; is the data set empty?")
        entries = self._sorted()
        people = sum(int((~truth.ignore).sum()) for _, truth, _ in entries)
        if not people:
            raise AnnotationError(
                f"nothing to score: the truth of {len(entries)} pictures holds no person "
                f"(ignore regions do not count); AP is not defined without people. Is this the "
                f"right annotation file?"
            )
        families = self.families()
        pairs = [(truth, _with_empty_fields(found)) for _, truth, found in entries]
        known = attributes.match_pairs(pairs) if "box" in families else None
        return EvaluationReport(
            families={family: self.family_scores(family) for family in families},
            pictures=len(entries),
            people=people,
            ignored=sum(int(truth.ignore.sum()) for _, truth, _ in entries),
            found=sum(len(found) for _, _, found in entries),
            gender=attributes.gender_numbers(pairs, known)
            if known and "gender" in families
            else None,
            age=attributes.age_numbers(pairs, known) if known and "age" in families else None,
            box_threshold=attributes.best_threshold(pairs, known) if known else None,
            median_seconds=median_seconds,
            notes=_notes(families, entries),
            engine=ENGINE,
        )

    def family_scores(self, family: str) -> FamilyScores:
        """One of `families()` alone."""
        entries = self._sorted()
        if family in ("gender", "age"):
            pairs = [(truth, _with_empty_fields(found)) for _, truth, found in entries]
            return attributes.gender_ap(pairs) if family == "gender" else attributes.age_ap(pairs)
        shown = [entry for entry in entries if getattr(entry[1], TRUTH_FIELDS[family]) is not None]
        truth, found = {"box": _box_data, "mask": _mask_data, "keypoints": _keypoint_data}[family](
            shown
        )
        scores = coco_scores(
            truth, found, family, sigmas=self.skeleton.sigmas if family == "keypoints" else ()
        )
        sizes = {
            n: dataclasses.replace(s, people=_people_in(shown, family, n))
            for n, s in scores.sizes.items()
        }
        return dataclasses.replace(scores, sizes=sizes)

    def _sorted(self) -> list[Entry]:
        return [self._entries[image_id] for image_id in sorted(self._entries)]

    def _check_fields(self, image_id: int, fields: frozenset[str]) -> None:
        if self._given is None:
            self._given = (image_id, fields)
        first, given = self._given
        if fields != given:
            raise AnnotationError(
                f"picture {image_id}: found people have {_listed(fields)}, "
                f"those of picture {first} have {_listed(given)}; "
                f"one evaluation scores one system, and each field must be there for all people or "
                f"for none"
            )


def evaluate_predictions(
    predictions: Iterable[tuple[Target, Persons]], skeleton: Skeleton | None = None
) -> EvaluationReport:
    """Scores pairs of truth and findings, both in pixels of the picture."""
    evaluator = CocoEvaluator(skeleton)
    for target, persons in predictions:
        evaluator.add(target, persons)
    return evaluator.scores()


def _labels(truth: PictureTruth, family: str) -> bool:
    """Somebody who counts is annotated for this family."""
    if family == "box":
        return True
    if getattr(truth, TRUTH_FIELDS[family]) is None:
        return False
    return bool((_known(truth, family) & ~truth.ignore).any())


def _known(truth: PictureTruth, family: str) -> np.ndarray:
    if family == "mask":
        return np.array([segment is not None for segment in truth.segments], dtype=bool)
    if family == "keypoints":
        return truth.num_joints > 0
    if family == "gender":
        return truth.gender != UNKNOWN
    if family == "age":
        return truth.age[:, 0] != UNKNOWN
    return np.ones(len(truth), dtype=bool)


def _people_in(entries: list[Entry], family: str, size: str) -> int:
    low, high = AREAS[size]
    counted = (
        _known(t, family) & ~t.ignore & (t.areas >= low) & (t.areas <= high) for _, t, _ in entries
    )
    return int(sum(c.sum() for c in counted))


def _with_empty_fields(found: PictureFound) -> PictureFound:
    """Where nobody was found a system gives no fields; they are then empty."""
    if len(found):
        return found
    return dataclasses.replace(found, boxes=np.zeros((0, 4)), gender=np.zeros(0), age=np.zeros(0))


def _notes(families: list[str], entries: list[Entry]) -> tuple[str, ...]:
    notes = []
    unlabelled = {
        family: sum(
            int((~_known(t, family) & ~t.ignore).sum())
            for _, t, _ in entries
            if getattr(t, TRUTH_FIELDS[family]) is not None
        )
        for family in families
    }
    if unlabelled.get("mask"):
        notes.append(
            f"{unlabelled['mask']} people without a mask label are ignored by mask AP (as regions, "
            f"their boxes)"
        )
    if unlabelled.get("keypoints"):
        notes.append(
            f"{unlabelled['keypoints']} people without labelled joints are ignored by keypoint AP"
        )
    for family in ("gender", "age"):
        if unlabelled.get(family):
            notes.append(
                f"{unlabelled[family]} people without {family} label are dropped by {family} AP: "
                f"what is found on them counts as wrong, as in the official evaluation"
            )
    if "age" in families:
        between = sum(
            int((t.age[:, 0] != t.age[:, 1]).sum()) for _, t, _ in entries if t.age is not None
        )
        if between:
            notes.append(
                f"{between} people whose age is an interval are left out of Age-10 AP; the plain "
                f"numbers use them"
            )
    return tuple(notes)


def _images(entries: list[Entry]) -> list[dict[str, Any]]:
    # pictures without findings are listed too: without them their people would not count as missed
    return [
        {"id": image_id, "height": truth.size[0], "width": truth.size[1]}
        if truth.size
        else {"id": image_id}
        for image_id, truth, _ in entries
    ]


CATEGORIES = [{"id": 1, "name": "person"}]


def _box_data(entries: list[Entry]) -> tuple[hotcoco.COCO, hotcoco.COCO]:
    ids = [np.full(len(truth), image_id) for image_id, truth, _ in entries]
    truth = hotcoco.COCO.from_arrays(
        _images(entries),
        CATEGORIES,
        np.concatenate(ids),
        np.ones(sum(map(len, ids)), dtype=np.int64),
        np.concatenate([truth.boxes for _, truth, _ in entries]),
        area=np.concatenate([truth.areas for _, truth, _ in entries]),
        iscrowd=np.concatenate([truth.ignore for _, truth, _ in entries]),
    )
    rows = [
        np.column_stack(
            [np.full(len(found), image_id), found.boxes, found.scores, np.ones(len(found))]
        )
        for image_id, _, found in entries
        if len(found)
    ]
    return truth, truth.load_res(np.concatenate(rows) if rows else [])


def _mask_data(entries: list[Entry]) -> tuple[hotcoco.COCO, hotcoco.COCO]:
    people, results = [], []
    for image_id, truth, found in entries:
        for i, segment in enumerate(truth.segments):
            crowd = bool(truth.ignore[i]) or segment is None
            person = _person(len(people) + 1, image_id, truth, i, crowd)
            people.append(
                person
                | {"segmentation": _box_polygon(truth.boxes[i]) if segment is None else segment}
            )
        scores = () if found.segments is None else found.segment_scores.tolist()
        for segment, score in zip(found.segments or (), scores, strict=True):
            # no box in the row: the area of a found mask is then its own, not its box's
            results.append(
                {"image_id": image_id, "category_id": 1, "segmentation": segment, "score": score}
            )
    return _load(entries, people, results)


def _keypoint_data(entries: list[Entry]) -> tuple[hotcoco.COCO, hotcoco.COCO]:
    people, results = [], []
    for image_id, truth, found in entries:
        for i, joints in enumerate(truth.joints.tolist()):
            person = _person(len(people) + 1, image_id, truth, i, bool(truth.ignore[i]))
            people.append(person | {"keypoints": joints, "num_keypoints": int(truth.num_joints[i])})
        columns = (found.poses, found.joints, found.pose_scores)
        poses = (
            []
            if found.joints is None
            else zip(*(column.tolist() for column in columns), strict=True)
        )
        for row, joints, score in poses:
            result = {"image_id": image_id, "category_id": 1, "keypoints": joints, "score": score}
            results.append(
                result if found.boxes is None else result | {"bbox": found.boxes[row].tolist()}
            )
    return _load(entries, people, results)


def _load(
    entries: list[Entry], people: list[dict], results: list[dict]
) -> tuple[hotcoco.COCO, hotcoco.COCO]:
    truth = hotcoco.COCO(
        {"images": _images(entries), "annotations": people, "categories": CATEGORIES}
    )
    return truth, truth.load_res(results)


def _person(
    person_id: int, image_id: int, truth: PictureTruth, row: int, crowd: bool
) -> dict[str, Any]:
    return {
        "id": person_id,  # from 1: to COCO's evaluators 0 means "not matched"
        "image_id": image_id,
        "category_id": 1,
        "bbox": truth.boxes[row].tolist(),
        "area": float(truth.areas[row]),
        "iscrowd": int(crowd),
    }


def _box_polygon(box: Float[np.ndarray, "4"]) -> list[list[float]]:
    x, y, w, h = box.tolist()
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"


def _listed(fields: frozenset[str]) -> str:
    return ", ".join(sorted(fields)) or "no fields"
