"""CVAT's XML 1.1 "for images": boxes, masks, polygons and skeletons of people.

Shapes of one person have one `group_id`. CVAT measures from the picture's edge as we do; COCO's
joints count pixels, half a pixel less.
"""

from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from humanquery.core.coco_files import Annotation
from humanquery.core.errors import AnnotationError
from humanquery.core.foreign import integer, located, read_text, text
from humanquery.core.masks import bitmap_to_rle
from humanquery.core.skeleton import plain_name
from humanquery.interop.labels import (
    Labels,
    apparent,
    bitmap_of,
    box_around,
    box_of_mask,
    checked,
    flat_joints,
    is_person,
    layout_of,
    named_joints,
    person_keys,
    ring_area,
    torch_mask,
)

PERSON, POSE = "person", "person_pose"
"""labels of shapes and of skeletons: in CVAT a label is one or the other"""
Element = ElementTree.Element


def write_cvat(labels: Labels, path: Path) -> Counter[str]:
    """Writes the XML and gives what could not be held. The task that it is uploaded to needs the
    label `person` (any shape; attributes gender, age, track_id) and the skeleton `person_pose`."""
    lost: Counter[str] = Counter()
    root = ElementTree.Element("annotations")
    _child(root, "version").text = "1.1"
    for i, (record, people) in enumerate(labels.persons(lost)):
        size = {"width": str(record["width"]), "height": str(record["height"])}
        image = _child(root, "image", id=str(i), name=record["file_name"], **size)
        for group, person in enumerate(people, 1):
            lost["face_box"] += person.get("face_box") is not None
            _write_person(image, person, str(group), record, labels)
    ElementTree.indent(root)
    path.write_bytes(ElementTree.tostring(root, "utf-8", xml_declaration=True))
    return lost


def _child(parent: Element, tag: str, **attributes: str) -> Element:
    return ElementTree.SubElement(parent, tag, attributes)


def _write_person(
    image: Element, person: Annotation, group: str, record: dict[str, Any], labels: Labels
) -> None:
    attributes = apparent(person)
    base = {"label": PERSON, "source": "manual", "occluded": "0", "z_order": "0"}
    if person.get("score") is not None:
        base["source"], attributes["score"] = "auto", person["score"]
    base["group_id"] = group
    x, y, w, h = person["bbox"]
    corners = {"xtl": _px(x), "ytl": _px(y), "xbr": _px(x + w), "ybr": _px(y + h)}
    box = _child(image, "box", **base, **corners)
    for name, value in attributes.items():
        _child(box, "attribute", name=name).text = str(value)
    segment = person.get("segmentation")
    if isinstance(segment, dict):
        _write_mask(image, person, base, (record["height"], record["width"]))
    for polygon in segment if isinstance(segment, list) else []:
        pairs = zip(polygon[::2], polygon[1::2], strict=True)
        points = ";".join(f"{_px(x)},{_px(y)}" for x, y in pairs)
        _child(image, "polygon", **base, points=points)
    joints = named_joints(person, labels.skeleton)
    if joints:
        pose = {name: value for name, value in base.items() if name != "occluded"}
        skeleton = _child(image, "skeleton", **{**pose, "label": POSE})
        for name in labels.skeleton.joints:
            x, y, seen = joints.get(name, (0, 0, 0))
            state = {"occluded": str(int(seen == 1)), "outside": str(int(seen == 0))}
            place = f"{_px(x + 0.5)},{_px(y + 0.5)}"
            _child(skeleton, "points", label=name, **state, points=place)


def _write_mask(
    image: Element, person: Annotation, base: dict[str, str], size: tuple[int, int]
) -> None:
    mask = bitmap_of(person, size)
    x, y, w, h = map(int, box_of_mask(mask))
    if not w or not h:
        return
    flat = mask[y : y + h, x : x + w].reshape(-1).numpy()
    bounds = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *bounds, flat.size]).tolist()
    counts = runs if not flat[0] else [0, *runs]  # the first run is of zeros
    place = {"left": str(x), "top": str(y), "width": str(w), "height": str(h)}
    _child(image, "mask", **base, rle=", ".join(map(str, counts)), **place)


def _px(value: float | int) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")


def read_cvat(path: Path, pictures: Path | None = None) -> Labels:
    """The people of a CVAT XML "for images". Shapes with one `group_id` are one person; one
    without a group is a person of its own. Other labels and kinds of shapes are counted as lost.

    A file that is no such XML, or holds tracks ("for video"), raises AnnotationError.
    """
    root = _root(path)
    if root.find("track") is not None:
        raise AnnotationError(
            f"{path}: has tracks (CVAT for video); export the task as 'CVAT for images 1.1'"
        )
    lost: Counter[str] = Counter()
    images, found = [], []
    names = {shape.get("label", "") for shape in root.iterfind("image/*")} - {POSE}
    for image in root.iterfind("image"):
        with located(f"{path}: picture {image.get('name')!r}"):
            record = {"id": len(images) + 1, "file_name": text(image.get("name"), "name")}
            record |= {key: integer(image.get(key), key, low=1) for key in ("height", "width")}
            images.append(record)
            for person in _people(image, record, names, lost):
                found.append(person | {"image_id": record["id"], "iscrowd": 0})
    skeleton = layout_of([name for person in found for name in person["joints"]])
    for i, person in enumerate(found, 1):
        joints = {n: joint for n, joint in person.pop("joints").items() if joint[2]}
        person["id"] = i
        if skeleton is not None and joints:
            person["keypoints"] = flat_joints(skeleton, joints)
            person["num_keypoints"] = len(joints)
    return checked(Labels(images, found, skeleton, pictures, lost), path)


