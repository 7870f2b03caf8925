"""COCO person files of any tool in one plain form, and what can be wrong with their annotations.

Readers, evaluators, `data check` and `data stats` all load a file here, so that they agree on
what it says. Ids as text ("7") or as 7.0 become whole numbers, `valid: true` and null entries go,
categories come as a list however they were written.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from humanquery.core.errors import AnnotationError
from humanquery.core.foreign import (
    LARGEST_INTEGER,
    box,
    flag,
    integer,
    is_number,
    items,
    kind_of,
    located,
    mapping,
    number,
    read_json,
    shown,
    text,
)
from humanquery.core.skeleton import Skeleton

log = logging.getLogger(__name__)

Annotation = dict[str, Any]

PERSON = "person"
PERSON_WORDS = frozenset(
    ("person", "persons", "people", "human", "humans", "pedestrian", "pedestrians")
)
"""names of a category that mean people, in any case"""
COCO = "a COCO annotation file with the lists 'images' and 'annotations'"
_IDS = ("id", "image_id", "category_id", "track_id", "num_keypoints")
_FLAGS = ("iscrowd", "ignore", "pseudo")
_MAY_BE_NULL = ("id", "category_id", "track_id", "num_keypoints", "valid", *_FLAGS)


def load_coco(
    path: str | Path,
    *,
    needs: Sequence[str] = ("file_name", "height", "width"),
    unique: bool = True,
    expected: str = COCO,
) -> dict[str, Any]:
    """The content of a COCO file with plain `images`, `categories` and `annotations`.

    `needs`: keys that every picture must have besides its id; `unique`: two pictures of one id
    are refused; `expected` says in messages what the file should be. A missing file, no JSON, JSON
    that is not COCO, pictures that are none, and categories that say nothing raise AnnotationError
    with file and entry. Annotations may still be wrong one by one, see `problems_of`; one that is
    no object is left as it is.
    """
    path = Path(path)
    content = read_json(path, expected)
    missing = [key for key in ("images", "annotations") if not isinstance(content.get(key), list)]
    if missing:
        converted = (
            "; convert PoseTrack17 files to the format of 2018 first"
            if "annolist" in content
            else ""
        )
        raise AnnotationError(
            f"{path}: no list {' and '.join(map(repr, missing))}; found the keys "
            f"{', '.join(map(repr, content)) or 'none'}; expected {expected}{converted}"
        )
    for i, record in enumerate(content["images"]):
        with located(f"{path}: picture {i}"):
            _tidy_picture(record, needs)
    ids = [record["id"] for record in content["images"]]
    if unique and len(set(ids)) != len(ids):
        repeated = Counter(ids).most_common(1)[0][0]
        raise AnnotationError(f"{path}: two pictures have the id {repeated}; ids must be unique")
    with located(str(path)):
        content["categories"] = _categories(content.get("categories"))
    ids_by_name = {
        each["name"]: each["id"] for each in content["categories"] if each["id"] is not None
    }
    for annotation in content["annotations"]:
        if isinstance(annotation, dict):
            _tidy(annotation, ids_by_name)
            if len(content["categories"]) > 1:  # nobody can say whether it is a person
                annotation.setdefault("category_id", None)
    return content


def person_categories(
    content: dict[str, Any], path: str | Path, category: str = PERSON
) -> set[int] | None:
    """Ids of the category of people in what `load_coco` gave; None: all annotations are people.

    A file of one category is taken to be about people. Among several, `category` is taken, in any
    case where nothing is spelled exactly so; else the only one whose name means people
    (`PERSON_WORDS`). None, or more than one such, raises AnnotationError.
    """
    categories = content["categories"]
    if len(categories) <= 1:
        known = {each["id"] for each in categories if each["id"] is not None}
        return known or None
    wanted: tuple[Callable[[str], bool], ...] = (
        lambda name: name == category,
        lambda name: name.lower() == category.lower(),
        lambda name: category.lower() in PERSON_WORDS and name.lower() in PERSON_WORDS,
    )
    for fits in wanted:
        found = [each for each in categories if fits(each["name"])]
        if len({each["name"] for each in found}) == 1:
            if found[0]["name"] != category:
                log.warning("%s: category %r is taken for people", path, found[0]["name"])
            return {each["id"] for each in found}
        if found:
            names = " and ".join(repr(each["name"]) for each in found)
            raise AnnotationError(
                f"{path}: the categories {names} could all be people; name one: category=..."
            )
    names = ", ".join(each["name"] for each in categories[:20])
    raise AnnotationError(
        f"{path}: no category is called {category!r}; found {names}; name one: category=..."
    )


def is_of(annotation: Any, categories: set[int] | None) -> bool:
    """Whether an annotation is of these categories, or so broken that it must be looked at."""
    if categories is None or not isinstance(annotation, dict):
        return True
    category = annotation.get("category_id")
    return type(category) is not int or category in categories


def skeleton_of(
    content: dict[str, Any], path: str | Path, categories: set[int] | None
) -> Skeleton | None:
    """The skeleton that the category of people names (`keypoints`, `skeleton`); None: it names
    none."""
    for category in content["categories"]:
        if category.get("keypoints") and (categories is None or category["id"] in categories):
            with located(f"{path}: category {category['name']!r}"):
                return Skeleton.from_category(category)
    return None


def problem_of(annotation: Any, skeleton: Skeleton | None) -> str | None:
    """What is wrong with the annotation, in words for a person, or None."""
    return next(iter(problems_of(annotation, skeleton)), None)


def problems_of(annotation: Any, skeleton: Skeleton | None) -> list[str]:
    """Everything that is wrong with the annotation by itself; each text begins with the quoted
    key. Without `skeleton` any number of joints is fine."""
    if not isinstance(annotation, dict):
        return [f"'annotation' is {shown(annotation)}, expected an object"]
    checks: tuple[Callable[[], Any], ...] = (
        *(lambda key=key: _whole(annotation, key) for key in _IDS if key != "image_id"),
        *(lambda key=key: flag(annotation.get(key), key) for key in _FLAGS),
        lambda: box(annotation.get("bbox"), "bbox"),
        lambda: _number(annotation, "area"),
        lambda: _check_joints(annotation.get("keypoints"), skeleton),
        lambda: check_segment(annotation.get("segmentation")),
        lambda: _check_gender(annotation.get("gender")),
        lambda: _number(annotation, "age"),
        lambda: _check_span(annotation.get("age_range")),
        lambda: _check_valid(annotation.get("valid")),
        lambda: (
            box(annotation["face_box"], "face_box")
            if annotation.get("face_box") is not None and says_valid(annotation, "face")
            else None
        ),
    )
    return [problem for problem in map(_problem, checks) if problem is not None]


def says_valid(annotation: Annotation, name: str, default: int = 1) -> bool:
    """What the UniHuman `valid` object says of a label; a file without it annotates what it
    contains."""
    valid = annotation.get("valid")
    return bool(valid.get(name, default)) if isinstance(valid, dict) else bool(default)


def is_crowd(annotation: Annotation) -> bool:
    """Marked as a region by the file: crowd, `ignore`, or a detector's guess (`pseudo`)."""
    return any(annotation.get(key) for key in _FLAGS)


