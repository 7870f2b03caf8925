"""One picture's COCO annotations as a `Target`: plain COCO, COCO-UniHuman v1 and v2, and
dialects with age ranges.

This is the only place where pixel indices of COCO joints become continuous pixels (+0.5).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from humanquery.core.affine import Size
from humanquery.core.boxes import BODY_SHARE
from humanquery.core.coco_files import Annotation, is_crowd, problem_of, says_valid
from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.core.fields import FieldSpec
from humanquery.core.foreign import box, number
from humanquery.core.masks import polygons_to_bitmap, rle_to_bitmap
from humanquery.core.rows import Extra, Labelled
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.core.target import Target

FIELDS = ("keypoints", "masks", "gender", "age", "face_boxes", "track_ids")


@dataclass(frozen=True)
class CocoOptions:
    """How doubtful annotations are read. An evaluator that scores the `Target`s of a source uses
    the same rules."""

    fields: tuple[str, ...] = FIELDS
    """what the data set annotates at all (see `FIELDS`); the rest of the `Target` stays None"""
    age_labels: Literal["point", "range"] = "point"
    """point: `age` where given, else the interval `age_range`; range: the interval wherever
    given
    """
    suspect_boxes: Literal["ignore", "person"] = "ignore"
    """`look: suspect_box`: the box shows no single person, so nothing can be learned or scored
    there"""
    depicted: Literal["ignore", "person"] = "person"
    """`look: depicted` (statues, posters, dolls): COCO's annotators counted them as persons"""
    fragments: Literal["ignore", "person"] = "person"
    """`look: fragment`: only a limb is seen"""
    unlabelled_keypoints: Literal["negative", "unknown"] = "negative"
    """a person without one labelled joint. negative: known to show no joint (what the HQNet
    release assumes; target of the `keypoints seen` score); unknown: nobody looked, unless
    `valid.keypoints_2d` says 1"""
    extra: tuple[FieldSpec, ...] = ()
    """labels of tasks that are not built in, each read from the annotation's key `FieldSpec.coco`
    (else its name): a number or true/false (kind "row"), an xywh box (kind "boxes"). Missing or
    null: not annotated"""

    def __post_init__(self):
        for spec in self.extra:
            if spec.kind not in ("row", "boxes"):
                raise ConfigError(
                    f"extra label {spec.name!r} is of kind {spec.kind!r}; a COCO file is read for "
                    "further labels of kind 'row' (a number) or 'boxes' (xywh)"
                )


def read_target(
    image_record: dict[str, Any],
    annotations: Iterable[Annotation],
    skeleton: Skeleton = COCO17,
    options: CocoOptions | None = None,
    *,
    where: str = "",
) -> Target:
    """The people of one picture of a COCO file, in its pixels.

    Persons that fail `is_kept` are left out. Crowds become ignore rows without a mask. A
    malformed annotation raises AnnotationError naming `where` (the file) and the annotation's
    id.
    """
    options = options or CocoOptions()
    size = (int(image_record["height"]), int(image_record["width"]))
    people = []
    for annotation in annotations:
        problem = problem_of(annotation, skeleton)
        if problem:
            raise AnnotationError(
                f"{where or 'annotations'}: annotation {annotation.get('id')}: {problem}"
            )
        if is_kept(annotation, size):
            people.append(annotation)
    ignore = [is_ignored(person, options) for person in people]
    target = Target(
        image_size=size,
        boxes=_rows([_xyxy(person["bbox"]) for person in people], 4),
        ignore=torch.tensor(ignore, dtype=torch.bool),
        areas=torch.tensor([area_of(person) for person in people], dtype=torch.float32),
        annotation_ids=torch.tensor(
            [int(person.get("id", -1)) for person in people], dtype=torch.long
        ),
    )
    seen = [None if skip else person for person, skip in zip(people, ignore, strict=True)]
    if "keypoints" in options.fields:
        joints, visibility, valid = _keypoints(seen, skeleton, options)
        target = target.replace(
            keypoints=Labelled(joints, valid), visibility=visibility, skeleton=skeleton
        )
    labels = {
        "masks": lambda: _masks(seen, size, where),
        "gender": lambda: _labelled([None if p is None else _gender(p) for p in seen]),
        "age": lambda: _labelled([None if p is None else _age(p, options) for p in seen], 2),
        "face_boxes": lambda: _labelled([None if p is None else _face_box(p) for p in seen], 4),
        "track_ids": lambda: torch.tensor(
            [int(p.get("track_id", -1)) for p in people], dtype=torch.long
        ),
    }
    return target.replace(
        **{name: read() for name, read in labels.items() if name in options.fields},
        extra={spec.name: Extra(spec, _extra(seen, spec)) for spec in options.extra},
    )


def is_kept(annotation: Annotation, size: Size) -> bool:
    """Whether a sound annotation is a person (or a crowd) of a picture of `size` (height, width)
    at all.

    Kept: width and height of at least 1 px, a positive area, a box that meets the picture, and
    not marked as boxless.
    """
    x1, y1, x2, y2 = _xyxy(annotation["bbox"])
    meets = min(x2, size[1]) > max(x1, 0) and min(y2, size[0]) > max(y1, 0)
    known = is_crowd(annotation) or says_valid(annotation, "bboxes")
    return known and meets and x2 - x1 >= 1 and y2 - y1 >= 1 and area_of(annotation) > 0


