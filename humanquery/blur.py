"""Faces made unrecognisable, where the joints of the head say that they are."""

import cv2
import numpy as np
import torch
from jaxtyping import UInt8

from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons

FACE = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
SHOULDERS = ("left_shoulder", "right_shoulder")
SEEN_FROM = 0.05
"""least score of a joint of the head: a face that is blurred for nothing costs less than one that
is not"""
CELLS = 6
"""mosaic cells across a face: too few to tell anybody by"""

Ellipse = tuple[float, float, float, float]
"""centre x, y, half width, half height in px"""


def face_ellipses(persons: Persons, threshold: float = SEEN_FROM) -> list[Ellipse | None]:
    """An upright ellipse around each person's face, generous enough for chin and forehead; None
    where no joint of the head scores above `threshold`.

    Its half width is the largest of: 0.8 of the longest distance between joints of the head, 0.35
    of the shoulders', a twentieth of the box's longer side; its half height 1.35 times that. A
    face box, where the model gives one, is covered whole. ConfigError without joints of a head.
    """
    if persons.face_boxes is None and (
        persons.keypoints is None or not set(FACE) & set(persons.skeleton.joints)
    ):
        raise ConfigError(
            "faces are blurred where nose, eyes and ears are, and this model or choice of tasks "
            "gives no such joints; ask for keypoints"
        )
    people = persons.to("cpu")
    return [_face(people, i, threshold) for i in range(len(people))]


def _face(people: Persons, i: int, threshold: float) -> Ellipse | None:
    if people.face_boxes is not None:
        x1, y1, x2, y2 = people.face_boxes[i].tolist()
        if x2 > x1 and y2 > y1:
            # an ellipse around a box touches its corners
            return (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2**0.5, (y2 - y1) / 2**0.5
    if people.keypoints is None:
        return None
    head = _places(people, i, FACE, threshold)
    if not len(head):
        return None
    shoulders = _places(people, i, SHOULDERS, threshold)
    box = people.boxes[i]
    width = max(
        0.8 * _widest(head), 0.35 * _widest(shoulders), float((box[2:] - box[:2]).max()) / 20, 2.0
    )
    x, y = head.mean(0).tolist()
    return x, y, width, 1.35 * width


def _places(people: Persons, i: int, names: tuple[str, ...], threshold: float) -> torch.Tensor:
    rows = [people.skeleton.index(name) for name in names if name in people.skeleton.joints]
    scores = people.keypoint_scores
    seen = [k for k in rows if scores is None or float(scores[i, k]) > threshold]
    places = people.keypoints[i, seen]
    return places[torch.isfinite(places).all(-1)]


def _widest(points: torch.Tensor) -> float:
    return float(torch.cdist(points[None], points[None]).max()) if len(points) > 1 else 0.0


def blur_faces(
    image: UInt8[np.ndarray, "h w 3"], persons: Persons, threshold: float = SEEN_FROM
) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
    """A copy of the picture with a mosaic over every face of these people, and how many people had
    none that could be placed. Errors as `face_ellipses`.

    Not covered: people who were not found, heads without a joint (seen from behind, cut off), and
    everything else that tells who somebody is (clothes, hair, tattoos, reflections, text).
    """
    canvas = np.ascontiguousarray(image).copy()
    ellipses = face_ellipses(persons, threshold)
    for ellipse in ellipses:
        if ellipse is not None:
            _mosaic(canvas, ellipse)
    return canvas, ellipses.count(None)


def _mosaic(canvas: np.ndarray, ellipse: Ellipse) -> None:
    """Means of large cells: unlike a blur they cannot be turned back."""
    x, y, half_width, half_height = ellipse
    height, width = canvas.shape[:2]
    left, right = int(max(x - half_width, 0)), int(min(np.ceil(x + half_width), width))
    top, bottom = int(max(y - half_height, 0)), int(min(np.ceil(y + half_height), height))
    if left >= right or top >= bottom:
        return
    part = canvas[top:bottom, left:right]
    cells = min(CELLS, part.shape[1]), min(round(CELLS * 1.35), part.shape[0])
    coarse = cv2.resize(part, cells, interpolation=cv2.INTER_AREA)
    mosaic = cv2.resize(coarse, part.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    lines, columns = np.ogrid[top:bottom, left:right]
    across, along = (columns + 0.5 - x) / half_width, (lines + 0.5 - y) / half_height
    part[across**2 + along**2 <= 1] = mosaic[across**2 + along**2 <= 1]