def short_polygons(annotation: Annotation) -> int:
    """How many polygons of the mask have fewer than three points; they are left out of the mask."""
    polygons = annotation.get("segmentation")
    return sum(len(polygon) < 6 for polygon in polygons) if isinstance(polygons, list) else 0


def _problem(check: Callable[[], Any]) -> str | None:
    try:
        check()
    except AnnotationError as problem:
        return str(problem)
    return None


def _tidy_picture(record: Any, needs: Sequence[str]) -> None:
    mapping(record, "picture", f"an object with 'id', {', '.join(map(repr, needs))}")
    lacking = [key for key in ("id", *needs) if key not in record]
    if lacking:
        raise AnnotationError(f"it lacks {', '.join(map(repr, lacking))}: {shown(record)}")
    record["id"] = integer(record["id"], "id")
    for key in ("height", "width"):
        if key in needs or record.get(key) is not None:
            record[key] = integer(record.get(key), key, low=1, high=1_000_000)
    if "file_name" in needs:
        text(record["file_name"], "file_name")


def _categories(given: Any) -> list[dict[str, Any]]:
    """{"id", "name", ...} each; id None where a single category has none."""
    if given is None:
        return []
    if isinstance(given, dict):
        given = [_named_entry(key, value) for key, value in given.items()]
    categories = []
    for i, entry in enumerate(items(given, "categories")):
        if isinstance(entry, str):
            entry = {"name": entry}
        mapping(entry, f"categories[{i}]", "an object with 'id' and 'name'")
        if entry.get("id") is None and len(given) > 1:
            raise AnnotationError(
                f"'categories[{i}]' {shown(entry)} has no 'id', expected one for each of several "
                "categories"
            )
        number_ = None if entry.get("id") is None else integer(entry["id"], f"categories[{i}].id")
        categories.append({**entry, "id": number_, "name": str(entry.get("name", ""))})
    return categories


def _named_entry(key: str, value: Any) -> Any:
    """One item of categories written as an object: {"1": "person"}, {"person": 1} or
    {"1": {"name": "person"}}."""
    if isinstance(value, dict):
        return {"id": key, **value}
    return {"id": value, "name": key} if isinstance(value, int) else {"id": key, "name": value}