def is_ignored(annotation: Annotation, options: CocoOptions) -> bool:
    """Whether the annotation becomes an ignore row: no loss, no false positive there."""
    look = annotation.get("look")
    return (
        is_crowd(annotation)
        or (look == "suspect_box" and options.suspect_boxes == "ignore")
        or (look == "depicted" and options.depicted == "ignore")
        or (look == "fragment" and options.fragments == "ignore")
    )


def area_of(annotation: Annotation) -> float:
    """px² of the segment; `BODY_SHARE` of the box where the file gives none."""
    area = annotation.get("area")
    return (
        float(area)
        if area is not None
        else BODY_SHARE * annotation["bbox"][2] * annotation["bbox"][3]
    )


def _has(annotation: Annotation, key: str, flag: str) -> bool:
    return annotation.get(key) is not None and says_valid(annotation, flag)


def _keypoints(
    people: Sequence[Annotation | None], skeleton: Skeleton, options: CocoOptions
) -> tuple[Tensor, Tensor, Tensor]:
    k = len(skeleton)
    unlabelled = [0.0] * (3 * k)
    flat = [unlabelled if p is None else p.get("keypoints") or unlabelled for p in people]
    table = torch.tensor(flat, dtype=torch.float64).reshape(-1, k, 3)
    visibility = table[..., 2].long()
    # +0.5 in float64: COCO counts pixels, we measure from the picture's edge
    joints = torch.where(visibility[..., None] > 0, table[..., :2] + 0.5, 0.0).float()
    labelled = (visibility > 0).any(-1).tolist()
    valid = [
        p is not None and (some or _unlabelled_is_known(p, options))
        for p, some in zip(people, labelled, strict=True)
    ]
    return joints, visibility, torch.tensor(valid, dtype=torch.bool)


def _unlabelled_is_known(person: Annotation, options: CocoOptions) -> bool:
    labelled = says_valid(person, "keypoints_2d", 0)
    return labelled or options.unlabelled_keypoints == "negative"


def _masks(people: Sequence[Annotation | None], size: Size, where: str) -> Labelled:
    masks = torch.zeros(len(people), *size, dtype=torch.bool)
    valid = torch.zeros(len(people), dtype=torch.bool)
    for i, person in enumerate(people):
        if person is None or not _has(person, "segmentation", "segmentation"):
            continue
        try:
            mask = _bitmap(person["segmentation"], size)
        except AnnotationError as problem:
            raise AnnotationError(
                f"{where or 'annotations'}: annotation {person.get('id')}: {problem}"
            ) from problem
        if mask is not None:
            masks[i], valid[i] = mask, True
    return Labelled(masks, valid)


def _bitmap(segment: list | dict, size: Size) -> Tensor | None:
    if isinstance(segment, dict):
        if tuple(segment["size"]) != size:
            raise AnnotationError(
                f"the RLE mask is {segment['size'][0]} x {segment['size'][1]}, expected the "
                f"picture's height and width "
                f"{size[0]} x {size[1]}"
            )
        return rle_to_bitmap(segment)
    polygons = [polygon for polygon in segment if len(polygon) >= 6]
    return polygons_to_bitmap(polygons, size) if polygons else None


def _gender(person: Annotation) -> float | None:
    return (
        float(person["gender"])
        if _has(person, "gender", "gender") and person["gender"] >= 0
        else None
    )


def _age(person: Annotation, options: CocoOptions) -> list[float] | None:
    point = (
        [float(person["age"])] * 2 if _has(person, "age", "age") and person["age"] >= 0 else None
    )
    # `valid.age` speaks of the point: a range may stand where no point could be given
    span = [float(v) for v in person["age_range"]] if person.get("age_range") else None
    return (span or point) if options.age_labels == "range" else (point or span)


def _face_box(person: Annotation) -> list[float] | None:
    if not _has(person, "face_box", "face"):
        return None
    box = _xyxy(person["face_box"])
    return box if box[2] > box[0] and box[3] > box[1] else None


def check_extra(annotation: Annotation, specs: Iterable[FieldSpec]) -> None:
    """Raises AnnotationError where a label of `CocoOptions.extra` is none of its kind."""
    for spec in specs:
        value = annotation.get(_key(spec))
        if value is None or (spec.kind == "row" and isinstance(value, bool)):
            continue
        (box if spec.kind == "boxes" else number)(value, _key(spec))


def _extra(people: Sequence[Annotation | None], spec: FieldSpec) -> Labelled:
    values = [None if person is None else person.get(_key(spec)) for person in people]
    if spec.kind == "boxes":
        return _labelled([None if value is None else _xyxy(value) for value in values], 4)
    return _labelled([None if value is None else float(value) for value in values])


def _key(spec: FieldSpec) -> str:
    return spec.coco or spec.name


def _xyxy(xywh: Sequence[int | float]) -> list[float]:
    x, y, w, h = xywh
    return [float(x), float(y), float(x + w), float(y + h)]


def _rows(values: list[list[float]], width: int) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(-1, width)


def _labelled(values: list, width: int | None = None) -> Labelled:
    """None = not annotated; its placeholder is zero."""
    blank = 0.0 if width is None else [0.0] * width
    filled = [blank if value is None else value for value in values]
    table = torch.tensor(filled, dtype=torch.float32)
    return Labelled(
        table if width is None else table.reshape(-1, width),
        torch.tensor([value is not None for value in values], dtype=torch.bool),
    )
