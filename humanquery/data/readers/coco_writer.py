"""Exact truth as a COCO-UniHuman file; the inverse of `coco_target`."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from humanquery.core.batch import Sample
from humanquery.core.errors import AnnotationError
from humanquery.core.masks import bitmap_to_rle
from humanquery.core.rows import Labelled
from humanquery.core.skeleton import COCO17, Skeleton
from humanquery.core.target import Target
from humanquery.media.images import write_image

_VALID_FLAGS = ("labels", "bboxes", "keypoints_2d", "segmentation", "smpl", "gender", "age", "face")


def write_coco(
    path: str | Path, samples: Iterable[Sample], images: str | Path | None = None
) -> int:
    """Writes the truth of the samples (in picture px) and gives the number of annotations; numbers
    to 1e-4 px.

    With `images`, the pictures are written there too. Samples come one at a time, so a generator
    may be longer than memory. Pictures are named as `Meta.path`, or by their id; two samples with
    one id raise AnnotationError.
    """
    path = Path(path)
    records: dict[int, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    skeleton = None
    for sample in samples:
        if sample.target is None:
            raise AnnotationError(
                f"{path}: sample {sample.meta.image_id} has no target; nothing to write"
            )
        record = _image_record(sample)
        if record["id"] in records:
            raise AnnotationError(
                f"{path}: two samples have the image id {record['id']}; give each its own"
            )
        records[record["id"]] = record
        skeleton = skeleton or sample.target.skeleton
        for i in range(len(sample.target)):
            annotations.append(annotation_of(sample.target, i, record["id"], len(annotations) + 1))
        if images is not None:
            write_image(Path(images) / record["file_name"], sample.image)
    content = {
        "info": {"description": "people, in the COCO-UniHuman dialect"},
        "categories": [category_of(skeleton or COCO17)],
        "images": list(records.values()),
        "annotations": annotations,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, separators=(",", ":")))
    return len(annotations)


def _image_record(sample: Sample) -> dict[str, Any]:
    height, width = sample.target.image_size
    path = Path(sample.meta.path)  # a generated picture has no file, hence no suffix
    name = path.name if path.suffix else f"{sample.meta.image_id:012d}.png"
    return {"id": sample.meta.image_id, "file_name": name, "height": height, "width": width}


def category_of(skeleton: Skeleton) -> dict[str, Any]:
    """COCO's category of people with the names of these joints."""
    limbs = [[a + 1, b + 1] for a, b in skeleton.limbs]  # COCO counts joints from 1
    return {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(skeleton.joints),
        "skeleton": limbs,
    }


def annotation_of(target: Target, i: int, image_id: int, number: int) -> dict[str, Any]:
    """Person i of a picture as a COCO annotation, numbered `number` where it has no id."""
    ignore = bool(target.ignore[i])
    row: dict[str, Any] = {
        "id": number if target.annotation_ids is None else int(target.annotation_ids[i]),
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": int(ignore),
        "bbox": _xywh(target.boxes[i]),
        "area": round(float(target.areas[i]), 4),
    }
    row |= _joints(target, i)
    row |= _segment(target, i, ignore)
    gender, age, face = (
        _value(target.gender, i),
        _value(target.age, i),
        _value(target.face_boxes, i),
    )
    if gender is not None:
        row["gender"] = int(gender)
    if age is not None:
        low, high = (_whole(v) for v in age.tolist())
        row |= {"age_range": [low, high]} | ({"age": low} if low == high else {})
    if face is not None:
        row["face_box"] = _xywh(face)
    if target.track_ids is not None and int(target.track_ids[i]) >= 0:
        row["track_id"] = int(target.track_ids[i])
    known = target.keypoints is not None and bool(target.keypoints.valid[i])
    present = {
        "labels": True,
        "bboxes": True,
        "keypoints_2d": known,
        "segmentation": "segmentation" in row,
        "gender": gender is not None,
        "age": "age" in row,
        "face": face is not None,
    }
    return row | {"valid": {flag: int(present.get(flag, False)) for flag in _VALID_FLAGS}}


def _joints(target: Target, i: int) -> dict[str, Any]:
    if target.keypoints is None:
        return {}
    seen = target.visibility[i] * target.keypoints.valid[i]
    points = torch.where(seen[:, None] > 0, target.keypoints.value[i].double() - 0.5, 0.0)
    flat = [
        number
        for (x, y), v in zip(points.tolist(), seen.tolist(), strict=True)
        for number in (_r(x), _r(y), v)
    ]
    return {"keypoints": flat, "num_keypoints": int((seen > 0).sum())}


def _segment(target: Target, i: int, ignore: bool) -> dict[str, Any]:
    mask = _value(target.masks, i)
    if mask is None and ignore and target.masks is not None:
        mask = _filled_box(target, i)  # COCO's own evaluator needs a region for every crowd
    return {} if mask is None else {"segmentation": bitmap_to_rle(mask)}


def _filled_box(target: Target, i: int) -> torch.Tensor:
    mask = torch.zeros(target.image_size, dtype=torch.bool)
    x1, y1, x2, y2 = (max(0, round(v)) for v in target.boxes[i].tolist())
    mask[y1:y2, x1:x2] = True
    return mask


def _value(labels: Labelled | None, i: int) -> torch.Tensor | None:
    return None if labels is None or not labels.valid[i] else labels.value[i]


def _xywh(box: torch.Tensor) -> list[float]:
    x1, y1, x2, y2 = box.double().tolist()
    return [_r(x1), _r(y1), _r(x2 - x1), _r(y2 - y1)]


def _r(value: float) -> float:
    return round(value, 4)


def _whole(value: float) -> int | float:
    return int(value) if value == int(value) else value
