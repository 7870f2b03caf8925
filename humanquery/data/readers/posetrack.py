"""PoseTrack18 and PoseTrack21 JSON (truth and results), and the `poses.json` layout of one clip.

PoseTrack's joints and ignore regions are pixel indices: readers here add 0.5, the writer subtracts
it.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from humanquery.core.affine import Size
from humanquery.core.boxes import BODY_SHARE, areas, xywh_to_xyxy, xyxy_to_xywh
from humanquery.core.coco_files import load_coco
from humanquery.core.errors import AnnotationError
from humanquery.core.foreign import (
    Number,
    integer,
    is_number,
    items,
    located,
    numbers,
    read_json,
    shown,
    text,
)
from humanquery.core.persons import Persons
from humanquery.core.rows import Labelled
from humanquery.core.skeleton import Skeleton
from humanquery.core.target import Target
from humanquery.media.images import read_size

MOST_FRAMES = 10_000_000
"""of a clip; a larger count is damage, not film"""
POSETRACK = Skeleton.named("posetrack18_17")
_MARGIN = 0.15
"""a person without box gets the extent of the joints, so much wider on every side (as in
PoseTrack's own conversion)"""
_CLIP_NAMES = {"neck": "head_bottom"}


@dataclass(frozen=True, eq=False)
class PoseFrame:
    """One frame: people with joints of `posetrack18_17` and track ids (-1 where the file gives
    none)."""

    target: Target
    """visibility: 0 not labelled, 1 labelled but flagged invisible, 2 visible"""
    head_boxes: Labelled
    """value n 4 xyxy px"""
    ignore_regions: tuple[Float[Tensor, "_p 2"], ...] = ()
    """polygons, px"""
    scores: Float[Tensor, " n"] | None = None
    """results only"""
    joint_scores: Float[Tensor, "n k"] | None = None
    """results only; NaN where a person has none"""
    file_name: str = ""
    image_id: int | None = None

    def persons(self) -> Persons:
        """As people found, best score first (1 where the file has none); joints that are not
        labelled are NaN."""
        n, target = len(self.target), self.target
        scores = torch.ones(n) if self.scores is None else self.scores
        people = Persons(
            image_size=target.image_size,
            boxes=target.boxes,
            scores=scores,
            keypoints=torch.where(
                target.counted_joints[..., None], target.keypoints.value, math.nan
            ),
            keypoint_scores=self.joint_scores,
            track_ids=target.track_ids,
            skeleton=target.skeleton,
        )
        return people[scores.argsort(descending=True, stable=True)]


def read_posetrack(
    path: str | Path, *, image_size: Size | None = None, images: str | Path | None = None
) -> list[PoseFrame]:
    """The frames of a PoseTrack18 or PoseTrack21 sequence, in the order of its `images`.

    Keypoints are read by the joint names of `categories` (else as `posetrack18_17`); a joint of
    three zeros is not labelled. `scores` (per joint) and `score` are read where they stand, so this
    reads results too. PoseTrack18 gives no picture sizes: they come from `width` and `height`, else
    `image_size` (height, width), else the pictures under `images`. What is not PoseTrack JSON
    raises AnnotationError naming file and annotation.
    """
    path = Path(path)
    content = load_coco(path, needs=(), expected="PoseTrack18 or PoseTrack21 JSON")
    joints = _joint_names(content, path)
    by_image: dict[int, list[dict[str, Any]]] = {record["id"]: [] for record in content["images"]}
    for i, row in enumerate(content["annotations"]):
        named = row.get("image_id") if isinstance(row, dict) else None
        if type(named) is not int or named not in by_image:
            raise AnnotationError(
                f"{path}: annotation {i} belongs to picture {shown(named)}, which 'images' does "
                "not list; is it for another sequence?"
            )
        by_image[named].append(row)
    return [
        _read_frame(
            record, by_image[record["id"]], joints, _size(record, image_size, images, path), path
        )
        for record in content["images"]
    ]


def write_posetrack(
    path: str | Path, frames: Iterable[PoseFrame | Persons], *, names: Iterable[str] = ()
) -> int:
    """Writes truth (`PoseFrame`) or results (`Persons` with keypoints and track ids) as PoseTrack18
    JSON, px to 1e-3.

    Gives the number of annotations. Pictures are called by `names` (one per frame), else as the
    frame says, else by number, and carry their size. Joints of other skeletons go by name. People
    without keypoints or ids raise AnnotationError.
    """
    path = Path(path)
    pictures: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    given = list(names)
    for number, frame in enumerate(frames, 1):
        truth = isinstance(frame, PoseFrame)
        people = frame.target if truth else frame
        picture = _picture_record(frame, number, given)
        pictures.append(picture)
        if len(people):
            _check_writable(people, f"{path}, frame {number}")
            for i in range(len(people)):
                row = _true_row(frame, i) if truth else _found_row(frame, i)
                annotations.append(
                    {
                        "id": picture["id"] * 100 + i,
                        "image_id": picture["id"],
                        "category_id": 1,
                        **row,
                    }
                )
    if given and len(given) != len(pictures):
        raise AnnotationError(
            f"{path}: {len(given)} names for {len(pictures)} frames; give one name per frame"
        )
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(POSETRACK.joints),
    }
    category["skeleton"] = [[a + 1, b + 1] for a, b in POSETRACK.limbs]  # COCO counts joints from 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"images": pictures, "annotations": annotations, "categories": [category]})
    )
    return len(annotations)


