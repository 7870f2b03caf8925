"""Random truth with random findings near it, and the same as COCO dicts for pycocotools (converted
here anew)."""

import contextlib
import io

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from humanquery.core.masks import bitmap_to_rle
from humanquery.core.persons import Persons
from humanquery.core.rows import Labelled
from humanquery.core.skeleton import COCO17
from humanquery.core.target import Target
from humanquery.evaluation.people_report import AREAS

SIZE = (120, 160)
IOU_TYPES = {"box": "bbox", "mask": "segm", "keypoints": "keypoints"}


def fill_boxes(boxes: torch.Tensor, size=SIZE) -> torch.Tensor:
    """Ellipses inside boxes, as bitmaps."""
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    center, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    cx, cy = center[:, 0, None, None], center[:, 1, None, None]
    return ((x - cx) / half[:, 0, None, None]) ** 2 + ((y - cy) / half[:, 1, None, None]) ** 2 <= 1


def random_target(rng: np.random.Generator, people: int, crowds: int = 0) -> Target:
    n = people + crowds
    corner = torch.from_numpy(rng.uniform([0, 0], [110, 60], (n, 2))).float()
    sides = torch.from_numpy(rng.uniform(5, 60, (n, 2))).float()
    boxes = torch.cat([corner, (corner + sides).minimum(torch.tensor([160.0, 120.0]))], 1)
    masks = fill_boxes(boxes)
    points = (
        boxes[:, None, :2]
        + torch.from_numpy(rng.uniform(0, 1, (n, 17, 2))).float() * sides[:, None]
    )
    chance = lambda p: torch.from_numpy(rng.random(n) < p)  # noqa: E731
    ages = torch.from_numpy(rng.integers(1, 80, n)).float()
    ignore = torch.arange(n) >= people
    return Target(
        image_size=SIZE,
        boxes=boxes,
        ignore=ignore,
        areas=masks.sum((1, 2)).float(),
        skeleton=COCO17,
        keypoints=Labelled(points, chance(0.7) & ~ignore),
        visibility=torch.from_numpy(rng.integers(0, 3, (n, 17))),
        masks=Labelled(masks, chance(0.8)),
        gender=Labelled(torch.from_numpy(rng.integers(0, 2, n)).float(), chance(0.7) & ~ignore),
        age=Labelled(torch.stack([ages, ages + 5 * chance(0.3)], 1), chance(0.7) & ~ignore),
    )


def random_persons(
    rng: np.random.Generator, target: Target, false: int = 3, repeats: int = 2
) -> Persons:
    """Shaken truth, some of it repeated, and wrong ones; scores on a grid of tenths, so that ties
    are common."""
    source = torch.from_numpy(rng.integers(0, max(len(target), 1), len(target) * repeats)).long()
    stray = random_target(rng, false)
    boxes = torch.cat([target.boxes[source], stray.boxes])
    n = len(boxes)
    boxes = boxes + torch.from_numpy(rng.normal(0, 2, (n, 4)) * (rng.random((n, 1)) < 0.7)).float()
    points = torch.cat([target.keypoints.value[source], stray.keypoints.value])
    points = (
        points
        + torch.from_numpy(rng.normal(0, 1.5, (n, 17, 2)) * (rng.random((n, 1, 1)) < 0.8)).float()
    )
    return Persons(
        image_size=SIZE,
        boxes=boxes,
        scores=torch.from_numpy(rng.integers(1, 11, n) / 10).float(),
        skeleton=COCO17,
        masks=fill_boxes(boxes),
        mask_scores=torch.from_numpy(rng.integers(1, 6, n) / 10).float(),
        keypoints=points,
        gender=torch.from_numpy(rng.random(n)).float(),
        age=torch.from_numpy(rng.uniform(1, 80, n)).float(),
    )