def _tidy(annotation: Annotation, names: dict[str, int]) -> None:
    """Puts what is plainly meant into its usual form, in place; the rest stays for
    `problems_of`."""
    for key in _MAY_BE_NULL:
        if key in annotation and annotation[key] is None:
            del annotation[key]
    if annotation.get("valid") is True:
        del annotation["valid"]
    category = annotation.get("category_id")
    if isinstance(category, str) and not names:  # one category, and without an id
        del annotation["category_id"]
    elif isinstance(category, str) and category in names:
        annotation["category_id"] = names[category]
    for key in (*_IDS, *_FLAGS):
        value = annotation.get(key)
        if isinstance(value, str | float):
            try:
                annotation[key] = integer(value, key)
            except AnnotationError:
                continue
    tidy_segment(annotation)


def tidy_segment(row: dict[str, Any]) -> None:
    """Whole sizes of run-length codes and one flat polygon in their usual form, in place."""
    segment = row.get("segmentation")
    if isinstance(segment, list) and segment and all(map(is_number, segment)):
        row["segmentation"] = [segment]
    if isinstance(segment, dict) and isinstance(segment.get("size"), list):
        sides = segment["size"]
        if any(isinstance(side, float) and side.is_integer() for side in sides):
            segment["size"] = [int(side) if is_number(side) else side for side in sides]


def _whole(annotation: Annotation, key: str) -> None:
    if key in annotation:
        integer(annotation[key], key, low=0 if key == "num_keypoints" else -LARGEST_INTEGER)


def _number(annotation: Annotation, key: str) -> None:
    if annotation.get(key) is not None:
        number(annotation[key], key)


def _check_joints(flat: Any, skeleton: Skeleton | None) -> None:
    if flat is None or flat == []:
        return
    came = f"{len(flat)} numbers" if isinstance(flat, list) else shown(flat)
    if skeleton is not None and (not isinstance(flat, list) or len(flat) != 3 * len(skeleton)):
        raise AnnotationError(
            f"'keypoints' has {came}, expected {3 * len(skeleton)} (x, y, visibility for "
            f"{len(skeleton)} joints of {skeleton.name}); is this file for another skeleton?"
        )
    if not isinstance(flat, list) or len(flat) % 3:
        raise AnnotationError(f"'keypoints' has {came}, expected x, y, visibility for each joint")
    if not all(map(is_number, flat)):
        raise AnnotationError(
            "'keypoints' holds NaN, infinity or no number, expected pixels and visibility 0, 1 or 2"
        )
    wrong = next((v for v in flat[2::3] if v not in (0, 1, 2)), None)
    if wrong is not None:
        raise AnnotationError(f"'keypoints' has the visibility {wrong}, expected 0, 1 or 2")


def check_segment(segment: Any) -> None:
    """What is neither None, polygons nor a run-length code raises AnnotationError."""
    if segment is None:
        return
    if isinstance(segment, dict):
        _check_rle(segment)
        return
    if not isinstance(segment, list):
        raise AnnotationError(f"'segmentation' is {kind_of(segment)}, expected polygons or an RLE")
    for polygon in segment:
        if not isinstance(polygon, list) or len(polygon) % 2:
            raise AnnotationError(
                "'segmentation' holds something that is no polygon [x1, y1, x2, y2, ...]"
            )
        if not all(map(is_number, polygon)):
            raise AnnotationError(
                "'segmentation' holds NaN, infinity or no number, expected pixels"
            )


def _check_rle(segment: dict[str, Any]) -> None:
    size, counts = segment.get("size"), segment.get("counts")
    sound = isinstance(size, list) and len(size) == 2 and all(type(v) is int for v in size)
    coded = isinstance(counts, str) or (
        isinstance(counts, list) and all(type(v) is int and v >= 0 for v in counts)
    )
    if not sound or not coded or min(size) < 0:
        raise AnnotationError(
            f"'segmentation' has the keys {sorted(segment)}: {shown(segment)}, expected an RLE "
            "with size [height, width] and counts"
        )


def _check_gender(gender: Any) -> None:
    if gender is not None and (isinstance(gender, list | dict) or gender not in (-1, 0, 1)):
        raise AnnotationError(
            f"'gender' is {shown(gender)}, expected 0 (male), 1 (female) or no such key"
        )


def _check_span(span: Any) -> None:
    if span is None or span == []:
        return
    sound = isinstance(span, list) and len(span) == 2 and all(map(is_number, span))
    if not sound or span[0] > span[1]:
        raise AnnotationError(f"'age_range' is {shown(span)}, expected [lowest, highest] in years")


def _check_valid(valid: Any) -> None:
    if valid is None:
        return
    for name, value in mapping(valid, "valid", "an object of 0 and 1 per kind of label").items():
        with located("'valid'"):
            flag(value, name)
