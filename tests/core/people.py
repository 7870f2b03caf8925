"""Small pictures of people for the tests of this folder."""

import torch

from humanquery.core.persons import Persons
from humanquery.core.rows import Labelled
from humanquery.core.skeleton import COCO17
from humanquery.core.target import Target

SIZE = (20, 30)


def three_persons(seed: int = 0) -> Persons:
    """Every field filled; sizes that float32 holds exactly, so that mirroring twice is exact."""
    draw = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 10, (3, 2), generator=draw).float()
    masks = torch.zeros(3, *SIZE, dtype=torch.bool)
    for i, (x, y) in enumerate(corners.int().tolist()):
        masks[i, y : y + 6, x : x + 9] = True
    return Persons(
        image_size=SIZE,
        boxes=torch.cat([corners, corners + torch.tensor([9.0, 6.0])], 1),
        scores=torch.tensor([0.9, 0.5, 0.25]),
        masks=masks,
        mask_scores=torch.tensor([0.8, 0.4, 0.2]),
        keypoints=torch.randint(0, 20, (3, 17, 2), generator=draw).float() + 0.5,
        keypoint_scores=torch.rand(3, 17, generator=draw),
        gender=torch.tensor([0.0, 0.5, 1.0]),
        age=torch.tensor([3.0, 30.0, 84.0]),
        face_boxes=torch.cat([corners, corners + 2], 1),
        embeddings=torch.rand(3, 4, generator=draw),
        track_ids=torch.tensor([7, 8, 9]),
        skeleton=COCO17,
    )


def three_targets() -> Target:
    people = three_persons()
    valid = torch.tensor([True, False, True])
    return Target(
        image_size=SIZE,
        boxes=people.boxes,
        ignore=torch.tensor([False, False, True]),
        areas=torch.tensor([54.0, 54.0, 54.0]),
        keypoints=Labelled(people.keypoints, valid),
        visibility=(torch.arange(51) % 3).reshape(3, 17),
        masks=Labelled(people.masks, valid),
        gender=Labelled(torch.tensor([1.0, 0.0, 0.0]), valid),
        age=Labelled(torch.tensor([[20.0, 30.0], [0.0, 0.0], [5.0, 5.0]]), valid),
        face_boxes=Labelled(people.face_boxes, valid),
        track_ids=people.track_ids,
        annotation_ids=torch.tensor([1, 2, 3]),
        skeleton=COCO17,
    )


def assert_same(a, b):
    """Two `Persons` or `Target` hold the same numbers in the same fields."""
    assert [(n, k) for n, k, _ in a.filled()] == [(n, k) for n, k, _ in b.filled()]
    assert a.image_size == b.image_size and a.skeleton == b.skeleton
    for (name, _, one), (_, _, other) in zip(a.filled(), b.filled(), strict=True):
        pairs = [(one, other)]
        if isinstance(one, Labelled):
            pairs = [(one.value, other.value), (one.valid, other.valid)]
        for x, y in pairs:
            torch.testing.assert_close(x, y, rtol=0, atol=0, msg=lambda m, n=name: f"{n}: {m}")
