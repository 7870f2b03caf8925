"""Made-up people who walk."""

import torch

from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17

SIZE = (480, 640)


def walkers(
    centers: list[tuple[float, float]],
    looks: list[int],
    scores: list[float] | None = None,
    **fields,
) -> Persons:
    """People of 40 × 100 px at these centres; equal `looks` have equal queries (of eight numbers),
    others orthogonal ones."""
    middles = torch.tensor(centers, dtype=torch.float32).reshape(-1, 2)
    half = torch.tensor([20.0, 50.0])
    joints = middles[:, None] + torch.linspace(-0.9, 0.9, 17)[None, :, None] * half
    given = {
        "boxes": torch.cat([middles - half, middles + half], 1),
        "scores": torch.tensor([0.9] * len(centers) if scores is None else scores),
        "keypoints": joints,
        "keypoint_scores": torch.ones(len(centers), 17),
        "embeddings": torch.eye(8)[looks] * 3 if looks else torch.zeros(0, 8),
        "gender": torch.full((len(centers),), 0.5),
        "age": torch.full((len(centers),), 30.0),
    }
    return Persons(image_size=SIZE, skeleton=COCO17, **(given | fields))


def ids(persons: Persons) -> list[int]:
    return persons.track_ids.tolist()
