"""People of Halpe and COCO-WholeBody files: body, feet, face and hands as one list of joints."""

from collections.abc import Iterable
from typing import Any

from humanquery.core.errors import AnnotationError
from humanquery.core.skeleton import Skeleton
from humanquery.core.target import Target
from humanquery.data.readers.coco_target import Annotation, CocoOptions, read_target

LABELLED_FROM = 0.35
"""least visibility of a labelled joint; faces and hands carry scores there (AlphaPose's rule)"""
PART_FIELDS = (
    ("foot_kpts", "foot_valid", 6),
    ("face_kpts", "face_valid", 68),
    ("lefthand_kpts", "lefthand_valid", 21),
    ("righthand_kpts", "righthand_valid", 21),
)
"""COCO-WholeBody: field, flag and number of joints of each part, in the order of the skeleton"""
COCO_WHOLEBODY, HALPE = Skeleton.named("coco_wholebody133"), Skeleton.named("halpe136")


def flat_joints(annotation: Annotation, where: str = "annotations") -> list[float | int]:
    """x, y, v of all 133 joints (COCO-WholeBody, from its five fields) or of all 136 (Halpe), as
    they
    stand in the file.

    A part that is absent or marked as not valid is unlabelled (zeros). Another number of joints
    raises
    AnnotationError.
    """
    body = annotation.get("keypoints") or []
    whole = "foot_kpts" in annotation or "face_kpts" in annotation
    if not whole and len(body) == 3 * len(HALPE):
        return list(body)
    flat = list(_numbers(annotation, "keypoints", 17, True, where))
    for field, flag, count in PART_FIELDS:
        flat += _numbers(annotation, field, count, bool(annotation.get(flag, True)), where)
    return flat


def _numbers(
    annotation: Annotation, field: str, count: int, valid: bool, where: str
) -> list[float | int]:
    values: Any = annotation.get(field)
    if values is None or not valid:
        return [0.0] * (3 * count)
    if not isinstance(values, list) or len(values) != 3 * count:
        came = f"{len(values)} numbers" if isinstance(values, list) else repr(values)
        raise AnnotationError(
            f"{where}: annotation {annotation.get('id')}: {field!r} has {came}, expected "
            f"{3 * count} (COCO-WholeBody) or 'keypoints' with {3 * len(HALPE)} (Halpe); "
            "is this another data set?"
        )
    return values


def whole_body_target(
    image_record: dict[str, Any],
    annotations: Iterable[Annotation],
    options: CocoOptions | None = None,
    *,
    halpe: bool = False,
    where: str = "annotations",
) -> Target:
    """The people of one picture of a COCO-WholeBody or (with `halpe`) Halpe file, in its pixels.

    Joints are labelled from a visibility of `LABELLED_FROM`; scores become 1 (no statement about
    being
    hidden). Everything else is as in `coco_target.read_target`, also what raises.
    """
    skeleton = HALPE if halpe else COCO_WHOLEBODY
    people = [_as_coco(person, skeleton, where) for person in annotations]
    options = options or CocoOptions(fields=("keypoints", "masks", "face_boxes"))
    return read_target(image_record, people, skeleton, options, where=where)


def _as_coco(annotation: Annotation, skeleton: Skeleton, where: str) -> Annotation:
    flat = flat_joints(annotation, where)
    if len(flat) != 3 * len(skeleton):
        raise AnnotationError(
            f"{where}: annotation {annotation.get('id')}: {len(flat) // 3} joints, expected "
            f"{len(skeleton)} of {skeleton.name}; is this the other whole-body data set?"
        )
    flat[2::3] = [_visibility(v) for v in flat[2::3]]
    person = annotation | {"keypoints": flat}
    if not annotation.get("face_valid", True):
        person.pop("face_box", None)
    return person


def _visibility(value: float | int) -> int:
    """0, 1 and 2 as they are; a score counts as labelled from `LABELLED_FROM`."""
    if value < LABELLED_FROM:
        return 0
    return 2 if value >= 2 else 1
