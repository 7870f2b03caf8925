"""How fast scoring is, against pycocotools on the same generated people, and whether both give the
same AP.

    python -m benchmarks.evaluation --pictures 5000 --people 8 --found 100 --out evaluation.json

Made-up boxes, masks (ellipses) and joints; seconds of one process; pycocotools runs only COCO's
three families, ours also gender AP and Age-10 AP. Reading pictures and running a model are not part
of it.
"""

import argparse
import contextlib
import io
import time
from pathlib import Path

import numpy as np
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.results import save
from humanquery.core.skeleton import COCO17
from humanquery.evaluation import attribute_ap as attributes
from humanquery.evaluation.coco_ap import ENGINE, CocoEvaluator
from humanquery.evaluation.coco_rows import (
    MOST_MASKS,
    MOST_POSES,
    PictureFound,
    PictureTruth,
    best_first,
)

SIZE = (480, 640)
IOU_TYPES = {"box": "bbox", "mask": "segm", "keypoints": "keypoints"}


def make_pictures(
    pictures: int, people: int, found: int, seed: int
) -> list[tuple[PictureTruth, PictureFound]]:
    """Truth, and findings of which the first ones are shaken truth and the rest stray."""
    rng = np.random.default_rng(seed)
    return [_picture(rng, int(rng.integers(1, 2 * people)), found) for _ in range(pictures)]


