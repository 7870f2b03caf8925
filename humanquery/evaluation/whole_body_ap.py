"""AP of whole bodies, part by part: COCO-WholeBody's and Halpe's evaluations.

Each part is scored by itself with COCO's keypoint evaluation: the OKS of its joints at the scale of
the
whole person, one score per person, people without a labelled joint of the part ignored.
"""

from collections.abc import Sequence
from typing import Any

import hotcoco

from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.core.skeleton import Skeleton
from humanquery.evaluation.coco_ap import coco_scores
from humanquery.evaluation.people_report import FamilyScores

WHOLE = "whole"
"""the part that is all joints"""
PART_SCORES = {
    "body": "body_score",
    "foot": "foot_score",
    "face": "face_score",
    "lefthand": "lefthand_score",
    "righthand": "righthand_score",
    WHOLE: "wholebody_score",
}
"""fields of a found person that rank it for one part, where given (COCO-WholeBody)"""

Row = dict[str, Any]


def whole_body_scores(
    images: Sequence[Row],
    truth: Sequence[Row],
    found: Sequence[Row],
    skeleton: Skeleton,
    parts: Sequence[str] | None = None,
    area_part: str = "body",
) -> dict[str, FamilyScores]:
    """AP and AR of `parts` (default: all of the skeleton and `WHOLE`).

    `truth`: COCO annotations with `keypoints` x, y, v of all joints
    (`readers.whole_body.flat_joints`),
    `area` and `bbox` of the whole person. `found`: results with `image_id`, `keypoints` of all
    joints and
    `score`. The official COCO-WholeBody numbers come with `coco_wholebody133`, Halpe's with
    `halpe136`.
    Where a found person has no `bbox`, the extent of its joints of `area_part` is its area, which
    tells
    whether a person that matches nobody counts in a size range: "body" in COCO-WholeBody, `WHOLE`
    in
    Halpe. An unknown part raises ConfigError, another number of joints AnnotationError.
    """
    if not skeleton.sigmas:
        raise ConfigError(
            f"skeleton {skeleton.name!r} has no OKS sigmas, so no AP is defined for it"
        )
    for name, rows in (("truth", truth), ("found people", found)):
        _check(rows, skeleton, name)
    spans = dict(skeleton.parts) | {WHOLE: (0, len(skeleton))}
    unknown = [part for part in (*(parts or ()), area_part) if part not in spans]
    if unknown:
        raise ConfigError(
            f"skeleton {skeleton.name!r} has no part {unknown[0]!r}, expected {', '.join(spans)}"
        )
    return {
        part: _part_scores(images, truth, found, skeleton, part, spans[part], spans[area_part])
        for part in parts or spans
    }


def _check(rows: Sequence[Row], skeleton: Skeleton, name: str) -> None:
    for i, row in enumerate(rows):
        if len(row["keypoints"]) != 3 * len(skeleton):
            raise AnnotationError(
                f"{name}: row {i} (picture {row['image_id']}) has {len(row['keypoints'])} numbers "
                f"of joints, expected {3 * len(skeleton)} of {skeleton.name}"
            )


def _part_scores(images, truth, found, skeleton, part, span, area_span) -> FamilyScores:
    first, last = span
    people = []
    for row in truth:
        joints = row["keypoints"][3 * first : 3 * last]
        labelled = sum(v > 0 for v in joints[2::3])
        people.append(
            {
                "id": len(people) + 1,  # from 1: to COCO's evaluators 0 means "not matched"
                "image_id": row["image_id"],
                "category_id": 1,
                "bbox": row["bbox"],
                "area": row["area"],
                "iscrowd": int(row.get("iscrowd", 0)),
                "keypoints": joints,
                "num_keypoints": labelled,
            }
        )
    results = [
        {
            "image_id": row["image_id"],
            "category_id": 1,
            "keypoints": row["keypoints"][3 * first : 3 * last],
            "bbox": row["bbox"] if "bbox" in row else _extent(row["keypoints"], area_span),
            "score": row.get(PART_SCORES.get(part, "score"), row["score"]),
        }
        for row in found
    ]
    kept = [{k: image[k] for k in ("id", "height", "width") if k in image} for image in images]
    judge = hotcoco.COCO(
        {"images": kept, "annotations": people, "categories": [{"id": 1, "name": "person"}]}
    )
    sigmas = skeleton.sigmas[first:last]
    return coco_scores(judge, judge.load_res(results), "keypoints", sigmas=sigmas)


def _extent(joints: Sequence[float | int], span: tuple[int, int]) -> list[float | int]:
    """xywh of the joints of a span."""
    xs, ys = joints[3 * span[0] : 3 * span[1] : 3], joints[3 * span[0] + 1 : 3 * span[1] : 3]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
