"""AP and AR of face boxes (HQNet, Table 4): COCO's box evaluation with one category."""

from collections.abc import Iterable

import hotcoco

from humanquery.core.boxes import areas, xyxy_to_xywh
from humanquery.core.errors import AnnotationError
from humanquery.core.persons import Persons
from humanquery.core.target import Target
from humanquery.evaluation.coco_ap import coco_scores
from humanquery.evaluation.people_report import FamilyScores

FACE = {"id": 1, "name": "face"}


def face_scores(pairs: Iterable[tuple[Target, Persons]]) -> FamilyScores:
    """Scores over pictures, each a truth and the people found in it, who are ranked by their own
    scores.

    People whose face nobody annotated have no true box and forgive nothing, as in COCO-WholeBody.
    Found people without face boxes, and truth without a single face, raise AnnotationError.
    """
    images, faces, found = [], [], []
    for i, (target, people) in enumerate(pairs, 1):
        if people.face_boxes is None:
            raise AnnotationError(f"picture {i}: the found people have no face boxes")
        height, width = target.image_size
        images.append({"id": i, "height": height, "width": width})
        faces += _faces(target, i, len(faces) + 1)
        found += [
            {"image_id": i, "category_id": 1, "bbox": box, "score": score}
            for box, score in zip(
                xyxy_to_xywh(people.face_boxes.float()).tolist(),
                people.scores.tolist(),
                strict=True,
            )
        ]
    if not faces:
        raise AnnotationError(f"faces: none is annotated in {len(images)} pictures")
    truth = hotcoco.COCO({"images": images, "annotations": faces, "categories": [FACE]})
    return coco_scores(truth, truth.load_res(found), "box")


def _faces(target: Target, image_id: int, first_id: int) -> list[dict]:
    if target.face_boxes is None:
        return []
    known = target.face_boxes.value[target.face_boxes.valid & ~target.ignore]
    rows = zip(xyxy_to_xywh(known).tolist(), areas(known).tolist(), strict=True)
    return [
        {
            "id": first_id + i,
            "image_id": image_id,
            "category_id": 1,
            "bbox": box,
            "area": area,
            "iscrowd": 0,
        }
        for i, (box, area) in enumerate(rows)
    ]
