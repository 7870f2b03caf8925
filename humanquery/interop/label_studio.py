"""Label Studio's JSON: tasks with regions in percent of their picture, and the labelling interface
that fits them.

A person is a rectangle; joints, outlines, gender and age belong to it by `parentID` or the region's
own id. A click at the centre of the first pixel is at 0.5, where COCO's joints say 0.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

from humanquery.core.coco_files import Annotation
from humanquery.core.errors import AnnotationError
from humanquery.core.foreign import integer, items, located, mapping, number, read_json, text
from humanquery.core.skeleton import plain_name
from humanquery.interop.labels import (
    Labels,
    apparent,
    box_around,
    checked,
    flat_joints,
    is_person,
    layout_of,
    named_joints,
    person_keys,
    polygons_of,
    ring_area,
)
from humanquery.media.images import read_size

TASKS, INTERFACE = "tasks.json", "interface.xml"
LOCAL_FILES = "/data/local-files/?d="
"""what Label Studio serves pictures of its own machine under"""
HIDDEN = "hidden"
_TOOL = "humanquery"


def write_label_studio(labels: Labels, folder: Path, prefix: str = LOCAL_FILES) -> Counter[str]:
    """Writes `tasks.json` (to import) and `interface.xml` (to paste as the labelling interface),
    and gives what could not be held. `prefix` stands before each picture's name.

    People with a score become predictions (pre-annotations), others annotations.
    """
    lost: Counter[str] = Counter()
    tasks = []
    for record, people in labels.persons(lost):
        size = record["height"], record["width"]
        result = [r for i, p in enumerate(people) for r in _regions(p, f"p{i}", size, labels, lost)]
        task = {"id": record["id"], "data": {"image": prefix + quote(record["file_name"])}}
        scores = [p["score"] for p in people if p.get("score") is not None]
        if scores:
            prediction = {"model_version": _TOOL, "score": min(scores), "result": result}
            tasks.append({**task, "predictions": [prediction]})
        else:
            tasks.append({**task, "annotations": [{"result": result}]})
    (folder / TASKS).write_text(json.dumps(tasks, indent=1))
    (folder / INTERFACE).write_text(interface(labels))
    return lost


def interface(labels: Labels) -> str:
    """Label Studio's labelling interface (XML) for people with these joints."""
    joints = labels.skeleton.joints if labels.skeleton is not None else ()
    label = lambda name: f"    <Label value={quoteattr(name)}/>"  # noqa: E731
    lines = ["<View>", '  <Image name="image" value="$image"/>']
    lines += ['  <RectangleLabels name="person" toName="image">', label("person")]
    lines += ["  </RectangleLabels>", '  <PolygonLabels name="mask" toName="image">']
    lines += [label("person"), "  </PolygonLabels>"]
    if joints:
        lines += ['  <KeyPointLabels name="joints" toName="image">', *map(label, joints)]
        lines += ["  </KeyPointLabels>"]
    lines += ['  <Choices name="gender" toName="image" perRegion="true">']
    lines += [f'    <Choice value="{word}"/>' for word in ("female", "male")]
    lines += ["  </Choices>"]
    for name in ("age", "track_id"):
        lines.append(f'  <Number name="{name}" toName="image" perRegion="true"/>')
    return "\n".join([*lines, "</View>", ""])


