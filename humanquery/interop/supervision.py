"""People as supervision's `Detections` and `KeyPoints`, and back, for its annotators and zones."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from humanquery.core.affine import Size
from humanquery.core.errors import AnnotationError
from humanquery.core.fields import JOINT_KINDS
from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.interop.packages import needed

INSTALL = "'humanquery[interop]'"
PERSON, PERSON_NAME = 0, "person"
_OWN = {"boxes": "xyxy", "scores": "confidence", "masks": "mask", "track_ids": "tracker_id"}
"""fields that `Detections` has itself; the others travel in its `data`"""


def to_detections(people: Persons) -> Any:
    """`supervision.Detections`: boxes, masks, scores, track ids; every other field of `Persons`
    but the joints under its name in `data`; `class_id` 0, `data["class_name"]` "person".

    ConfigError without supervision.
    """
    supervision = needed("supervision", "to_detections", INSTALL)
    people = people.to("cpu")
    count = len(people)
    own = {
        argument: people.get(name).numpy()
        for name, argument in _OWN.items()
        if people.get(name) is not None
    }
    data: dict[str, Any] = {
        name: value.numpy()
        for name, kind, value in people.filled()
        if name not in _OWN and kind not in JOINT_KINDS
    }
    data["class_name"] = np.array([PERSON_NAME] * count, dtype=object).astype(str)
    return supervision.Detections(**own, class_id=np.full(count, PERSON), data=data)


def to_key_points(people: Persons) -> Any:
    """`supervision.KeyPoints` of the joints, with the score of each; AnnotationError where these
    people have none, ConfigError without supervision."""
    supervision = needed("supervision", "to_key_points", INSTALL)
    if people.keypoints is None:
        raise AnnotationError("these people have no joints; ask the model for keypoints")
    people = people.to("cpu")
    given: dict[str, Any] = {"class_id": np.full(len(people), PERSON)}
    scores = _joint_scores_name(supervision)
    if people.keypoint_scores is not None:
        given[scores] = people.keypoint_scores.numpy()
    if scores == "keypoint_confidence":
        given["detection_confidence"] = people.scores.numpy()
    return supervision.KeyPoints(xy=people.keypoints.numpy(), **given)


def _joint_scores_name(supervision: Any) -> str:
    """`confidence` until supervision told the scores of joints and of people apart."""
    fields = supervision.KeyPoints.__dataclass_fields__
    return "keypoint_confidence" if "keypoint_confidence" in fields else "confidence"


def from_supervision(
    detections: Any,
    image_size: Size,
    key_points: Any = None,
    skeleton: Skeleton = COCO17,
) -> Persons:
    """The people of a `Detections` of one picture, with the joints of `key_points` in the same
    order; entries of `data` that carry the name of a field are read as that field.

    Without confidence everybody scores 1. Another number of joints than `skeleton` has, or other
    people in `key_points`, raise AnnotationError.
    """
    fields: dict[str, Any] = {}
    for name, argument in _OWN.items():
        value = getattr(detections, argument)
        if value is not None:
            fields[name] = _tensor(value, name)
    fields.setdefault("scores", torch.ones(len(detections)))
    for name in Persons.specs():
        if name not in fields and name in detections.data:
            fields[name] = _tensor(detections.data[name], name)
    if key_points is not None:
        fields |= _joints(key_points, len(detections), skeleton)
    return Persons(image_size=image_size, skeleton=skeleton, **fields)


def _joints(key_points: Any, count: int, skeleton: Skeleton) -> dict[str, Tensor]:
    places = torch.as_tensor(np.asarray(key_points.xy)).float()
    if not count and not places.numel():
        places = torch.zeros(0, len(skeleton), 2)
    if len(places) != count or places.shape[1] != len(skeleton):
        raise AnnotationError(
            f"key points of {len(places)} people with {places.shape[1]} joints, expected {count} "
            f"people with the {len(skeleton)} joints of {skeleton.name}"
        )
    found = {"keypoints": places}
    scores = getattr(key_points, "keypoint_confidence", None)
    scores = getattr(key_points, "confidence", None) if scores is None else scores
    if scores is not None:
        found["keypoint_scores"] = torch.as_tensor(np.asarray(scores)).float()
    return found


def _tensor(value: Any, name: str) -> Tensor:
    tensor = torch.as_tensor(np.asarray(value))
    if name == "masks":
        return tensor.bool()
    return tensor.long() if name == "track_ids" else tensor.float()