def random_pairs(seed: int, pictures: int = 12) -> list[tuple[Target, Persons]]:
    """With empty truth, empty findings and both empty among them."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(pictures):
        target = random_target(
            rng, 0 if i % 5 == 4 else int(rng.integers(1, 6)), crowds=int(rng.integers(0, 2))
        )
        persons = random_persons(rng, target)
        pairs.append((target, Persons.empty(SIZE, COCO17) if i % 4 == 3 else persons))
    return pairs


def found_as_persons(target: Target) -> Persons:
    """The truth itself, given back as findings of score 0.9; without the ignore regions."""
    people = target.people()
    n = len(people)
    return Persons(
        image_size=people.image_size,
        boxes=people.boxes,
        scores=torch.full((n,), 0.9),
        skeleton=people.skeleton,
        masks=people.masks.value,
        mask_scores=torch.full((n,), 0.8),
        keypoints=people.keypoints.value,
        gender=people.gender.value,
        age=people.age.value.mean(-1),
    )


def complete(target: Target) -> Target:
    """Everybody labelled in everything, ages as one number."""
    n = len(target)
    everybody = torch.ones(n, dtype=torch.bool)
    fields = {
        name: Labelled(getattr(target, name).value, everybody)
        for name in ("keypoints", "masks", "gender")
    }
    years = target.age.value[:, :1].expand(n, 2)
    visibility = torch.full((n, 17), 2)
    return target.replace(**fields, age=Labelled(years, everybody), visibility=visibility)


def coco_dicts(pairs: list[tuple[Target, Persons]], family: str) -> tuple[dict, list[dict]]:
    """What a careful person would write by hand for pycocotools."""
    images = [{"id": i + 1, "height": SIZE[0], "width": SIZE[1]} for i in range(len(pairs))]
    people, results = [], []
    for i, (target, persons) in enumerate(pairs):
        for j in range(len(target)):
            x1, y1, x2, y2 = target.boxes[j].tolist()
            w, h = (target.boxes[j, 2:] - target.boxes[j, :2]).tolist()
            visibility = (target.visibility[j] * target.keypoints.valid[j]).tolist()
            points = (target.keypoints.value[j].double() - 0.5).tolist()
            drawn = bool(target.masks.valid[j])
            people.append(
                {
                    "id": len(people) + 1,
                    "image_id": i + 1,
                    "category_id": 1,
                    "bbox": [x1, y1, w, h],
                    "area": float(target.areas[j]),
                    "iscrowd": int(target.ignore[j] or (family == "mask" and not drawn)),
                    "keypoints": [
                        v for (x, y), s in zip(points, visibility, strict=True) for v in (x, y, s)
                    ],
                    "num_keypoints": sum(s > 0 for s in visibility),
                    "segmentation": bitmap_to_rle(target.masks.value[j])
                    if drawn
                    else [[x1, y1, x1 + w, y1, x1 + w, y1 + h, x1, y1 + h]],
                }
            )
        for j in range(len(persons)):
            w, h = (persons.boxes[j, 2:] - persons.boxes[j, :2]).tolist()
            row = {"image_id": i + 1, "category_id": 1, "score": float(persons.scores[j])}
            if family == "mask":
                row |= {
                    "score": float(persons.mask_scores[j]),
                    "segmentation": bitmap_to_rle(persons.masks[j]),
                }
            else:
                row["bbox"] = [*persons.boxes[j, :2].tolist(), w, h]
            if family == "keypoints":
                points = (persons.keypoints[j].double() - 0.5).tolist()
                row["keypoints"] = [v for x, y in points for v in (x, y, 1)]
            results.append(row)
    return {
        "images": images,
        "annotations": people,
        "categories": [{"id": 1, "name": "person"}],
    }, results


def pycoco_eval(truth: dict, results: list[dict], family: str, category_ids=None) -> COCOeval:
    """pycocotools with the area ranges of our reports."""
    names = [n for n in AREAS if not (family == "keypoints" and n == "small")]
    with contextlib.redirect_stdout(io.StringIO()):
        true = COCO()
        true.dataset = truth
        true.createIndex()
        judge = COCOeval(true, true.loadRes(results), IOU_TYPES[family])
        judge.params.areaRng, judge.params.areaRngLbl = [list(AREAS[n]) for n in names], names
        if category_ids is not None:
            judge.params.catIds = category_ids
        judge.evaluate()
        judge.accumulate()
    return judge


def pycoco_numbers(judge: COCOeval) -> dict[str, float | None]:
    """AP, AP50, AP75, AR per size, and AR per number of found people."""
    mean = lambda v: float(np.mean(v[v > -1])) if (v > -1).any() else None  # noqa: E731
    precision, recall = judge.eval["precision"], judge.eval["recall"]
    out = {}
    for a, name in enumerate(judge.params.areaRngLbl):
        p, r = precision[..., a, -1], recall[..., a, -1]
        out |= {
            f"{name}/ap": mean(p),
            f"{name}/ap50": mean(p[0]),
            f"{name}/ap75": mean(p[5]),
            f"{name}/ar": mean(r),
        }
    return out | {
        f"ar@{most}": mean(recall[..., 0, m]) for m, most in enumerate(judge.params.maxDets)
    }


def our_numbers(scores) -> dict[str, float | None]:
    out = {
        f"{n}/{field}": getattr(row, field)
        for n, row in scores.sizes.items()
        for field in ("ap", "ap50", "ap75", "ar")
    }
    return out | {f"ar@{most}": value for most, value in scores.ar_at.items()}