def _regions(
    person: Annotation, key: str, size: tuple[int, int], labels: Labels, lost: Counter[str]
) -> list[dict[str, Any]]:
    height, width = size
    lost["face_box"] += person.get("face_box") is not None
    base = {"to_name": "image", "original_width": width, "original_height": height}
    base |= {"image_rotation": 0}
    x, y, w, h = person["bbox"]
    place = {"x": 100 * x / width, "y": 100 * y / height, "width": 100 * w / width}
    place |= {"height": 100 * h / height, "rotation": 0}
    box = {**base, "id": key, "from_name": "person", "type": "rectanglelabels"}
    box |= {"value": {**place, "rectanglelabels": ["person"]}}
    if person.get("score") is not None:
        box["score"] = person["score"]
    regions = [box]
    for name, value in apparent(person).items():
        kind, answer = ("choices", [value]) if name == "gender" else ("number", value)
        one = {**base, "id": key, "from_name": name, "type": kind}
        regions.append(one | {"value": {**place, kind: answer}})
    for i, polygon in enumerate(polygons_of(person, lost)):
        points = [
            [100 * polygon[j] / width, 100 * polygon[j + 1] / height]
            for j in range(0, len(polygon), 2)
        ]
        one = {**base, "id": f"{key}m{i}", "parentID": key, "from_name": "mask"}
        value = {"points": points, "closed": True, "polygonlabels": ["person"]}
        regions.append(one | {"type": "polygonlabels", "value": value})
    for name, (x, y, seen) in named_joints(person, labels.skeleton).items():
        one = {**base, "id": f"{key}{name}", "parentID": key, "from_name": "joints"}
        value = {"x": 100 * (x + 0.5) / width, "y": 100 * (y + 0.5) / height, "width": 0.5}
        one |= {"type": "keypointlabels", "value": {**value, "keypointlabels": [name]}}
        regions.append(one | ({} if seen == 2 else {"meta": {"text": [HIDDEN]}}))
    return regions


def read_label_studio(path: Path, pictures: Path | None = None) -> Labels:
    """The people of a JSON export of Label Studio (or of the folder that `write_label_studio`
    wrote): of each task's first annotation that was not cancelled, else of its first prediction.

    Joints and outlines belong to the rectangle that `parentID` names. Without one a joint goes to
    the smallest rectangle around it that lacks this joint, and an outline is a person of its own.
    Brush strokes and other labels are counted as lost. A picture without any region tells no size:
    it is read from `pictures`, or raises AnnotationError.
    """
    file = path / TASKS if path.is_dir() else path
    tasks = read_json(file, "a JSON export of Label Studio, a list of tasks", list)
    lost: Counter[str] = Counter()
    images, found = [], []
    for i, task in enumerate(tasks):
        with located(f"{file}: task {i} (from 0)"):
            name = _picture_name(mapping(task, "task"), pictures)
            regions, guessed = _chosen_answer(task)
            size = _size(regions, name, pictures)
            images.append({"id": len(images) + 1, "file_name": name, **size})
            people = _people(regions, size, lost)
            for person in people:
                if guessed:
                    person.setdefault("score", 1.0)
                found.append(person | {"image_id": images[-1]["id"], "iscrowd": 0})
    skeleton = layout_of([name for person in found for name in person["joints"]])
    for number_, person in enumerate(found, 1):
        joints = person.pop("joints")
        person["id"] = number_
        if joints:
            person["keypoints"] = flat_joints(skeleton, joints)
            person["num_keypoints"] = len(joints)
    return checked(Labels(images, found, skeleton, pictures, lost), file)


def _picture_name(task: dict[str, Any], pictures: Path | None) -> str:
    data = mapping(task.get("data"), "data")
    given = [v for v in data.values() if isinstance(v, str)]
    address = text(data.get("image", given[0] if len(given) == 1 else None), "data.image")
    parts = urlsplit(address)
    local = parse_qs(parts.query).get("d")
    name = local[0] if local else Path(unquote(parts.path)).name
    # an uploaded picture gets eight hexadecimal digits in front
    bare = re.sub(r"^[0-9a-f]{8}-", "", name)
    if pictures is not None and bare != name and not (pictures / name).exists():
        return bare
    return name