def read_pose_clip(path: str | Path) -> list[PoseFrame]:
    """The frames of a clip in the layout of `poses.json`: `video`, `frames`, `size` [height, width]
    and `persons`, each with `frame` (from 1), `track_id`, `joints` {name: [x, y, visible]} and
    `head_box` xyxy; px are counted from 1.

    Frame numbers outside 1 to `frames`, and an id that comes twice in a frame, raise
    AnnotationError.
    """
    path = Path(path)
    expected = "an object with 'frames', 'size' [height, width] and 'persons'"
    content = read_json(path, expected)
    try:
        frames = integer(content.get("frames"), "frames", low=0, high=MOST_FRAMES)
        height, width = numbers(content.get("size"), "size", "[height, width]", count=2)
        size = integer(height, "size", low=1), integer(width, "size", low=1)
        people = items(content.get("persons"), "persons")
    except AnnotationError as problem:
        raise AnnotationError(f"{path}: {problem}; expected {expected}") from problem
    rows: list[list[dict[str, Any]]] = [[] for _ in range(frames)]
    for i, person in enumerate(people):
        where = f"{path}: person {i}"
        number = person.get("frame") if isinstance(person, dict) else None
        if type(number) is not int or not 1 <= number <= frames:
            raise AnnotationError(
                f"{where}: frame {shown(number)}, expected 1 to {frames}; frames are counted from 1"
            )
        rows[number - 1].append(_clip_row(person, where))
    return [
        _frame(
            people,
            size,
            (),
            f"{number:05d}.jpg",
            number,
            f"{path}, frame {number}",
        )
        for number, people in enumerate(rows, 1)
    ]


def _joint_names(content: dict[str, Any], path: Path) -> list[str]:
    categories = content["categories"] or [{}]
    if categories[0].get("keypoints") is None:
        return list(POSETRACK.joints)
    with located(f"{path}: categories"):
        given = items(categories[0]["keypoints"], "keypoints", "joint names")
        names = [_CLIP_NAMES.get(text(name, "keypoints"), name) for name in given]
    if not set(names) & set(POSETRACK.joints):
        raise AnnotationError(
            f"{path}: none of the joints {names[:5]} is one of PoseTrack; is this file for other "
            f"joints?"
        )
    return names


def _size(
    record: dict[str, Any], image_size: Size | None, images: str | Path | None, path: Path
) -> Size:
    if record.get("height") is not None and record.get("width") is not None:
        return record["height"], record["width"]
    if image_size is not None:
        return image_size
    if images is not None:
        return read_size(Path(images) / str(record.get("file_name")))
    raise AnnotationError(
        f"{path}: picture {record['id']} has no width and height; pass image_size=(height, width) "
        f"or images=FOLDER"
    )


def _read_frame(
    record: dict[str, Any], rows: list[dict[str, Any]], joints: list[str], size: Size, path: Path
) -> PoseFrame:
    people = []
    for row in rows:
        where = f"{path}: annotation {row.get('id')}"
        flat = _numbers(
            row.get("keypoints"),
            3 * len(joints),
            f"{where}: 'keypoints'",
            "x, y, visible per joint",
        )
        person: dict[str, Any] = {"track_id": row.get("track_id", -1), "joints": {}}
        for i, name in enumerate(joints):
            x, y, seen = flat[3 * i : 3 * i + 3]
            if (x, y, seen) != (0, 0, 0):
                person["joints"][name] = (x + 0.5, y + 0.5, 2 if seen > 0 else 1)
        with located(where):
            identity = person["track_id"]
            person["track_id"] = -1 if identity is None else integer(identity, "track_id")
        if row.get("scores"):
            scores = _numbers(row["scores"], len(joints), f"{where}: 'scores'", "one per joint")
            person["joint_scores"] = dict(zip(joints, scores, strict=True))
        if row.get("score") is not None:
            person["score"] = _numbers([row["score"]], 1, f"{where}: 'score'", "a number")[0]
        for key, name in (("bbox", "box"), ("bbox_head", "head_box")):
            if row.get(key):
                xywh = _numbers(row[key], 4, f"{where}: {key!r}", "x, y, width, height")
                person[name] = xywh_to_xyxy(torch.tensor(xywh)).tolist()
        people.append(person)
    regions = _regions(record, path)
    return _frame(
        people,
        size,
        regions,
        str(record.get("file_name", "")),
        record["id"],
        f"{path}, picture {record['id']}",
    )