def _picture(
    rng: np.random.Generator, people: int, found: int
) -> tuple[PictureTruth, PictureFound]:
    boxes = _boxes(rng, people)
    source = rng.integers(0, people, found // 3)
    near = boxes[source] + rng.normal(0, 4, (found // 3, 4))
    near[:, 2:] = near[:, 2:].clip(2)
    found_boxes = np.concatenate([near, _boxes(rng, found - len(near))])
    scores = np.concatenate(
        [rng.uniform(0.2, 1, len(near)), rng.uniform(0, 0.6, found - len(near))]
    )
    joints = _joints(rng, boxes)
    shaken = joints[source] + rng.normal(0, 3, (len(near), 51))
    found_joints = np.concatenate([shaken, _joints(rng, found_boxes[len(near) :])])
    ages = rng.integers(1, 80, people).astype(float)
    poses, masks = best_first(scores)[:MOST_POSES], np.sort(best_first(scores)[:MOST_MASKS])
    truth = PictureTruth(
        size=SIZE,
        boxes=boxes,
        ignore=rng.random(people) < 0.02,
        areas=boxes[:, 2] * boxes[:, 3] * 0.785,
        segments=[_ellipse(box) for box in boxes],
        joints=joints,
        num_joints=np.full(people, 17),
        gender=rng.integers(0, 2, people).astype(float),
        age=np.stack([ages, ages], 1),
    )
    return truth, PictureFound(
        scores=scores,
        boxes=found_boxes,
        segments=[_ellipse(found_boxes[i]) for i in masks],
        segment_scores=scores[masks],
        poses=poses,
        joints=found_joints[poses],
        pose_scores=scores[poses],
        gender=rng.random(found),
        age=rng.uniform(1, 80, found),
    )


def _boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.concatenate(
        [rng.uniform([0, 0], [480, 320], (n, 2)), rng.uniform(15, 160, (n, 2))], 1
    )


def _joints(rng: np.random.Generator, boxes: np.ndarray) -> np.ndarray:
    points = boxes[:, None, :2] + rng.uniform(0, 1, (len(boxes), 17, 2)) * boxes[:, None, 2:]
    return np.concatenate([points, np.full((len(boxes), 17, 1), 2.0)], -1).reshape(len(boxes), 51)


def _ellipse(box: np.ndarray) -> dict:
    x, y, w, h = box
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = (
        np.stack([x + w / 2 + np.cos(angle) * w / 2, y + h / 2 + np.sin(angle) * h / 2], 1)
        .ravel()
        .tolist()
    )
    rle = mask_api.frPyObjects([ring], *SIZE)[0]
    return {"size": list(SIZE), "counts": rle["counts"].decode()}


def coco_dicts(
    pairs: list[tuple[PictureTruth, PictureFound]], family: str
) -> tuple[dict, list[dict]]:
    """The same for pycocotools."""
    people, results = [], []
    for i, (truth, found) in enumerate(pairs):
        for j in range(len(truth)):
            people.append(
                {
                    "id": len(people) + 1,
                    "image_id": i + 1,
                    "category_id": 1,
                    "bbox": truth.boxes[j].tolist(),
                    "area": float(truth.areas[j]),
                    "iscrowd": int(truth.ignore[j]),
                    "segmentation": truth.segments[j],
                    "keypoints": truth.joints[j].tolist(),
                    "num_keypoints": 17,
                }
            )
        row = {"image_id": i + 1, "category_id": 1}
        if family == "mask":
            rows = zip(found.segments, found.segment_scores.tolist(), strict=True)
            results += [
                row | {"segmentation": dict(segment), "score": score} for segment, score in rows
            ]
        elif family == "box":
            rows = zip(found.boxes.tolist(), found.scores.tolist(), strict=True)
            results += [row | {"bbox": box, "score": score} for box, score in rows]
        else:
            for p, joints in zip(found.poses, found.joints.tolist(), strict=True):
                score, box = float(found.scores[p]), found.boxes[p].tolist()
                results.append(row | {"bbox": box, "keypoints": joints, "score": score})
    images = [{"id": i + 1, "height": SIZE[0], "width": SIZE[1]} for i in range(len(pairs))]
    return {
        "images": images,
        "annotations": people,
        "categories": [{"id": 1, "name": "person"}],
    }, results


def time_pycocotools(pairs, family: str) -> tuple[float, float]:
    """Seconds from dicts in memory to numbers, and AP."""
    truth, results = coco_dicts(pairs, family)
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        true = COCO()
        true.dataset = truth
        true.createIndex()
        judge = COCOeval(true, true.loadRes(results), IOU_TYPES[family])
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return time.perf_counter() - start, float(judge.stats[0])


def time_ours(pairs, family: str) -> tuple[float, float]:
    """Seconds from pictures in memory to numbers, and AP."""
    evaluator = CocoEvaluator(COCO17)
    for i, (truth, found) in enumerate(pairs):
        evaluator.add_picture(i + 1, truth, found)
    start = time.perf_counter()
    if family in ("gender", "age"):
        scores = {"gender": attributes.gender_ap, "age": attributes.age_ap}[family](pairs)
    else:
        scores = evaluator.family_scores(family)
    return time.perf_counter() - start, scores.ap


def run(pictures: int, people: int, found: int, seed: int) -> dict:
    pairs = make_pictures(pictures, people, found, seed)
    rows = {}
    for family in ("box", "mask", "keypoints", "gender", "age"):
        seconds, ap = time_ours(pairs, family)
        rows[family] = {"seconds": seconds, "ap": ap}
        if family in IOU_TYPES:
            theirs, their_ap = time_pycocotools(pairs, family)
            rows[family] |= {
                "pycocotools_seconds": theirs,
                "ratio": theirs / seconds,
                "equal": ap == their_ap,
            }
    return {"families": rows, "engine": ENGINE}


def table(result: dict) -> str:
    lines = [f"{'':<10}{'ours s':>10}{'pycocotools s':>16}{'ratio':>8}{'AP':>8}  same AP"]
    for family, row in result["families"].items():
        theirs = (
            f"{row['pycocotools_seconds']:>16.2f}{row['ratio']:>7.1f}x"
            if "ratio" in row
            else f"{'-':>16}{'-':>8}"
        )
        same = {True: "yes", False: "NO"}.get(row.get("equal"), "-")
        lines.append(f"{family:<10}{row['seconds']:>10.3f}{theirs}{row['ap'] * 100:>8.2f}  {same}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--people", type=int, default=5, help="mean true people per picture")
    parser.add_argument("--found", type=int, default=60, help="found people per picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = run(options.pictures, options.people, options.found, options.seed)
    print(table(result))
    save(options.out, options, **result)


if __name__ == "__main__":
    main()
