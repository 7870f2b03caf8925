"""Scores of a COCO results file against a COCO annotation file."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from humanquery.core.errors import AnnotationError
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.evaluation.coco_ap import CocoEvaluator
from humanquery.evaluation.coco_rows import (
    MOST_MASKS,
    MOST_POSES,
    UNKNOWN,
    PictureFound,
    PictureTruth,
    best_first,
)
from humanquery.evaluation.people_report import EvaluationReport

COLUMNS = ("bbox", "segmentation", "keypoints", "gender", "age")


def evaluate_files(
    truth_json: Path | str,
    results_json: Path | str,
    *,
    skeleton: Skeleton | None = None,
    category: str = "person",
) -> EvaluationReport:
    """Scores results rows (as `Persons.to_coco` writes them, or plain COCO results) of one
    category.

    Truth: COCO keypoints or instances JSON; `valid`, `gender`, `age` and `age_range` of
    COCO-UniHuman are read where they stand. Results: a list of rows with image_id, category_id,
    score and any of bbox (xywh), segmentation, keypoints, gender (P(female)), age; `mask_score`
    ranks masks and `pose_score` poses where given. Rows of other categories are left out.
    `skeleton` belongs to the keypoints of both; by default `coco17` where they have 17. Files
    that are not what they should be, rows on pictures that the truth does not know, and NaN
    raise AnnotationError.
    """
    truth = _read(truth_json, dict, 'an object with "images" and "annotations"')
    rows = _read(results_json, list, "a list of result rows")
    for key in ("images", "annotations"):
        if not isinstance(truth.get(key), list):
            raise AnnotationError(
                f"{truth_json}: no list {key!r}; expected COCO annotations with images and "
                f"annotations"
            )
    category_id = _category_id(truth, category, truth_json)
    people = _by_picture(truth["annotations"], category_id, truth_json)
    found = _by_picture(rows, category_id, results_json)
    images = {_image_id(image, truth_json): image for image in truth["images"]}
    _check_pictures(people, images, truth_json, "annotations")
    _check_pictures(found, images, results_json, "results")
    joints = _num_joints(truth["annotations"], truth_json)
    has_masks = any("segmentation" in person for person in truth["annotations"])
    labelled = [
        key
        for key in ("gender", "age")
        if any(_label(p, key) is not None for p in truth["annotations"])
    ]
    evaluator = CocoEvaluator(_skeleton(skeleton, joints, truth_json))
    for image_id, image in images.items():
        evaluator.add_picture(
            image_id,
            _truth(image, people[image_id], joints, has_masks, labelled, truth_json),
            _found(found[image_id], f"{results_json}: image {image_id}"),
        )
    return evaluator.scores()


def _read(path: Path | str, kind: type, expected: str) -> Any:
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as problem:
        raise AnnotationError(
            f"{path}: cannot be read ({problem.strerror}); check the path"
        ) from problem
    except ValueError as problem:
        raise AnnotationError(f"{path}: not JSON ({problem}); expected {expected}") from problem
    if not isinstance(data, kind):
        raise AnnotationError(f"{path}: holds a JSON {type(data).__name__}, expected {expected}")
    return data


def _category_id(truth: dict, category: str, path: Path | str) -> int:
    named = {c.get("name"): c["id"] for c in truth.get("categories", []) if "id" in c}
    if not named:
        return 1
    if category not in named:
        known = ", ".join(sorted(map(str, named)))
        raise AnnotationError(
            f"{path}: no category {category!r}; the file has {known}. Pass category=... for another"
        )
    return named[category]


def _image_id(image: dict, path: Path | str) -> int:
    image_id = image.get("id")
    if not isinstance(image_id, int):
        raise AnnotationError(
            f"{path}: a picture has id {image_id!r}, expected an integer; renumber the pictures"
        )
    return image_id


def _by_picture(rows: list, category_id: int, path: Path | str) -> dict[int, list[dict]]:
    out: dict[int, list[dict]] = defaultdict(list)
    for i, row in enumerate(rows):
        if not isinstance(row, dict) or "image_id" not in row:
            raise AnnotationError(
                f"{path}: row {i} is not an object with an 'image_id'; expected COCO rows"
            )
        if row.get("category_id", category_id) == category_id:
            out[row["image_id"]].append(row)
    return out


def _check_pictures(
    rows: dict[int, list], images: dict[int, dict], path: Path | str, kind: str
) -> None:
    unknown = [image_id for image_id in rows if image_id not in images]
    if unknown:
        shown = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise AnnotationError(
            f"{path}: {kind} on {len(unknown)} pictures that the truth does not list (image_id "
            f"{shown}); "
            f"is this file for another split? Ids must be the integers of the truth's 'images'"
        )


def _num_joints(people: list[dict], path: Path | str) -> int | None:
    counts = {len(person["keypoints"]) for person in people if person.get("keypoints")}
    if not counts:
        return None
    if len(counts) > 1 or next(iter(counts)) % 3:
        raise AnnotationError(
            f"{path}: 'keypoints' have {', '.join(map(str, sorted(counts)))} numbers, "
            f"expected 3 per joint (x, y, visibility) and one count for all people"
        )
    return counts.pop() // 3


def _skeleton(skeleton: Skeleton | None, joints: int | None, path: Path | str) -> Skeleton | None:
    if joints is None or skeleton is not None:
        return skeleton
    if joints != len(COCO17):
        raise AnnotationError(
            f"{path}: people have {joints} joints; only 17 (coco17) are taken for granted, "
            f"pass skeleton=Skeleton.named(...)"
        )
    return COCO17


def _label(person: dict, key: str) -> Any:
    """gender, age or [low, high]; None where nobody gave it."""
    if not person.get("valid", {}).get(key, 1) and not (key == "age" and "age_range" in person):
        return None
    value = person.get(key, person.get("age_range") if key == "age" else None)
    return None if isinstance(value, int | float) and value < 0 else value


def _truth(
    image: dict,
    people: list[dict],
    joints: int | None,
    has_masks: bool,
    labelled: list[str],
    path: Path | str,
) -> PictureTruth:
    size = (image["height"], image["width"]) if "height" in image and "width" in image else None
    if has_masks and size is None:
        raise AnnotationError(
            f"{path}: image {image.get('id')} has no 'height' and 'width', which masks need; add "
            f"them"
        )
    boxes = [_box(p, f"{path}: annotation {p.get('id')}") for p in people]
    ages = [np.broadcast_to(UNKNOWN if (a := _label(p, "age")) is None else a, 2) for p in people]
    genders = [UNKNOWN if (g := _label(p, "gender")) is None else g for p in people]
    return PictureTruth(
        size=size,
        boxes=np.array(boxes, dtype=float).reshape(-1, 4),
        ignore=np.array([bool(p.get("iscrowd", 0)) for p in people], dtype=bool),
        areas=np.array(
            [p.get("area", b[2] * b[3]) for p, b in zip(people, boxes, strict=True)], dtype=float
        ),
        segments=[_segment(p, path) for p in people] if has_masks else None,
        joints=_joint_rows([p.get("keypoints") for p in people], joints),
        num_joints=None if joints is None else np.array([_counted(p) for p in people], dtype=int),
        gender=np.array(genders, dtype=float) if "gender" in labelled else None,
        age=np.array(ages, dtype=float).reshape(-1, 2) if "age" in labelled else None,
    )


def _box(row: dict, where: str) -> list:
    box = row.get("bbox")
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(isinstance(v, int | float) for v in box)
    ):
        raise AnnotationError(
            f"{where}: 'bbox' is {box!r}, expected four numbers x, y, width, height"
        )
    return box


def _segment(person: dict, path: Path | str) -> Any:
    segment = person.get("segmentation")
    if not segment or not person.get("valid", {}).get("segmentation", 1):
        return None
    if isinstance(segment, list) and any(
        len(polygon) < 6 or len(polygon) % 2 for polygon in segment
    ):
        raise AnnotationError(
            f"{path}: annotation {person.get('id')}: a mask polygon needs an even count of at "
            f"least 6 numbers "
            f"(three points)"
        )
    return segment


def _joint_rows(rows: list[list | None], joints: int | None) -> np.ndarray | None:
    if joints is None:
        return None
    return np.array([row or [0.0] * (3 * joints) for row in rows], dtype=float).reshape(
        -1, 3 * joints
    )


def _counted(person: dict) -> int:
    """The file's own count where it stands: in CrowdPose it is not the number of labelled
    joints."""
    joints = person.get("keypoints")
    if not joints or not person.get("valid", {}).get("keypoints_2d", 1):
        return 0
    return int(person.get("num_keypoints", sum(v > 0 for v in joints[2::3])))


def _found(rows: list[dict], where: str) -> PictureFound:
    if not rows:
        return PictureFound(scores=np.zeros(0))
    given = [column for column in COLUMNS if any(column in row for row in rows)]
    for column in ["score", *given]:
        lacking = next((i for i, row in enumerate(rows) if row.get(column) is None), None)
        if lacking is not None:
            raise AnnotationError(
                f"{where}: result {lacking} has no {column!r}, but others do; every row needs the "
                f"same columns"
            )
    scores = np.array([row["score"] for row in rows], dtype=float)
    columns: dict[str, Any] = {}
    if "bbox" in given:
        columns["boxes"] = np.array([_box(row, where) for row in rows], dtype=float)
    if "segmentation" in given:
        ranks = np.array([row.get("mask_score", row["score"]) for row in rows], dtype=float)
        kept = np.sort(best_first(ranks)[:MOST_MASKS])
        columns |= {
            "segments": [rows[i]["segmentation"] for i in kept],
            "segment_scores": ranks[kept],
        }
    if "keypoints" in given:
        ranks = np.array([row.get("pose_score", row["score"]) for row in rows], dtype=float)
        poses = best_first(ranks)[:MOST_POSES]
        joints = _result_joints([rows[i]["keypoints"] for i in poses], where)
        columns |= {"poses": poses, "joints": joints, "pose_scores": ranks[poses]}
    for column in ("gender", "age"):
        if column in given:
            columns[column] = np.array([row[column] for row in rows], dtype=float)
    return PictureFound(scores=scores, **columns)


def _result_joints(rows: list[list], where: str) -> np.ndarray:
    counts = {len(row) for row in rows}
    if len(counts) > 1 or next(iter(counts)) % 3:
        raise AnnotationError(
            f"{where}: 'keypoints' have {', '.join(map(str, sorted(counts)))} numbers, expected 3 "
            f"per joint (x, y, v)"
        )
    return np.array(rows, dtype=float)
