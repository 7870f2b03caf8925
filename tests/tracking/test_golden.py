"""A crowd that walks, is overlooked, and is seen double: the ids are those that they were when this
was written, so that a change meant only for speed or order shows where it changes more."""

import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17
from humanquery.tracking import SmoothConfig, TrackBook, TrackConfig
from humanquery.tracking.identity import IdentityEvidence

HEIGHT, WIDTH, FRAMES, PEOPLE = 480.0, 640.0, 80, 12


def crowd() -> Iterator[Persons]:
    """People between the walls of a room, in random order, each unseen in every tenth frame, some
    with a double."""
    random = np.random.RandomState(5)  # its numbers are the same for ever
    start, speed = random.rand(PEOPLE, 2) * [WIDTH, HEIGHT], random.randn(PEOPLE, 2) * 4
    sides = np.array([40.0, 100.0]) * (0.6 + random.rand(PEOPLE, 1))
    looks, pose = random.randn(PEOPLE, 64), random.rand(PEOPLE, 17, 2)
    for t in range(FRAMES):
        walls = np.array([WIDTH, HEIGHT])
        center = walls - np.abs(walls - (start + speed * t) % (2 * walls))
        boxes = (
            np.concatenate([center - sides / 2, center + sides / 2], 1)
            + random.randn(PEOPLE, 4) * 2
        )
        joints = (
            (center - sides / 2)[:, None] + pose * sides[:, None] + random.randn(PEOPLE, 17, 2) * 2
        )
        seen = random.permutation(np.flatnonzero(random.rand(PEOPLE) > 0.1))
        seen = np.concatenate([seen, seen[: random.randint(3)]])  # doubles
        n = len(seen)
        yield Persons(
            image_size=(int(HEIGHT), int(WIDTH)),
            boxes=torch.from_numpy(boxes[seen] + random.randn(n, 4) * 2).float(),
            scores=torch.from_numpy(0.3 + 0.7 * random.rand(n)).float(),
            keypoints=torch.from_numpy(joints[seen]).float(),
            keypoint_scores=torch.from_numpy(random.rand(n, 17) - 0.05).float(),
            embeddings=torch.from_numpy(looks[seen] + 0.6 * random.randn(n, 64)).float(),
            gender=torch.from_numpy(random.rand(n)).float(),
            age=torch.from_numpy(random.rand(n) * 60).float(),
            skeleton=COCO17,
        )


CONFIGS = {
    "query": TrackConfig(),
    "motion only": TrackConfig(appearance=False),
    "smoothed": TrackConfig(smooth=SmoothConfig()),
    "tolerant, soon forgotten": TrackConfig(
        identity=IdentityEvidence(6.0), patience=8, confirm_hits=2
    ),
}
GOLDEN = {
    "query": (3258639310, 814, 23),
    "motion only": (2164417145, 814, 23),
    "smoothed": (1469276533, 812, 24),
    "tolerant, soon forgotten": (2956315268, 835, 18),
}
"""check sum of the ids of all frames, how many they are, and the largest"""


@pytest.mark.parametrize("name", CONFIGS)
def test_ids_are_what_they_were(name):
    book = TrackBook(CONFIGS[name])
    given = [book.update(people).track_ids.tolist() for people in crowd()]
    assert (zlib.crc32(repr(given).encode()), sum(map(len, given)), max(map(max, given))) == GOLDEN[
        name
    ]
