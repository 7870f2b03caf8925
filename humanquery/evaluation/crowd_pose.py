"""CrowdPose's evaluation: keypoint AP of 14 joints, all pictures and by how crowded they are."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import hotcoco

from humanquery.core.boxes import BODY_SHARE
from humanquery.core.coco_files import load_coco, problem_of
from humanquery.core.errors import AnnotationError
from humanquery.core.foreign import located, number, read_json
from humanquery.core.skeleton import Skeleton
from humanquery.evaluation.coco_ap import coco_scores
from humanquery.evaluation.people_report import FamilyScores

SKELETON = Skeleton.named("crowdpose14")
BOUNDS = (0.2, 0.8)
"""crowd index from which a picture is medium, and hard, in the reference evaluation; the paper
(Li et al., CVPR 2019) says 0.1 and 0.8"""


@dataclass(frozen=True)
class CrowdPoseReport:
    """0..1; None where there is nobody."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    ar: float | None
    ap_easy: float | None
    ap_medium: float | None
    ap_hard: float | None
    pictures: dict[str, int]
    """easy, medium and hard ones"""
    bounds: tuple[float, float] = BOUNDS

    def numbers(self) -> dict[str, float]:
        """Flat, for logs: {"crowdpose/ap": ..., "crowdpose/ap_easy": ...}."""
        values = {n: v for n, v in asdict(self).items() if n not in ("pictures", "bounds")}
        return {f"crowdpose/{name}": value for name, value in values.items() if value is not None}

    def table(self) -> str:
        """Aligned text, in %."""
        names = ("AP", "AP50", "AP75", "AR", "easy", "medium", "hard")
        values = list(asdict(self).values())[: len(names)]
        cells = ["n/a" if value is None else f"{value * 100:.1f}" for value in values]
        counts = ", ".join(f"{count} {name}" for name, count in self.pictures.items())
        return (
            "".join(f"{name:>8}" for name in names)
            + "\n"
            + "".join(f"{cell:>8}" for cell in cells)
            + f"\nPictures: {counts}; medium from a crowd index of {self.bounds[0]}, hard from "
            f"{self.bounds[1]}."
        )

    def save(self, path: Path | str) -> None:
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def evaluate_crowd_pose(
    truth_json: Path | str,
    results_json: Path | str,
    *,
    bounds: tuple[float, float] = BOUNDS,
) -> CrowdPoseReport:
    """Scores a COCO results file on a CrowdPose annotation file, as the reference does.

    The scale of the OKS is 0.53 of the true box; people whose own `num_keypoints` is 0 are ignored
    (the files count visible joints there, while all labelled ones are compared). A picture without
    `crowdIndex`, rows on unknown pictures and joints of another number raise AnnotationError.
    """
    truth = load_coco(truth_json, needs=())
    found = read_json(results_json, "a list of COCO result rows with keypoints", list)
    groups = _groups(truth["images"], truth_json, bounds)
    people = [_person(a, i, truth_json) for i, a in enumerate(truth["annotations"])]
    known = {image["id"] for image in truth["images"]}
    for i, row in enumerate(found):
        _check(row, known, f"{results_json}: row {i}")
    every = _scores(truth["images"], people, found)
    parts = {}
    for name, images in groups.items():
        ids = {image["id"] for image in images}
        parts[name] = _scores(
            images,
            [person for person in people if person["image_id"] in ids],
            [row for row in found if row["image_id"] in ids],
        )
    whole = every["all"]
    return CrowdPoseReport(
        whole.ap,
        whole.ap50,
        whole.ap75,
        whole.ar,
        *(parts[name].ap for name in ("easy", "medium", "hard")),
        pictures={name: len(images) for name, images in groups.items()},
        bounds=bounds,
    )


def _groups(
    images: list[dict[str, Any]], path: Path | str, bounds: tuple[float, float]
) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {"easy": [], "medium": [], "hard": []}
    for image in images:
        with located(f"{path}: image {image['id']}"):
            if "crowdIndex" not in image:
                raise AnnotationError(
                    "has no 'crowdIndex'; expected an annotation file of CrowdPose, which tells "
                    "for every picture how crowded it is (0..1)"
                )
            index = number(image["crowdIndex"], "crowdIndex")
        name = "easy" if index < bounds[0] else "medium" if index < bounds[1] else "hard"
        groups[name].append(image)
    return groups


def _person(annotation: dict[str, Any], i: int, path: Path | str) -> dict[str, Any]:
    problem = problem_of(annotation, SKELETON)
    if problem is not None:
        raise AnnotationError(f"{path}: annotation at place {i} (from 0): {problem}")
    width, height = annotation["bbox"][2:]
    joints = annotation.get("keypoints") or [0] * 3 * len(SKELETON)
    counted = annotation.get("num_keypoints", sum(v > 0 for v in joints[2::3]))
    return {
        "id": i + 1,  # 0 means "not matched" to COCO's evaluators
        "image_id": annotation["image_id"],
        "category_id": 1,
        "bbox": annotation["bbox"],
        "area": BODY_SHARE * width * height,
        "iscrowd": int(annotation.get("iscrowd") or 0),
        "keypoints": joints,
        "num_keypoints": int(counted),
    }


def _check(row: Any, known: set[int], where: str) -> None:
    if not isinstance(row, dict) or row.get("image_id") not in known:
        raise AnnotationError(
            f"{where} is on no picture of the truth; expected a COCO result whose 'image_id' is "
            "one of the truth's"
        )
    joints = row.get("keypoints")
    if not isinstance(joints, list) or len(joints) != 3 * len(SKELETON):
        count = len(joints) if isinstance(joints, list) else "no"
        raise AnnotationError(
            f"{where}: 'keypoints' has {count} numbers, expected {3 * len(SKELETON)} (x, y, score "
            f"for {len(SKELETON)} joints of {SKELETON.name})"
        )
    with located(where):
        number(row.get("score"), "score")


def _scores(
    images: list[dict[str, Any]], people: list[dict[str, Any]], found: list[dict[str, Any]]
) -> FamilyScores:
    truth = hotcoco.COCO(
        {
            "images": [{"id": image["id"]} for image in images],
            "annotations": people,
            "categories": [{"id": 1, "name": "person"}],
        }
    )
    rows = [
        {name: row[name] for name in ("image_id", "keypoints", "score")} | {"category_id": 1}
        for row in found
    ]
    return coco_scores(truth, truth.load_res(rows), "keypoints", sigmas=SKELETON.sigmas)
