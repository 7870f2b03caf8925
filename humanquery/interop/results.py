"""People out of the JSON that this library wrote: the inverse of `Persons.to_json`."""

import math
import os
from pathlib import Path
from typing import Any

import torch

from humanquery.core.boxes import xyxy_to_xywh
from humanquery.core.coco_files import Annotation
from humanquery.core.errors import AnnotationError
from humanquery.core.foreign import integer, items, located, mapping, number, numbers, read_json
from humanquery.core.masks import bitmap_to_rle, rle_to_bitmap
from humanquery.core.persons import Persons
from humanquery.core.skeleton import Skeleton
from humanquery.interop.labels import Labels, checked, flat_joints

SEEN_FROM = 0.2
"""joints of a higher score are taken to be seen, as `draw` does"""


def people_from_json(content: dict[str, Any], skeleton: Skeleton | None = None) -> Persons:
    """The people of what `Persons.to_json` gave, as exact as it was written (px to 0.001).

    `skeleton`: needed for joints of a layout that is not built in. A number that was not finite
    (null) is NaN. Something else than such JSON raises AnnotationError.
    """
    sides = numbers(content.get("image_size"), "image_size", "[height, width]", count=2)
    size = tuple(integer(side, "image_size", low=0) for side in sides)
    rows = [mapping(row, "person") for row in items(content.get("persons"), "persons")]
    fields: dict[str, Any] = {
        "boxes": _table([numbers(r.get("box"), "box", "x1, y1, x2, y2", count=4) for r in rows], 4),
        "scores": _table([number(r.get("score"), "score") for r in rows]),
    }
    joints = content.get("skeleton")
    if joints is not None and rows and "keypoints" in rows[0]:
        skeleton = skeleton or _skeleton(mapping(joints, "skeleton"))
        count = len(skeleton)
        triples = _table([_joints(row, count) for row in rows], 3 * count).reshape(-1, count, 3)
        fields |= {"keypoints": triples[..., :2], "keypoint_scores": triples[..., 2]}
    if rows and "mask" in rows[0]:
        masks = [rle_to_bitmap(mapping(row.get("mask"), "mask")) for row in rows]
        fields["masks"] = torch.stack(masks)
    for name, spec in Persons.specs().items():
        values = [_nested(row, spec.json) for row in rows] if spec.json else []
        if any(value is not None for value in values):
            table = torch.tensor([math.nan if v is None else v for v in values])
            fields[name] = table.long() if spec.column.startswith("int") else table.float()
    return Persons(image_size=size, skeleton=skeleton, **fields)


def _table(values: list, width: int | None = None) -> torch.Tensor:
    table = torch.tensor(values, dtype=torch.float32)
    return table if width is None else table.reshape(-1, width)


def _joints(row: dict[str, Any], count: int) -> list[float]:
    triples = items(row.get("keypoints"), "keypoints")
    if len(triples) != count:
        raise AnnotationError(f"'keypoints' has {len(triples)} joints, expected {count}")
    flat = [v for triple in triples for v in items(triple, "keypoints")]
    return [math.nan if v is None else float(v) for v in flat]


def _skeleton(given: dict[str, Any]) -> Skeleton:
    known = Skeleton.find(str(given.get("name")))
    if known is not None:
        return known
    return Skeleton.from_category({"name": given.get("name"), "keypoints": given.get("joints")})


def _nested(row: dict[str, Any], key: str) -> Any:
    """The value under 'a.b' of {"a": {"b": value}}, None where there is none."""
    value: Any = row
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def annotation_of_person(people: Persons, i: int) -> Annotation:
    """Person i as a COCO annotation with its score: a guess for somebody to correct. Joints that
    score above `SEEN_FROM` are visible, others not labelled."""
    person: Annotation = {
        "bbox": [round(v, 3) for v in xyxy_to_xywh(people.boxes[i]).tolist()],
        "score": round(float(people.scores[i]), 5),
        "iscrowd": 0,
    }
    if people.keypoints is not None:
        scores = people.keypoint_scores
        seen = [True] * len(people.skeleton) if scores is None else (scores[i] > SEEN_FROM).tolist()
        places = zip(people.skeleton.joints, people.keypoints[i].tolist(), seen, strict=True)
        joints = {
            name: (round(x - 0.5, 3), round(y - 0.5, 3), 2) for name, (x, y), ok in places if ok
        }
        person["keypoints"] = flat_joints(people.skeleton, joints)
        person["num_keypoints"] = len(joints)
    if people.masks is not None:
        person["segmentation"] = bitmap_to_rle(people.masks[i])
        person["area"] = int(people.masks[i].sum())
    if people.gender is not None:
        person["gender"] = int(people.gender[i] >= 0.5)
    if people.age is not None:
        person["age"] = round(float(people.age[i]), 1)
    if people.track_ids is not None:
        person["track_id"] = int(people.track_ids[i])
    return person


def read_results(folder: Path) -> Labels:
    """What `humanquery predict` left in a folder, as guesses (annotations with a score) on its
    pictures, which are named from the folder that they share."""
    found = []
    for path in sorted(folder.glob("*.json")):
        if path.name in ("images.json", "coco_results.json"):
            continue
        with located(str(path)):
            content = read_json(path, "a result of humanquery predict")
            if "source" in content and "persons" in content:
                found.append((str(content["source"]), people_from_json(content)))
    if not found:
        raise AnnotationError(
            f"{folder}: no result of humanquery predict in it (NAME.json with 'source' and "
            "'persons')"
        )
    sources = [source for source, _ in found]
    shared = os.path.dirname(sources[0]) if len(found) == 1 else os.path.commonpath(sources)
    images, annotations = [], []
    for number_, (source, people) in enumerate(found, 1):
        name = Path(os.path.relpath(source, shared or ".")).as_posix()
        height, width = people.image_size
        images.append({"id": number_, "file_name": name, "height": height, "width": width})
        for i in range(len(people)):
            person = annotation_of_person(people, i) | {"image_id": number_}
            annotations.append(person | {"id": len(annotations) + 1})
    skeletons = {people.skeleton.name: people.skeleton for _, people in found if people.skeleton}
    if len(skeletons) > 1:
        raise AnnotationError(f"{folder}: results of several skeletons: {', '.join(skeletons)}")
    skeleton = next(iter(skeletons.values()), None)
    return checked(Labels(images, annotations, skeleton, Path(shared or ".")), folder)