def _chosen_answer(task: dict[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """The regions of a task, and whether a model guessed them."""
    for key in ("annotations", "predictions"):
        for one in items(task.get(key) or [], key):
            if not mapping(one, key).get("was_cancelled"):
                regions = items(one.get("result") or [], "result")
                return [mapping(region, "region") for region in regions], key == "predictions"
    return [], False


def _size(regions: list, name: str, pictures: Path | None) -> dict[str, int]:
    for region in regions:
        if region.get("original_width") and region.get("original_height"):
            return {
                "height": integer(region["original_height"], "original_height", low=1),
                "width": integer(region["original_width"], "original_width", low=1),
            }
    if pictures is None:
        raise AnnotationError(
            f"{name}: no region says how large the picture is; give the folder of the pictures "
            "(--images)"
        )
    height, width = read_size(pictures / name)
    return {"height": height, "width": width}


def _people(regions: list, size: dict[str, int], lost: Counter[str]) -> list[Annotation]:
    people: dict[str, Annotation] = {}
    names = {label for r in regions if r.get("type") == "rectanglelabels" for label in _label(r)}
    for region in regions:
        if region.get("type") == "rectanglelabels":
            if not all(is_person(label, names) for label in _label(region)):
                lost["rectangles of other labels"] += 1
                continue
            people[str(region.get("id"))] = _rectangle(region, size)
    for region in regions:
        kind = region.get("type")
        if kind == "polygonlabels":
            _add_outline(region, people, size)
        elif kind == "keypointlabels":
            _add_joint(region, people, size, lost)
        elif kind in ("choices", "number") and str(region.get("id")) in people:
            value = mapping(region.get("value"), "value").get(kind)
            value = value[0] if isinstance(value, list) and value else value
            people[str(region["id"])] |= person_keys({str(region.get("from_name")): value})
        elif kind != "rectanglelabels":
            lost[f"regions of kind {kind}"] += 1
    return list(people.values())


def _label(region: dict[str, Any]) -> list[str]:
    labels = mapping(region.get("value"), "value").get(region["type"])
    return [text(label, "label") for label in items(labels or [], region["type"])]


def _rectangle(region: dict[str, Any], size: dict[str, int]) -> Annotation:
    value = mapping(region.get("value"), "value")
    if value.get("rotation"):
        raise AnnotationError(
            f"region {region.get('id')}: turned by {value['rotation']} degrees, expected an "
            "upright rectangle; boxes of people have no angle"
        )
    x, y, w, h = (number(value.get(key), key) / 100 for key in ("x", "y", "width", "height"))
    width, height = size["width"], size["height"]
    person: Annotation = {"bbox": [x * width, y * height, w * width, h * height], "joints": {}}
    return person | ({"score": region["score"]} if region.get("score") is not None else {})


def _add_outline(region: dict[str, Any], people: dict, size: dict[str, int]) -> None:
    points = items(mapping(region.get("value"), "value").get("points"), "points")
    sides = size["width"], size["height"]
    ring = [
        number(v, "points") * side / 100
        for point in points
        for v, side in zip(items(point, "points"), sides, strict=True)
    ]
    parent = str(region.get("parentID"))
    if parent not in people:
        parent = str(region.get("id"))
        people[parent] = {"bbox": box_around(ring), "joints": {}}
    person = people[parent]
    person["segmentation"] = [*person.get("segmentation", []), ring]
    person["area"] = person.get("area", 0) + ring_area(ring)


def _add_joint(
    region: dict[str, Any], people: dict, size: dict[str, int], lost: Counter[str]
) -> None:
    value = mapping(region.get("value"), "value")
    x = number(value.get("x"), "x") * size["width"] / 100
    y = number(value.get("y"), "y") * size["height"] / 100
    hidden = HIDDEN in mapping(region.get("meta") or {}, "meta").get("text", [])
    for joint in map(plain_name, _label(region)):
        person = people.get(str(region.get("parentID"))) or _around(people, x, y, joint)
        if person is None:
            lost["joints outside of every rectangle"] += 1
            continue
        person["joints"][joint] = (x - 0.5, y - 0.5, 1 if hidden else 2)


def _around(people: dict, x: float, y: float, joint: str) -> Annotation | None:
    fits = [
        person
        for person in people.values()
        if joint not in person["joints"]
        and 0 <= x - person["bbox"][0] <= person["bbox"][2]
        and 0 <= y - person["bbox"][1] <= person["bbox"][3]
    ]
    return min(fits, key=lambda person: person["bbox"][2] * person["bbox"][3], default=None)
