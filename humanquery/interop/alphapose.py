"""Poses as AlphaPose's tools and COCO-WholeBody's evaluation read them.

Coordinates are COCO's pixel indices, half a pixel less than ours, of the picture as it was read.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from humanquery.core.boxes import xyxy_to_xywh
from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons
from humanquery.core.pose_nms import instance_scores
from humanquery.core.skeleton import COCO17, Skeleton, convert_joints

VERSION = "AlphaPose v0.3"
"""of the layout of 18 joints, as the released tools write it"""
OPEN_ORDER = (
    "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist "
    "right_hip right_knee right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear "
    "left_ear"
).split()
WHOLE_BODY = Skeleton.named("coco_wholebody133")
PART_FIELDS = {
    "body": "keypoints",
    "foot": "foot_kpts",
    "face": "face_kpts",
    "lefthand": "lefthand_kpts",
    "righthand": "righthand_kpts",
}
"""part of the skeleton -> field of COCO-WholeBody's results"""


def results(people: Persons, image_id: str | int) -> list[dict[str, Any]]:
    """AlphaPose's default list: all joints with their scores, `score` by which its tools rank
    (mean of the joints' + box + 1.25 times the best joint; it reaches 3.25), `idx` the track id,
    0 without one.

    People without joints raise ConfigError.
    """
    joints, scores = _posed(people)
    ranks = instance_scores(scores, people.scores.cpu())
    boxes = xyxy_to_xywh(people.boxes.cpu())
    ids = [0] * len(people) if people.track_ids is None else people.track_ids.tolist()
    return [
        {
            "image_id": image_id,
            "category_id": 1,
            "keypoints": _flat(joints[i], scores[i]),
            "score": round(float(ranks[i]), 4),
            "box": _rounded(boxes[i]),
            "idx": ids[i],
        }
        for i in range(len(people))
    ]


def body_18(people: Persons) -> list[list[float]]:
    """x, y, score of OpenPose's 18 joints of each person; the neck is the middle of the shoulders,
    with the mean of their scores. A joint that the skeleton lacks is 0, 0, 0."""
    joints, scores = _posed(people)
    places, values, known = _converted(joints, scores, people.skeleton, COCO17)
    shoulders = [COCO17.index("left_shoulder"), COCO17.index("right_shoulder")]
    neck, sure = places[:, shoulders].mean(1), values[:, shoulders].mean(1)
    rows = []
    for i in range(len(people)):
        flat: list[float] = []
        for name in OPEN_ORDER:
            if name == "neck":
                flat += _flat(neck[i, None], sure[i, None], known[i, shoulders].all()[None])
                continue
            at = slice(COCO17.index(name), COCO17.index(name) + 1)
            flat += _flat(places[i, at], values[i, at], known[i, at])
        rows.append(flat)
    return rows


def cmu(people: Persons) -> dict[str, Any]:
    """One picture in the layout "cmu"."""
    return {"version": VERSION, "bodies": [{"joints": row} for row in body_18(people)]}


def open_pose(people: Persons) -> dict[str, Any]:
    """One picture in the layout "open"."""
    return {"version": VERSION, "people": [{"pose_keypoints_2d": row} for row in body_18(people)]}


def coco_whole_body(people: Persons, image_id: int) -> list[dict[str, Any]]:
    """Results for COCO-WholeBody's evaluation: a field of joints per part, `score` the pose's
    score. Joints are converted by name; one that the skeleton lacks is 0, 0, 0."""
    joints, scores = _posed(people)
    places, values, known = _converted(joints, scores, people.skeleton, WHOLE_BODY)
    ranks = people.scores if people.pose_scores is None else people.pose_scores
    boxes = xyxy_to_xywh(people.boxes.cpu())
    rows = []
    for i in range(len(people)):
        row = {"image_id": int(image_id), "category_id": 1, "bbox": _rounded(boxes[i])}
        row["score"] = round(float(ranks[i]), 5)
        for part, field in PART_FIELDS.items():
            span = slice(*WHOLE_BODY.parts[part])
            row[field] = _flat(places[i, span], values[i, span], known[i, span])
        rows.append(row)
    return rows


def _posed(people: Persons) -> tuple[Float[Tensor, "n k 2"], Float[Tensor, "n k"]]:
    if people.keypoints is None or people.skeleton is None:
        if not len(people):
            return torch.zeros(0, 17, 2), torch.zeros(0, 17)
        raise ConfigError(
            "these people have no keypoints; AlphaPose's files hold poses: ask for keypoints"
        )
    joints = people.keypoints.float().cpu()
    if people.keypoint_scores is None:
        return joints, joints.new_ones(joints.shape[:2])
    return joints, people.keypoint_scores.float().cpu()


def _converted(
    joints: Float[Tensor, "n k 2"],
    scores: Float[Tensor, "n k"],
    source: Skeleton | None,
    to: Skeleton,
) -> tuple[Float[Tensor, "n m 2"], Float[Tensor, "n m"], Bool[Tensor, "n m"]]:
    """Places and scores in another layout, by name, and which joints the source has."""
    every = torch.ones_like(scores, dtype=torch.bool)
    places, known = convert_joints(joints, every, source or COCO17, to)
    twice, _ = convert_joints(scores[..., None].expand(-1, -1, 2), every, source or COCO17, to)
    return places, twice[..., 0], known


def _flat(
    places: Float[Tensor, "k 2"],
    scores: Float[Tensor, " k"],
    known: Bool[Tensor, " k"] | None = None,
) -> list[float]:
    """x, y, score of each joint; zeros for one that is not known."""
    table = torch.cat([places - 0.5, scores[:, None]], 1)
    if known is not None:
        table = torch.where(known[:, None], table, 0.0)
    return [round(value, 3) for value in table.flatten().tolist()]


def _rounded(values: Sequence[float] | Tensor) -> list[float]:
    return [round(float(value), 3) for value in values]