def _regions(record: dict[str, Any], path: Path) -> tuple[Tensor, ...]:
    with located(f"{path}: picture {record['id']}"):
        xs, ys = (_region_sides(record, f"ignore_regions_{axis}") for axis in "xy")
    regions = []
    for x, y in zip(xs, ys, strict=False):
        if len(x) != len(y):
            break
        if len(x) >= 3:  # PoseTrack18 has regions of no and of one point
            regions.append(torch.tensor([x, y], dtype=torch.float64).T + 0.5)
    else:
        if len(xs) == len(ys):
            return tuple(regions)
    raise AnnotationError(
        f"{path}: picture {record['id']}: 'ignore_regions_x' and 'ignore_regions_y' have different "
        f"lengths; "
        "expected the same points in both"
    )


def _region_sides(record: dict[str, Any], key: str) -> list[list[Number]]:
    sides = items(record.get(key) or [], key)
    if sides and not isinstance(sides[0], list):  # one region, not in a list of its own
        sides = [sides]
    return [numbers(side, key, "pixels") for side in sides]


def _clip_row(person: dict[str, Any], where: str) -> dict[str, Any]:
    joints = person.get("joints")
    if not isinstance(joints, dict):
        raise AnnotationError(f"{where}: no 'joints'; expected {{name: [x, y, visible]}}")
    with located(where):
        identity = person.get("track_id")
        identity = -1 if identity is None else integer(identity, "track_id")
    row: dict[str, Any] = {"track_id": identity, "joints": {}}
    for name, triple in joints.items():
        x, y, seen = _numbers(triple, 3, f"{where}: joint {name!r}", "x, y, visible")
        known = _CLIP_NAMES.get(name, name)
        POSETRACK.index(known)  # an unknown joint raises
        row["joints"][known] = (x - 0.5, y - 0.5, 2 if seen > 0 else 1)
    if person.get("head_box"):
        head = _numbers(person["head_box"], 4, f"{where}: 'head_box'", "two corners")
        row["head_box"] = [v - 0.5 for v in head]
    return row


def _numbers(values: Any, count: int, where: str, what: str) -> list[float]:
    if not isinstance(values, list) or len(values) != count:
        came = f"has {len(values)} numbers" if isinstance(values, list) else f"is {shown(values)}"
        raise AnnotationError(f"{where} {came}, expected {count} ({what})")
    if not all(map(is_number, values)):
        raise AnnotationError(
            f"{where} holds something else than finite numbers, expected {count} ({what})"
        )
    return [float(v) for v in values]


def _frame(
    people: list[dict[str, Any]],
    size: Size,
    regions: tuple[Tensor, ...],
    file_name: str,
    image_id: int,
    where: str,
) -> PoseFrame:
    n, k = len(people), len(POSETRACK)
    ids = [person["track_id"] for person in people]
    for identity in ids:
        if identity >= 0 and ids.count(identity) > 1:
            raise AnnotationError(
                f"{where}: track_id {identity} comes twice; give each person of a frame its own id"
            )
    values, visibility = torch.zeros(n, k, 2), torch.zeros(n, k, dtype=torch.long)
    joint_scores = torch.full((n, k), math.nan)
    for i, person in enumerate(people):
        for name, (x, y, seen) in person["joints"].items():
            if name in POSETRACK.joints:
                at = POSETRACK.index(name)
                values[i, at], visibility[i, at] = torch.tensor([x, y]), seen
        for name, score in person.get("joint_scores", {}).items():
            if name in POSETRACK.joints:
                joint_scores[i, POSETRACK.index(name)] = score
    heads = [person.get("head_box") for person in people]
    boxes = torch.tensor(
        [person.get("box") or _box_around(person, size) for person in people]
    ).reshape(-1, 4)
    target = Target(
        image_size=size,
        boxes=boxes,
        ignore=torch.zeros(n, dtype=torch.bool),
        areas=areas(boxes) * BODY_SHARE,
        keypoints=Labelled(values, torch.ones(n, dtype=torch.bool)),
        visibility=visibility,
        track_ids=torch.tensor(ids, dtype=torch.long),
        skeleton=POSETRACK,
        source="posetrack",
    )
    head_boxes = Labelled(
        torch.tensor([head or [0.0] * 4 for head in heads]).reshape(-1, 4),
        torch.tensor([head is not None for head in heads], dtype=torch.bool),
    )
    return PoseFrame(
        target=target,
        head_boxes=head_boxes,
        ignore_regions=regions,
        scores=torch.tensor([p.get("score", 1.0) for p in people])
        if any("score" in p for p in people)
        else None,
        joint_scores=joint_scores if any("joint_scores" in p for p in people) else None,
        file_name=file_name,
        image_id=image_id,
    )


