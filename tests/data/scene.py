"""A small picture with three people and a crowd, every label present, for tests of geometry."""

import numpy as np
import torch

from humanquery.core.batch import Meta, Sample
from humanquery.core.rows import Labelled
from humanquery.core.skeleton import COCO17
from humanquery.core.target import Target


def scene(size=(96, 128), seed=0, image_id=1) -> Sample:
    rng = np.random.default_rng(seed)
    boxes = torch.tensor([[10.0, 12, 40, 90], [50, 20, 80, 70], [70, 8, 120, 92], [0, 0, 30, 20]])
    n = len(boxes)
    spread = torch.from_numpy(rng.uniform(0.05, 0.95, (n, 17, 2))).float()
    joints = boxes[:, None, :2] + spread * (boxes[:, None, 2:] - boxes[:, None, :2])
    visibility = torch.from_numpy(rng.integers(0, 3, (n, 17)))
    masks = torch.zeros(n, *size, dtype=torch.bool)
    for i, (x1, y1, x2, y2) in enumerate(boxes.long().tolist()):
        masks[i, y1:y2, x1:x2] = True
    people = torch.tensor([True, True, True, False])
    masks[3] = False
    target = Target(
        image_size=size,
        boxes=boxes,
        ignore=~people,
        areas=torch.tensor([2340.0, 1500, 4200, 600]),
        keypoints=Labelled(torch.where((visibility > 0)[..., None], joints, 0.0), people),
        visibility=visibility * people[:, None],
        skeleton=COCO17,
        masks=Labelled(masks, people),
        gender=Labelled(torch.tensor([0.0, 1, 0, 0]), torch.tensor([True, True, False, False])),
        age=Labelled(
            torch.tensor([[30.0, 30], [20, 40], [0, 0], [0, 0]]),
            torch.tensor([True, True, False, False]),
        ),
        face_boxes=Labelled((boxes * 0.5 + boxes[:, [0, 1, 0, 1]] * 0.5) * people[:, None], people),
        annotation_ids=torch.arange(n) + 10,
    )
    image = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
    return Sample(image, Meta(size, size, image_id=image_id), target)
