"""Small COCO files for the tests of readers, loaders and writers."""

import json
from pathlib import Path

import numpy as np

from humanquery.media.images import write_image


def person(number: int = 1, image_id: int = 1, box=(10, 5, 20, 30), **more) -> dict:
    x, y, w, h = box
    joints = [0] * 51
    joints[:6] = [12, 8, 2, 13, 9, 1]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": list(box),
        "area": 0.5 * w * h,
        "keypoints": joints,
        "num_keypoints": 2,
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        **more,
    }


def write_file(folder: Path, people: list[dict], pictures: int = 1, size=(48, 64), **more) -> str:
    records = [
        {"id": i + 1, "file_name": f"{i + 1}.png", "height": size[0], "width": size[1]}
        for i in range(pictures)
    ]
    for record in records:
        image = np.random.default_rng(record["id"]).integers(0, 255, (*size, 3)).astype(np.uint8)
        write_image(folder / "images" / record["file_name"], image)
    content = {
        "images": records,
        "annotations": people,
        "categories": [{"id": 1, "name": "person"}],
        **more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "truth.json"
    path.write_text(json.dumps(content))
    return str(path)