def _root(path: Path) -> Element:
    content = read_text(path, "a CVAT XML 1.1 for images")
    if "<!ENTITY" in content or "<!DOCTYPE" in content:
        # CVAT writes neither, and entities can blow a small file up to gigabytes
        raise AnnotationError(f"{path}: declares XML entities, which CVAT never does; not read")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as problem:
        raise AnnotationError(
            f"{path}: not XML ({problem}); expected a CVAT XML 1.1 for images"
        ) from problem
    if root.tag != "annotations":
        raise AnnotationError(
            f"{path}: begins with <{root.tag}>, expected <annotations> of CVAT XML 1.1"
        )
    return root


def _people(
    image: Element, record: dict[str, Any], names: set[str], lost: Counter[str]
) -> list[Annotation]:
    people: dict[Any, Annotation] = {}
    for number, shape in enumerate(image):
        label = shape.get("label", "")
        if shape.tag not in _READERS:
            lost[f"shapes of kind {shape.tag}"] += 1
            continue
        if shape.tag != "skeleton" and not is_person(label, names):
            lost["shapes of other labels"] += 1
            continue
        group = shape.get("group_id") or "0"
        key = ("alone", number) if group == "0" else group
        person = people.setdefault(key, {"joints": {}})
        with located(f"<{shape.tag}> {number} (from 0)"):
            _READERS[shape.tag](shape, person, record)
            attributes = {a.get("name", ""): a.text for a in shape.iterfind("attribute")}
            person |= person_keys(attributes)
            if attributes.get("score"):
                person["score"] = float(attributes["score"])
            people[key] = person
    return [_with_box(person, record) for person in people.values()]


def _read_box(shape: Element, person: Annotation, record: dict[str, Any]) -> None:
    x1, y1, x2, y2 = (_float(shape.get(key), key) for key in ("xtl", "ytl", "xbr", "ybr"))
    person["bbox"] = [x1, y1, x2 - x1, y2 - y1]


def _read_polygon(shape: Element, person: Annotation, record: dict[str, Any]) -> None:
    ring = [v for point in _points(shape) for v in point]
    if isinstance(person.setdefault("segmentation", []), dict):
        raise AnnotationError("this person has a mask and a polygon; expected one of the two")
    person["segmentation"].append(ring)
    person["area"] = person.get("area", 0) + ring_area(ring)


def _read_mask(shape: Element, person: Annotation, record: dict[str, Any]) -> None:
    left, top, width, height = (
        integer(shape.get(key), key, low=0) for key in ("left", "top", "width", "height")
    )
    counts = [integer(v.strip(), "rle", low=0) for v in (shape.get("rle") or "").split(",")]
    size = record["height"], record["width"]
    fits = left + width <= size[1] and top + height <= size[0]
    if not fits or sum(counts) != width * height:
        raise AnnotationError(
            f"'rle' counts {sum(counts)} pixels for a part of {width} x {height} at {left}, {top} "
            f"of a picture of {size[1]} x {size[0]}; expected as many as the part has, inside"
        )
    if "segmentation" in person:
        raise AnnotationError("this person has two masks; expected one for each group_id")
    mask = np.zeros(size, bool)
    part = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
    mask[top : top + height, left : left + width] = part
    person["segmentation"] = bitmap_to_rle(torch_mask(mask))
    person["area"] = int(mask.sum())


def _read_skeleton(shape: Element, person: Annotation, record: dict[str, Any]) -> None:
    for joint in shape.iterfind("points"):
        (x, y), *_ = _points(joint)
        seen = 0 if joint.get("outside") == "1" else 1 if joint.get("occluded") == "1" else 2
        name = plain_name(text(joint.get("label"), "label"))
        person["joints"][name] = (x - 0.5, y - 0.5, seen)


_READERS = {
    "box": _read_box,
    "polygon": _read_polygon,
    "mask": _read_mask,
    "skeleton": _read_skeleton,
}


def _with_box(person: Annotation, record: dict[str, Any]) -> Annotation:
    """A person without a rectangle gets the one around its mask or joints."""
    if "bbox" in person:
        return person
    segment = person.get("segmentation")
    if isinstance(segment, dict):
        mask = bitmap_of(person, (record["height"], record["width"]))
        return person | {"bbox": box_of_mask(mask)}
    if segment:
        return person | {"bbox": box_around([v for ring in segment for v in ring])}
    placed = [joint[:2] for joint in person["joints"].values() if joint[2]]
    if not placed:
        raise AnnotationError("a skeleton of which no joint is placed, expected at least one")
    return person | {"bbox": box_around(placed)}


def _points(shape: Element) -> list[tuple[float, float]]:
    pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";")]
    if any(len(pair) != 2 for pair in pairs):
        raise AnnotationError(f"'points' is {shape.get('points')!r}, expected x,y;x,y ...")
    return [(_float(x, "points"), _float(y, "points")) for x, y in pairs]


def _float(value: str | None, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as problem:
        raise AnnotationError(f"'{name}' is {value!r}, expected a number") from problem
