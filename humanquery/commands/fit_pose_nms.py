"""When are two poses one person? The numbers of the pose NMS, fitted on labelled pictures."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from humanquery.core.config import from_plain, to_plain
from humanquery.core.errors import AnnotationError
from humanquery.core.foreign import read_json
from humanquery.core.persons import Persons
from humanquery.core.pose_nms import (
    JointWeights,
    PoseNMSConfig,
    PoseNMSFit,
    fit_pose_nms,
    pose_nms,
)
from humanquery.data.readers.persons import PersonsConfig, PersonSource
from humanquery.evaluation.whole_body_ap import WHOLE, Row, whole_body_scores
from humanquery.media.images import read_image
from humanquery.predict.whole_body import Job, WholeBodyPredictor

EXPECTED = "the numbers of a pose NMS, as `humanquery fit pose-nms` writes them"
PART = "body"


@dataclass(frozen=True, eq=False)
class LabelledPoses:
    """All poses of labelled pictures before any are joined, and the truth."""

    images: list[Row]
    truth: list[Row]
    poses: list[Persons]
    """of each picture"""

    def score(self, config: PoseNMSConfig) -> float:
        """AP of the body's joints after joining, 0 where nobody is labelled."""
        skeleton = next(people.skeleton for people in self.poses)
        whole = {"face", "lefthand", "righthand"} <= set(skeleton.parts)
        weights = JointWeights.whole_body(skeleton) if whole else None
        found = []
        for image, people in zip(self.images, self.poses, strict=True):
            joined = pose_nms(
                people.keypoints, people.keypoint_scores, people.boxes, config, weights
            )
            found += _rows(joined.people(people), image["id"])
        if not found:
            return 0.0
        part = PART if PART in skeleton.parts else WHOLE
        scores = whole_body_scores(self.images, self.truth, found, skeleton, [part], part)
        return scores[part].ap or 0.0


def _rows(people: Persons, image_id: int) -> Iterator[Row]:
    body = people.keypoint_scores[:, :17]
    ranks = people.scores * body.clamp(0, 1).mean(1)
    for i in range(len(people)):
        flat = [
            v
            for place, score in zip(
                (people.keypoints[i] - 0.5).tolist(),
                people.keypoint_scores[i].tolist(),
                strict=True,
            )
            for v in (*place, score)
        ]
        yield {"image_id": image_id, "keypoints": flat, "score": float(ranks[i])}


def labelled_poses(
    predictor: WholeBodyPredictor, config: PersonsConfig, score: float, limit: int = 0
) -> LabelledPoses:
    """Looks at the pictures of `config` once; `limit`: only the first so many.

    A file of another layout than the model's raises AnnotationError.
    """
    source = PersonSource(config)
    system = predictor.system
    if len(source.target(0).skeleton) != len(system.skeleton):
        raise AnnotationError(
            f"{config.annotations}: read as {config.layout}, which has "
            f"{len(source.target(0).skeleton)} joints; the model has {len(system.skeleton)} of "
            f"{system.skeleton.name}. Choose another --layout"
        )
    rows = list(source.by_picture().items())[: limit or None]
    ask = predictor.ask(score)
    joins, system.config = system.config, replace(system.config, nms=False)
    try:
        jobs = predictor.jobs((Job(source.path(image_id)) for image_id, _ in rows), ask, read_image)
        poses = [job.people for job in jobs]
    finally:
        system.config = joins
    images = [
        {"id": image_id, "height": people.image_size[0], "width": people.image_size[1]}
        for (image_id, _), people in zip(rows, poses, strict=True)
    ]
    truth = [source.row(i) for _, people in rows for i in people]
    return LabelledPoses(images, truth, poses)


def fit(poses: LabelledPoses, start: PoseNMSConfig, max_rounds: int = 10) -> PoseNMSFit:
    """The paper's alternating search from `start` on."""
    return fit_pose_nms(poses.score, start, max_rounds=max_rounds)


def write(fitted: PoseNMSFit, start_value: float, path: Path) -> None:
    said = {
        "pose_nms": to_plain(fitted.config),
        "ap": fitted.value,
        "ap_before": start_value,
        "rounds": fitted.rounds,
        "tried": len(fitted.tried),
    }
    path.write_text(json.dumps(said, indent=1) + "\n")


def read(path: Path | str) -> PoseNMSConfig:
    """What `write` wrote; something else raises AnnotationError or ConfigError."""
    content: dict[str, Any] = read_json(path, EXPECTED)
    if "pose_nms" not in content:
        raise AnnotationError(f"{path}: has no 'pose_nms'; expected {EXPECTED}")
    return from_plain(PoseNMSConfig, content["pose_nms"], f"{path}: pose_nms")
