"""Scores of a COCO results file against a COCO annotation file."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from humanquery.core.coco_files import (
    PERSON,
    check_segment,
    is_of,
    load_coco,
    person_categories,
    problem_of,
    says_valid,
    short_polygons,
    skeleton_of,
    tidy_segment,
)
from humanquery.core.errors import AnnotationError
from humanquery.core.foreign import box, integer, located, number, numbers, read_json, shown
from humanquery.core.masks import bitmap_to_rle, polygons_to_bitmap, run_lengths_of
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.evaluation.coco_ap import CocoEvaluator
from humanquery.evaluation.coco_rows import (
    MOST_MASKS,
    MOST_POSES,
    UNKNOWN,
    PictureFound,
    PictureTruth,
    best_first,
    check_joints,
)
from humanquery.evaluation.people_report import EvaluationReport

COLUMNS = ("bbox", "segmentation", "keypoints", "gender", "age")
_RESULTS = "a list of COCO result rows with image_id, category_id and score"


def evaluate_files(
    truth_json: Path | str,
    results_json: Path | str,
    *,
    skeleton: Skeleton | None = None,
    category: str = PERSON,
    limit: int = 0,
) -> EvaluationReport:
    """Scores results rows (as `Persons.to_coco` writes them, or plain COCO results) of one
    category.

    Truth: COCO keypoints or instances JSON; `valid`, `gender`, `age` and `age_range` of
    COCO-UniHuman are read where they stand. Results: a list of rows with image_id, category_id,
    score and any of bbox (xywh), segmentation, keypoints, gender (P(female)), age; `mask_score`
    ranks masks and `pose_score` poses, `skeleton` names the joints, where given. Rows of other
    categories are left out; `category` as in `person_categories`.

    `skeleton` belongs to the keypoints of both; by default the one that the truth's category names,
    else `coco17` where they have 17. `limit` takes only the first pictures of the truth; 0: all.
    Files that are not what they should be, rows on pictures that the truth does not know, joints of
    another skeleton and NaN raise AnnotationError.
    """
    truth = load_coco(truth_json, needs=())
    categories = person_categories(truth, truth_json, category)
    people = _true_people(truth["annotations"], categories, truth_json)
    found = _found_people(read_json(results_json, _RESULTS, list), truth, categories, results_json)
    images = {image["id"]: image for image in truth["images"]}
    _check_pictures(people, images, truth_json, "annotations")
    _check_pictures(found, images, results_json, "results")
    everybody = [person for persons in people.values() for person in persons]
    joints = _num_joints(everybody, truth_json)
    skeleton = _skeleton(skeleton, skeleton_of(truth, truth_json, categories), joints, truth_json)
    has_masks = any("segmentation" in person for person in everybody)
    labelled = [
        key for key in ("gender", "age") if any(_label(p, key) is not None for p in everybody)
    ]
    evaluator = CocoEvaluator(skeleton)
    for image_id, image in list(images.items())[: limit or None]:
        evaluator.add_picture(
            image_id,
            _truth(image, people[image_id], joints, skeleton, has_masks, labelled, truth_json),
            _found(found[image_id], image, f"{results_json}: image {image_id}"),
        )
    return evaluator.scores()


def _true_people(
    annotations: list[Any], categories: set[int] | None, path: Path | str
) -> dict[int, list[dict]]:
    out: dict[int, list[dict]] = defaultdict(list)
    for i, person in enumerate(annotations):
        if not is_of(person, categories):
            continue
        problem = problem_of(person, None)
        if problem is not None:
            given = (
                person.get("id", f"at place {i}") if isinstance(person, dict) else f"at place {i}"
            )
            raise AnnotationError(f"{path}: annotation {given}: {problem}")
        out[_image_id(person, f"{path}: annotation {person.get('id', i)}")].append(person)
    return out


def _found_people(
    rows: list[Any], truth: dict[str, Any], categories: set[int] | None, path: Path | str
) -> dict[int, list[dict]]:
    out: dict[int, list[dict]] = defaultdict(list)
    names = {each["name"]: each["id"] for each in truth["categories"]}
    other: Counter[Any] = Counter()
    for i, row in enumerate(rows):
        where = f"{path}: row {i}"
        if not isinstance(row, dict) or "image_id" not in row:
            raise AnnotationError(
                f"{where} is not an object with an 'image_id'; expected COCO rows, got {shown(row)}"
            )
        given = row.get("category_id")
        if given is not None and categories is not None:
            with located(where):
                named = isinstance(given, str) and given in names
                given = names[given] if named else integer(given, "category_id")
            if given not in categories:
                other[given] += 1
                continue
        out[_image_id(row, where)].append(row)
    if other and not out:
        counts = ", ".join(f"{count} x {each}" for each, count in other.most_common(5))
        wanted = ", ".join(map(str, sorted(categories or ())))
        raise AnnotationError(
            f"{path}: no row has the 'category_id' of people, {wanted} in the truth; there are "
            f"{counts}. Write the truth's ids into the rows"
        )
    return out


def _image_id(row: dict[str, Any], where: str) -> int:
    with located(where):
        return integer(row.get("image_id"), "image_id")


def _check_pictures(
    rows: dict[int, list], images: dict[int, dict], path: Path | str, kind: str
) -> None:
    unknown = [image_id for image_id in rows if image_id not in images]
    if unknown:
        some = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise AnnotationError(
            f"{path}: {kind} on {len(unknown)} pictures that the truth does not list (image_id "
            f"{some}); "
            f"is this file for another split? Ids must be the integers of the truth's 'images'"
        )


def _num_joints(people: list[dict], path: Path | str) -> int | None:
    counts = {len(person["keypoints"]) for person in people if person.get("keypoints")}
    if not counts:
        return None
    if len(counts) > 1:
        raise AnnotationError(
            f"{path}: 'keypoints' have {', '.join(map(str, sorted(counts)))} numbers, "
            f"expected 3 per joint (x, y, visibility) and one count for all people"
        )
    return counts.pop() // 3


def _skeleton(
    wanted: Skeleton | None, named: Skeleton | None, joints: int | None, path: Path | str
) -> Skeleton | None:
    """Of truth and findings; None without joints."""
    if joints is None:
        return wanted
    if named is not None and joints != len(named):
        raise AnnotationError(
            f"{path}: people have {joints} joints, but the category names {len(named)}; repair "
            "'keypoints' of the category"
        )
    if wanted is None and named is None and joints != len(COCO17):
        raise AnnotationError(
            f"{path}: people have {joints} joints; only 17 (coco17) are taken for granted, name "
            "them in the category's 'keypoints' or pass skeleton=Skeleton.named(...)"
        )
    if wanted is not None and named is not None:
        check_joints(np.zeros((1, 3 * joints)), named, wanted, f"{path}: true people")
    return wanted or named or COCO17


def _label(person: dict, key: str) -> Any:
    """gender, age or [low, high]; None where nobody gave it."""
    if not says_valid(person, key) and not (key == "age" and "age_range" in person):
        return None
    value = person.get(key)
    if key == "age" and value is None:
        value = person.get("age_range")
    if value is None or value == []:
        return None
    return None if isinstance(value, int | float) and value < 0 else value


def _truth(
    image: dict,
    people: list[dict],
    joints: int | None,
    skeleton: Skeleton | None,
    has_masks: bool,
    labelled: list[str],
    path: Path | str,
) -> PictureTruth:
    size = _size(image)
    if has_masks and size is None:
        raise AnnotationError(
            f"{path}: image {image.get('id')} has no 'height' and 'width', which masks need; add "
            f"them"
        )
    boxes = [p["bbox"] for p in people]
    ages = [np.broadcast_to(UNKNOWN if (a := _label(p, "age")) is None else a, 2) for p in people]
    genders = [UNKNOWN if (g := _label(p, "gender")) is None else g for p in people]
    return PictureTruth(
        size=size,
        boxes=np.array(boxes, dtype=float).reshape(-1, 4),
        ignore=np.array([bool(p.get("iscrowd", 0)) for p in people], dtype=bool),
        areas=np.array(
            [
                b[2] * b[3] if p.get("area") is None else p["area"]
                for p, b in zip(people, boxes, strict=True)
            ],
            dtype=float,
        ),
        segments=[_segment(p, size, path) for p in people] if has_masks else None,
        joints=_joint_rows([p.get("keypoints") for p in people], joints),
        skeleton=skeleton,
        num_joints=None if joints is None else np.array([_counted(p) for p in people], dtype=int),
        gender=np.array(genders, dtype=float) if "gender" in labelled else None,
        age=np.array(ages, dtype=float).reshape(-1, 2) if "age" in labelled else None,
    )


def _size(image: dict) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    return None if height is None or width is None else (height, width)


def _segment(person: dict, size: tuple[int, int], path: Path | str) -> Any:
    segment = person.get("segmentation")
    if not segment or not says_valid(person, "segmentation"):
        return None
    with located(f"{path}: annotation {person.get('id')}"):
        if short_polygons(person):
            raise AnnotationError(
                "a mask polygon needs an even count of at least 6 numbers (three points)"
            )
        if isinstance(segment, dict):
            _check_rle(segment, size)
    return segment


def _check_rle(segment: dict, size: tuple[int, int] | None) -> None:
    if size is not None and tuple(segment["size"]) != size:
        raise AnnotationError(
            f"'segmentation' is an RLE of {segment['size'][0]} x {segment['size'][1]}, expected "
            f"the picture's height and width {size[0]} x {size[1]}"
        )
    run_lengths_of(segment)


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
    if not joints or not says_valid(person, "keypoints_2d"):
        return 0
    return int(person.get("num_keypoints", sum(v > 0 for v in joints[2::3])))


def _found(rows: list[dict], image: dict, where: str) -> PictureFound:
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
    with located(where):
        scores = _column(rows, "score")
        columns: dict[str, Any] = {}
        if "bbox" in given:
            columns["boxes"] = np.array([box(row["bbox"], "bbox", _BOX) for row in rows], float)
        if "segmentation" in given:
            ranks = _column(rows, "mask_score", "score")
            kept = np.sort(best_first(ranks)[:MOST_MASKS])
            columns["segments"] = [_found_segment(rows[i], _size(image)) for i in kept]
            columns["segment_scores"] = ranks[kept]
        if "keypoints" in given:
            columns |= _poses(rows)
        columns |= {name: _column(rows, name) for name in ("gender", "age") if name in given}
    return PictureFound(scores=scores, **columns)


_BOX = "four numbers x, y, width, height"


def _column(rows: list[dict], name: str, otherwise: str = "") -> np.ndarray:
    """Numbers of a column; where a row does not have it, those of `otherwise`. NaN is left to the
    evaluator, which tells the row."""
    values = []
    for row in rows:
        key = otherwise if otherwise and row.get(name) is None else name
        value = row[key]
        values.append(value if isinstance(value, float) else number(value, key))
    return np.array(values, dtype=float)


def _found_segment(row: dict, size: tuple[int, int] | None) -> Any:
    tidy_segment(row)
    segment = row["segmentation"]
    check_segment(segment)
    if isinstance(segment, dict):
        _check_rle(segment, size)
        return segment
    if size is None:
        raise AnnotationError(
            "'segmentation' holds polygons, and the truth gives no 'height' and 'width' of the "
            "picture; expected an RLE"
        )
    return bitmap_to_rle(polygons_to_bitmap(segment, size))


def _poses(rows: list[dict]) -> dict[str, Any]:
    ranks = _column(rows, "pose_score", "score")
    poses = best_first(ranks)[:MOST_POSES]
    joints = [numbers(rows[i]["keypoints"], "keypoints", "x, y, v for each joint") for i in poses]
    counts = {len(row) for row in joints}
    if len(counts) > 1 or next(iter(counts)) % 3:
        raise AnnotationError(
            f"'keypoints' have {', '.join(map(str, sorted(counts)))} numbers, expected 3 "
            f"per joint (x, y, v)"
        )
    return {
        "poses": poses,
        "joints": np.array(joints, dtype=float),
        "pose_scores": ranks[poses],
        "skeleton": _named_skeleton(rows),
    }


def _named_skeleton(rows: list[dict]) -> Skeleton | None:
    """What the rows call their joints; None where none says, or the name is of a layout that only
    its file knows."""
    named = {row["skeleton"] for row in rows if isinstance(row.get("skeleton"), str)}
    if len(named) > 1:
        raise AnnotationError(f"'skeleton' is {' and '.join(sorted(named))}, expected one for all")
    return next((s for name in named if (s := Skeleton.find(name)) is not None), None)