def _box_around(person: dict[str, Any], size: Size) -> list[float]:
    points = [joint[:2] for joint in person["joints"].values()]
    if person.get("head_box"):
        points += [person["head_box"][:2], person["head_box"][2:]]
    if not points:
        return [0.0] * 4
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    dx, dy = _MARGIN * (max(xs) - min(xs)), _MARGIN * (max(ys) - min(ys))
    height, width = size
    return [
        min(max(0.0, min(xs) - dx), width),
        min(max(0.0, min(ys) - dy), height),
        max(0.0, min(width, max(xs) + dx)),
        max(0.0, min(height, max(ys) + dy)),
    ]


def _picture_record(frame: PoseFrame | Persons, number: int, names: list[str]) -> dict[str, Any]:
    height, width = (frame.target if isinstance(frame, PoseFrame) else frame).image_size
    own = (
        frame.file_name
        if isinstance(frame, PoseFrame)
        else Path(frame.path).name
        if frame.path
        else ""
    )
    name = names[number - 1] if number <= len(names) else own or f"{number:06d}.jpg"
    image_id = number if isinstance(frame, Persons) or frame.image_id is None else frame.image_id
    record = {
        "id": image_id,
        "frame_id": image_id,
        "file_name": name,
        "height": height,
        "width": width,
    }
    if isinstance(frame, PoseFrame) and frame.ignore_regions:
        for axis, key in enumerate(("ignore_regions_x", "ignore_regions_y")):
            record[key] = [
                [_r(v - 0.5) for v in region[:, axis].tolist()] for region in frame.ignore_regions
            ]
    return record


def _check_writable(people: Target | Persons, where: str) -> None:
    if people.keypoints is None or people.track_ids is None:
        missing = "keypoints" if people.keypoints is None else "track ids"
        raise AnnotationError(
            f"{where}: the people have no {missing}; PoseTrack needs keypoints and track_ids"
        )


def _true_row(frame: PoseFrame, i: int) -> dict[str, Any]:
    target = frame.target
    seen = (target.visibility[i] * target.keypoints.valid[i]).tolist()
    row = _row(
        target.skeleton, target.keypoints.value[i], [v - 1 if v else None for v in seen], target, i
    )
    if frame.head_boxes.valid[i]:
        row["bbox_head"] = [
            _r(v) for v in xyxy_to_xywh(frame.head_boxes.value[i].double()).tolist()
        ]
    if frame.scores is not None:
        row["score"] = _r(float(frame.scores[i]))
    if frame.joint_scores is not None:
        row["scores"] = [0.0 if math.isnan(v) else v for v in frame.joint_scores[i].tolist()]
    return row


def _found_row(people: Persons, i: int) -> dict[str, Any]:
    flags = [1 if ok else None for ok in torch.isfinite(people.keypoints[i]).all(-1).tolist()]
    row = _row(people.skeleton, people.keypoints[i], flags, people, i) | {
        "score": float(people.scores[i])
    }
    if people.keypoint_scores is not None:
        scores = dict(zip(people.skeleton.joints, people.keypoint_scores[i].tolist(), strict=True))
        row["scores"] = [
            _finite(scores.get(name, scores.get("neck", 0.0) if name == "head_bottom" else 0.0))
            for name in POSETRACK.joints
        ]
    return row


def _row(
    skeleton: Skeleton, joints: Tensor, flags: list[int | None], people: Target | Persons, i: int
) -> dict[str, Any]:
    names = [_CLIP_NAMES.get(name, name) for name in skeleton.joints]
    placed = {
        n: (p, f)
        for n, p, f in zip(names, joints.double().tolist(), flags, strict=True)
        if f is not None
    }
    flat: list[float] = []
    for name in POSETRACK.joints:
        (x, y), flag = placed.get(name, ((0.5, 0.5), 0))
        flat += [_r(x - 0.5), _r(y - 0.5), flag]
    return {
        "track_id": int(people.track_ids[i]),
        "bbox": [_r(v) for v in xyxy_to_xywh(people.boxes[i].double()).tolist()],
        "keypoints": flat,
    }


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _r(value: float) -> float:
    return round(value, 3)
