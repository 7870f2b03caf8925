"""Who keeps identities best when the faults of the detector are known? Generated crowds, made-up
faults and queries.

    python -m benchmarks.tracking_crowds --seeds 1 2 3 4 --out crowds.json

True boxes and joints of generated clips (four to eight people, crossings, things in the way) with
noise; whoever is covered by somebody nearer is found less often, less surely, less exactly, and
with a query that is partly the other's; some people are found twice, and there are false alarms. A
model's own detections are the last word (`benchmarks.tracking_quality`), but few clips have a
truth, and here a change can be tried on thousands of frames for the price of painting them.
"""

import argparse
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.results import save
from benchmarks.tracking_quality import TRACKERS, Clip, compare, show, there
from humanquery.core.boxes import clip as clipped
from humanquery.core.boxes import iou
from humanquery.core.persons import Persons
from humanquery.core.target import Target
from humanquery.data.scenes.clips import GeneratedClips
from humanquery.data.scenes.clips import open as open_clips
from humanquery.tracking import TrackConfig

CROWDS = GeneratedClips(
    count=5,
    frames=120,
    split="test",
    size=(240, 320),
    people=(4, 8),
    height_fraction=(0.4, 0.75),
    occluders=(1, 3),
)
CONFIG = TrackConfig(birth_score=0.3, keep_score=0.15)
LENGTH = 64
"""of the queries"""
ALIKE = 1.2
"""what all people's queries share, against what each has of its own"""
BLUR = 0.35
"""noise of a query against its length"""
MISSED, DOUBLED, FALSE = 0.05, 0.05, 0.1
"""of people in the open not found; of found people found twice; of frames with a false alarm"""


def seen(truth: list[Target], seed: int) -> list[Persons]:
    """What a made-up detector finds in the frames of a clip."""
    random = torch.Generator().manual_seed(seed)
    shared = F.normalize(
        torch.randn(LENGTH, generator=torch.Generator().manual_seed(seed + 999)), dim=0
    )
    looks: dict[int, torch.Tensor] = {}
    return [_seen(target.people(), looks, shared, random) for target in truth]


def _seen(
    people: Target, looks: dict[int, torch.Tensor], shared: torch.Tensor, random: torch.Generator
) -> Persons:
    def even(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=random)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    n, size, boxes = len(people), people.image_size, people.boxes
    for name in people.track_ids.tolist():
        if name not in looks:
            looks[name] = F.normalize(F.normalize(normal(LENGTH), dim=0) + ALIKE * shared, dim=0)
    if not n:
        return _persons(
            people, boxes, torch.zeros(0), torch.zeros(0, LENGTH), torch.zeros(0, 17, 2)
        )
    own = torch.stack([looks[name] for name in people.track_ids.tolist()])
    nearer = boxes[None, :, 3] > boxes[:, None, 3]
    covered, by = (iou(boxes, boxes).fill_diagonal_(0) * nearer).max(1)
    queries = (
        own * (1 - covered)[:, None]
        + own[by] * covered[:, None]
        + BLUR * normal(n, LENGTH) / LENGTH**0.5
    )
    queries = F.normalize(queries, dim=1)
    kept = even(n) >= MISSED + 0.6 * (covered > 0.5) + 0.35 * (covered > 0.7)
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = boxes + (0.03 + 0.06 * covered)[:, None] * sides * normal(n, 4)
    scores = (0.5 + 0.5 * even(n)) * (1 - 0.6 * covered)
    reach = (0.02 + 0.04 * covered)[:, None, None] * sides[:, None, :2].amax(-1, keepdim=True)
    joints = people.keypoints.value + reach * normal(n, 17, 2)
    twice = (even(n) < DOUBLED) & kept
    found = [
        [moved[kept], (moved + 0.05 * sides * normal(n, 4))[twice]],
        [scores[kept], (scores * (0.5 + 0.5 * even(n)))[twice]],
        [
            queries[kept],
            F.normalize(queries + 0.5 * BLUR * normal(n, LENGTH) / LENGTH**0.5, dim=1)[twice],
        ],
        [joints[kept], (joints + 0.03 * sides[:, None, 2:3] * normal(n, 17, 2))[twice]],
    ]
    if even(1) < FALSE:
        corner = even(2) * torch.tensor(size[::-1])
        found[0].append(torch.cat([corner, corner + sides[0, :2]])[None])
        found[1].append(0.2 + 0.4 * even(1))
        found[2].append(F.normalize(shared + normal(LENGTH) / LENGTH**0.5, dim=0)[None])
        found[3].append(corner + even(1, 17, 2) * sides[0, :2])
    return _persons(people, *(torch.cat(parts) for parts in found))


def _persons(
    people: Target,
    boxes: torch.Tensor,
    scores: torch.Tensor,
    queries: torch.Tensor,
    joints: torch.Tensor,
) -> Persons:
    """Surest first."""
    order, size = scores.argsort(descending=True), people.image_size
    return Persons(
        image_size=size,
        boxes=clipped(boxes, size)[order],
        scores=scores[order],
        embeddings=queries[order],
        keypoints=joints[order],
        keypoint_scores=torch.ones(len(order), 17),
        skeleton=people.skeleton,
    )


def crowds(seeds: list[int], config: GeneratedClips = CROWDS) -> list[Clip]:
    clips = []
    for seed in seeds:
        source = open_clips(replace(config, seed=seed))
        for i in range(len(source)):
            name, truth = f"walk {seed}-{i}", [scene.target for scene in source.scenes(i)]
            clips.append(Clip(name, truth, seen(truth, zlib.crc32(name.encode()) % 100000)))
    return clips


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--clips", type=int, default=CROWDS.count, help="of each seed")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    scores = compare(
        crowds(given.seeds, replace(CROWDS, count=given.clips)), CONFIG, there(TRACKERS)
    )
    print(show("made-up detections in generated crowds", scores))
    results = {
        name: {clip: asdict(one) for clip, one in by_clip.items()}
        for name, by_clip in scores.items()
    }
    save(given.out, given, results=results)


if __name__ == "__main__":
    main()
