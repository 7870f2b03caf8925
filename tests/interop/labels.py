"""A small data set that uses everything a label file can say."""

import json
from pathlib import Path

import torch

from humanquery.core.masks import bitmap_to_rle
from humanquery.core.skeleton import COCO17
from humanquery.data.readers.coco_writer import category_of
from tests.data.coco_files import write_file

SIZE = (48, 64)


def ring_mask() -> torch.Tensor:
    """Two parts, one with a hole."""
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[4:14, 6:20], mask[7:10, 9:12], mask[20:24, 8:11] = True, False, True
    return mask


def write_truth(folder: Path, **changes) -> Path:
    """Two pictures: two people (polygon and run lengths) and a crowd in the first, nobody in the
    second."""
    flat = [0.0] * 51
    flat[:6] = [12.5, 8.25, 2, 14, 9, 1]
    first = {"bbox": [10, 5, 20, 30], "segmentation": [[10, 5, 30, 5, 30, 35, 10, 35]]}
    first |= {"area": 600, "keypoints": flat, "num_keypoints": 2, "gender": 1, "age": 34}
    second = {"bbox": [6, 4, 14, 20], "segmentation": bitmap_to_rle(ring_mask()), "area": 143}
    crowd = {"bbox": [40, 20, 20, 20], "iscrowd": 1, "area": 400}
    people = [
        {"iscrowd": 0, **person, "id": i, "image_id": 1, "category_id": 1, "track_id": 10 + i}
        for i, person in enumerate((first, second, crowd), 1)
    ]
    changed = [person | changes for person in people]
    return Path(write_file(folder, changed, pictures=2, categories=[category_of(COCO17)]))


def people_of(path: Path) -> list[dict]:
    """The people of a COCO file, without crowds, in order."""
    return [p for p in json.loads(path.read_text())["annotations"] if not p.get("iscrowd")]
