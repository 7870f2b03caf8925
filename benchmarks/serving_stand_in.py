"""A service around something that only looks like a model: it waits and finds two people. What
`benchmarks.serving --stand-in` measures is then the service alone.

    python -m benchmarks.serving_stand_in 8000 0.02      port, seconds per picture
"""

import sys
import time

import torch

from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17
from humanquery.core.system import Ask
from humanquery.predict.base import BasePredictor, Picture
from humanquery.serve.config import ServiceConfig
from humanquery.serve.run import run


class Waits(BasePredictor):
    """Two people per picture after `seconds`."""

    def __init__(self, seconds: float | int):
        self.seconds = seconds
        self.outputs = {name: Persons.specs()[name] for name in ("masks", "keypoints")}
        self.card = {"name": "stand-in"}

    def _persons(self, pictures: list[Picture], ask: Ask) -> list[Persons]:
        time.sleep(self.seconds * len(pictures))
        return [_two(picture.shape[:2]) for picture in pictures]


def _two(size: tuple[int, int]) -> Persons:
    height, width = size
    boxes = torch.tensor([[0.0, 0.0, width / 2, height], [width / 2, 0.0, width, height]])
    middles = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    return Persons(
        image_size=size,
        boxes=boxes,
        scores=torch.tensor([0.9, 0.8]),
        skeleton=COCO17,
        keypoints=middles.expand(2, len(COCO17), 2).contiguous(),
        keypoint_scores=torch.full((2, len(COCO17)), 0.8),
    )


if __name__ == "__main__":
    run(Waits(float(sys.argv[2])), ServiceConfig(), port=int(sys.argv[1]))
