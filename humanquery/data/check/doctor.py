"""The doctor of annotation files: everything wrong or odd with a COCO person file, each finding
with its place."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from humanquery.core.coco_files import (
    is_crowd,
    is_of,
    load_coco,
    person_categories,
    problems_of,
    short_polygons,
    skeleton_of,
)
from humanquery.core.errors import ImageError
from humanquery.core.foreign import is_number, shown
from humanquery.core.skeleton import Skeleton
from humanquery.data.readers.coco import skeletons
from humanquery.media.images import read_image, read_size

Record = dict[str, Any]
Number = float | int
Level = Literal["error", "warning", "note"]

FAR_FROM_BOX = 0.25
"""a joint this share of the longer side outside its box is far from it"""
SWAPPED_SHARE = 0.5
"""fewer than this share of the judged people the right way round: left and right are swapped in
the file"""
MIN_JUDGED = 20
"""people whose face is seen, below which the share says nothing"""
FACING = ("nose", "left_eye", "right_eye", "left_shoulder", "right_shoulder")


@dataclass(frozen=True)
class Finding:
    kind: str
    level: Level
    message: str
    image_id: int | None = None
    annotation_id: int | None = None

    @property
    def where(self) -> str:
        """'annotation 7 of picture 3', 'picture 3' or 'file'."""
        if self.annotation_id is not None:
            return f"annotation {self.annotation_id} of picture {self.image_id}"
        return "file" if self.image_id is None else f"picture {self.image_id}"


@dataclass
class Report:
    """What the doctor saw. `ok`: no finding is an error (warnings and notes do not stop a
    training)."""

    path: Path
    num_pictures: int = 0
    num_people: int = 0
    num_facing: int = 0
    """people whose face is seen and whose shoulders are labelled, by whom left and right can be
    judged"""
    num_right_way: int = 0
    """of these, how many have left and right where they belong"""
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not any(finding.level == "error" for finding in self.findings)

    @property
    def counts(self) -> dict[str, int]:
        """Findings by kind, most first."""
        return dict(Counter(finding.kind for finding in self.findings).most_common())

    @property
    def right_way_share(self) -> float | None:
        """Share of the judged people whose left and right are where they belong; None where
        nobody can be judged."""
        return self.num_right_way / self.num_facing if self.num_facing else None

    def to_json(self) -> dict[str, Any]:
        """Plain data: the numbers above and every finding."""
        numbers = {
            name: getattr(self, name)
            for name in ("num_pictures", "num_people", "num_facing", "num_right_way")
        }
        findings = [asdict(finding) for finding in self.findings]
        return {
            "file": str(self.path),
            "ok": self.ok,
            **numbers,
            "counts": self.counts,
            "findings": findings,
        }


def check(
    annotations: str | Path,
    images: str | Path | None = None,
    *,
    skeleton: str = "",
    read_pictures: bool = False,
) -> Report:
    """Examines a COCO person file (and the dialects that the reader knows), and its pictures
    where a folder is given. `skeleton` as in `CocoSourceConfig`.

    With `images`, every picture must exist and have the size that the file says (headers only);
    `read_pictures` decodes each one whole. A file that is not COCO at all raises
    AnnotationError, an unknown skeleton ConfigError; everything else becomes a finding.
    """
    path = Path(annotations)
    content = load_coco(path, unique=False)
    categories = person_categories(content, path)
    layout, _ = skeletons(skeleton_of(content, path, categories), skeleton, path)
    report = Report(path, num_pictures=len(content["images"]))
    pictures = {record["id"]: record for record in content["images"]}
    report.findings += _repeated(content["images"], "image id", "image_id")
    report.findings += _repeated(content["annotations"], "annotation id", "annotation_id")
    people: dict[int, list[Record]] = defaultdict(list)
    for i, person in enumerate(content["annotations"]):
        if not is_of(person, categories):
            continue
        if not isinstance(person, dict):
            message = f"the annotation at place {i} (from 0) is {shown(person)}, expected an object"
            report.findings.append(Finding("bad annotation", "error", message))
            continue
        report.num_people += not is_crowd(person)
        named = person.get("image_id")
        picture = pictures.get(named) if type(named) is int else None
        if picture is None:
            message = f"'image_id' is {shown(named)}, none of the {len(pictures)} pictures"
            report.findings.append(
                Finding("annotation without picture", "error", message, None, _id(person))
            )
            continue
        people[picture["id"]].append(person)
        report.findings += _examine(person, picture, layout)
        _judge_sides(person, layout, report)
    for picture in content["images"]:
        report.findings += _examine_picture(picture, people[picture["id"]], images, read_pictures)
    report.findings += _swapped_file(report)
    return report


def _repeated(records: Iterable[Any], what: str, key: str) -> Iterator[Finding]:
    values = [record.get("id") for record in records if isinstance(record, dict)]
    for value, count in Counter(v if type(v) is int else shown(v) for v in values).items():
        if count > 1 or value == "null":
            place = {key: value} if isinstance(value, int) else {}
            yield Finding(
                f"repeated {what}", "error", f"{count} entries have the {what} {value}", **place
            )


def _id(person: Record) -> int | None:
    given = person.get("id")
    return given if type(given) is int else None


def _examine(person: Record, picture: Record, skeleton: Skeleton) -> Iterator[Finding]:
    place = {"image_id": picture["id"], "annotation_id": _id(person)}
    problems = problems_of(person, skeleton)
    for problem in problems:
        yield Finding(f"bad {problem.split(chr(39))[1]}", "error", problem, **place)
    broken = {problem.split("'")[1] for problem in problems}
    if broken & {"valid", "age", "age_range"}:
        person = {key: value for key, value in person.items() if key not in broken}
    if "bbox" not in broken:
        yield from (Finding(*found, **place) for found in _box_findings(person["bbox"], picture))
    if person.get("keypoints") and "keypoints" not in broken:
        yield from (
            Finding(*found, **place) for found in _joint_findings(person, picture, skeleton, broken)
        )
    if "segmentation" not in broken and short_polygons(person):
        message = (
            f"'segmentation' has {short_polygons(person)} polygon(s) of fewer than three points; "
            "they hold no pixel"
        )
        yield Finding("short polygon", "warning", message, **place)
    yield from (Finding(*found, **place) for found in _age_findings(person))
    yield from (Finding(*found, **place) for found in _valid_findings(person))


Found = tuple[str, Level, str]


def _box_findings(box: Sequence[Number], picture: Record) -> Iterator[Found]:
    x, y, w, h = box
    if w == 0 or h == 0:
        yield "empty box", "error", f"'bbox' {box} has no area"
    elif x >= picture["width"] or y >= picture["height"] or x + w <= 0 or y + h <= 0:
        yield (
            "box outside",
            "error",
            f"'bbox' {box} lies outside the picture of {picture['width']} x {picture['height']}",
        )
    elif x < -1 or y < -1 or x + w > picture["width"] + 1 or y + h > picture["height"] + 1:
        size = f"{picture['width']} x {picture['height']}"
        yield (
            "box over the edge",
            "warning",
            f"'bbox' {box} (x, y, width, height) reaches out of the picture of {size}",
        )


def _joint_findings(
    person: Record, picture: Record, skeleton: Skeleton, broken: set[str]
) -> Iterator[Found]:
    flat = person["keypoints"]
    joints = list(zip(skeleton.joints, flat[::3], flat[1::3], flat[2::3], strict=True))
    labelled = [joint for joint in joints if joint[3] > 0]
    stated = person.get("num_keypoints")
    # CrowdPose counts the visible joints only
    if stated is not None and stated not in (len(labelled), sum(joint[3] == 2 for joint in joints)):
        yield (
            "wrong joint count",
            "error",
            f"'num_keypoints' is {stated}, but {len(labelled)} joints are labelled",
        )
    for name, x, y, _ in labelled:
        if not (-1 <= x <= picture["width"] and -1 <= y <= picture["height"]):
            size = f"{picture['width']} x {picture['height']}"
            message = f"{name} at ({x}, {y}) lies outside the picture of {size}"
            yield "joint outside", "error", message
        elif "bbox" not in broken and _outside(person["bbox"], x, y) > FAR_FROM_BOX * max(
            person["bbox"][2:]
        ):
            box = person["bbox"]
            message = (
                f"{name} at ({x}, {y}) lies {_outside(box, x, y):.0f} px outside the box {box}"
            )
            yield "joint far from box", "warning", message


def _outside(box: Sequence[Number], x: Number, y: Number) -> Number:
    """px from the point to the xywh box, 0 inside."""
    return math.hypot(
        max(box[0] - x, 0, x - box[0] - box[2]), max(box[1] - y, 0, y - box[1] - box[3])
    )


def _age_findings(person: Record) -> Iterator[Found]:
    span, age = person.get("age_range"), person.get("age")
    ends = span if isinstance(span, list) else []
    for years in (*ends, age):
        if isinstance(years, int | float) and not 0 <= years <= 120:
            yield "impossible age", "error", f"an age of {years} years; expected 0 to 120"
    ordered = (
        len(ends) == 2 and all(isinstance(end, int | float) for end in ends) and ends[0] <= ends[1]
    )
    if ordered and isinstance(age, int | float) and not ends[0] <= age <= ends[1]:
        yield "age outside its range", "warning", f"'age' {age} lies outside 'age_range' {span}"


def _valid_findings(person: Record) -> Iterator[Found]:
    valid = person.get("valid")
    if valid is None:
        return
    flat = person.get("keypoints")
    given = {
        "keypoints_2d": isinstance(flat, list) and any(flat[2::3]),
        "segmentation": bool(person.get("segmentation")),
        "gender": person.get("gender") is not None,
        "age": person.get("age") is not None,
        "face": person.get("face_box") is not None,
    }
    for name, present in given.items():
        if name not in valid or bool(valid[name]) == present:
            continue
        if present:
            yield (
                "label not said valid",
                "warning",
                f"valid.{name} is 0, yet the label is there; it will be left out",
            )
        elif not (name == "age" and person.get("age_range") is not None):
            yield "valid label missing", "error", f"valid.{name} is 1, yet there is no such label"


def _examine_picture(
    picture: Record, people: list[Record], images: str | Path | None, read_pictures: bool
) -> Iterator[Finding]:
    if not people:
        yield Finding(
            "picture without people",
            "note",
            f"{picture['file_name']} has no annotation",
            picture["id"],
        )
    boxes: dict[str, Any] = {}
    for person in people:
        if is_crowd(person) or not isinstance(person.get("bbox"), list):
            continue
        first = boxes.setdefault(shown(person["bbox"]), _id(person))
        if first != _id(person):
            message = f"has exactly the box of annotation {first}"
            yield Finding("same box twice", "warning", message, picture["id"], _id(person))
    if images is None:
        return
    stated = (picture["height"], picture["width"])
    try:
        path = Path(images) / picture["file_name"]
        found = read_image(path).shape[:2] if read_pictures else read_size(path)
    except ImageError as problem:
        yield Finding("unreadable picture", "error", str(problem), picture["id"])
        return
    if tuple(found) != stated:
        message = (
            f"{path} is {found[0]} x {found[1]} (height x width), the file says "
            f"{stated[0]} x {stated[1]}"
        )
        yield Finding("wrong picture size", "error", message, picture["id"])


def _judge_sides(person: Record, skeleton: Skeleton, report: Report) -> None:
    """Adds one person to the test of left and right; someone the wrong way round becomes a
    warning."""
    right_way = _is_right_way(person, skeleton)
    if right_way is None:
        return
    report.num_facing += 1
    report.num_right_way += right_way
    if not right_way:
        message = (
            "left and right of face and shoulders disagree: swapped sides, or a look over the "
            "shoulder"
        )
        report.findings.append(
            Finding("sides swapped?", "warning", message, person["image_id"], _id(person))
        )


def _is_right_way(person: Record, skeleton: Skeleton) -> bool | None:
    """Whether left and right of someone whose face is seen are as they must be, however tilted
    or bowed: seen from the nose, the left eye lies clockwise of the right eye, and the shoulder
    line runs the way of the eye line.

    None: the face is not surely seen, or the person stands sideways.
    """
    at = _facing_joints(person, skeleton)
    if at is None:
        return None
    nose, left_eye, right_eye, left_shoulder, right_shoulder = at
    eyes, shoulders, up = (
        left_eye - right_eye,
        left_shoulder - right_shoulder,
        (left_eye + right_eye) / 2 - nose,
    )
    if abs(eyes) < 2 or abs(up) < 1 or abs(shoulders) < 1.5 * abs(eyes):
        return None
    front = -(eyes.conjugate() * up).imag / abs(
        eyes * up
    )  # sine: positive where the left eye is on the left
    along = (eyes.conjugate() * shoulders).real / abs(
        eyes * shoulders
    )  # cosine between the two lines
    if abs(front) < 0.5 or abs(along) < 0.5:
        return None
    return front > 0 and along > 0


def _facing_joints(person: Record, skeleton: Skeleton) -> list[complex] | None:
    """`FACING` as x + iy where the face is visible and both shoulders are labelled."""
    flat = person.get("keypoints")
    if (
        not set(FACING) <= set(skeleton.joints)
        or not isinstance(flat, list)
        or len(flat) != 3 * len(skeleton)
    ):
        return None
    joints = [flat[3 * skeleton.index(name) : 3 * skeleton.index(name) + 3] for name in FACING]
    if not all(is_number(v) for joint in joints for v in joint):
        return None
    if any(joint[2] != 2 for joint in joints[:3]) or any(joint[2] == 0 for joint in joints[3:]):
        return None
    return [complex(x, y) for x, y, _ in joints]


def _swapped_file(report: Report) -> Iterator[Finding]:
    share = report.right_way_share
    if share is not None and report.num_facing >= MIN_JUDGED and share < SWAPPED_SHARE:
        message = (
            f"of {report.num_facing} people whose face is seen only {report.num_right_way} have "
            f"left and right where "
            "they belong; are left and right joints swapped, or were pictures mirrored without "
            "their joints?"
        )
        yield Finding("flip pairs", "error", message)


def print_report(report: Report, console: Console | None = None) -> None:
    """A table: each kind of finding, how many, and the first of them."""
    console = console or Console()
    console.print(
        f"{report.path}: {report.num_pictures} pictures, {report.num_people} people",
        highlight=False,
    )
    if report.right_way_share is not None:
        console.print(
            f"left and right are where they belong for {report.right_way_share:.1%} of "
            f"{report.num_facing} people",
            highlight=False,
        )
    if report.findings:
        console.print(_table(report))
    errors = sum(finding.level == "error" for finding in report.findings)
    console.print(
        "no errors" if report.ok else f"{errors} errors", style="green" if report.ok else "red"
    )


def _table(report: Report) -> Table:
    table = Table("kind", "level", "count", "first found at", "what")
    order = ("error", "warning", "note")
    first: dict[str, Finding] = {}
    for finding in report.findings:
        first.setdefault(finding.kind, finding)
    for finding in sorted(
        first.values(), key=lambda f: (order.index(f.level), -report.counts[f.kind])
    ):
        count = str(report.counts[finding.kind])
        table.add_row(finding.kind, finding.level, count, finding.where, finding.message)
    return table
