"""The heads of the pixel-wise pose regressor: all branches side by side against a loop over 17
branches; and what a prediction and a training step cost.

    python -m benchmarks.pixelwise --rounds 3 --out pixelwise.json

The loop is what one would write first: a 1×1 convolution, two convolutions and nine `grid_sample`s
for each keypoint, and the samples of the instance feature concatenated. Both have the same
weights, and what they say is compared before. Both in turns within each round, one thread, CPU time
(wall time on a GPU); medians of the times and of the rounds' ratios. Each cost is measured in a
process of its own, whose peak of memory is then that of the step; `--part` names one to be measured
here.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.results import save
from humanquery.backbones import TimmBackbone
from humanquery.core.batch import Batch, Meta
from humanquery.core.rows import Labelled
from humanquery.core.skeleton import COCO17
from humanquery.core.target import Target
from humanquery.models.pixelwise.config import (
    InstanceBranchConfig,
    KeypointBranchConfig,
    PixelWiseConfig,
)
from humanquery.models.pixelwise.network import InstanceBranch, KeypointBranches
from humanquery.models.pixelwise.system import PixelWise

JOINTS, FEATURES = 17, 480


class LoopedHeads(nn.Module):
    """The same heads, keypoint by keypoint, sample by sample."""

    def __init__(self, pose: KeypointBranches, instance: InstanceBranch):
        super().__init__()
        self.pose, self.instance = pose, instance

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        pose, c = self.pose, self.pose.config.channels
        convolution, norm = pose.reduce[0], pose.reduce[1]
        keypoints, queries = [], []
        for i in range(JOINTS):
            own = slice(i * c, (i + 1) * c)
            features = F.conv2d(maps, convolution.weight[own])
            features = F.batch_norm(
                features, None, None, norm.weight[own], norm.bias[own], True
            ).relu()
            weight, bias = pose.locate.weight.chunk(JOINTS)[i], pose.locate.bias.chunk(JOINTS)[i]
            located = F.conv2d(features, weight, bias, padding=1)
            query, spread = located[:, :2], located[:, 2:].split(2, 1)
            summed = sum(sampled(features, query + step) for step in spread)
            weight, bias = pose.regress.weight.chunk(JOINTS)[i], pose.regress.bias.chunk(JOINTS)[i]
            keypoints.append(query + F.conv2d(summed, weight, bias, padding=1))
            queries.append(query)
        instance = self.instance.reduce(maps)
        joined = torch.cat([sampled(instance, query) for query in queries], 1)
        weight = self.instance.project.weight.flatten()[None, :, None, None]
        return torch.stack(keypoints, 1), F.conv2d(joined, weight, self.instance.bias)[:, 0]


class BatchedHeads(LoopedHeads):
    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        pose = self.pose(maps)
        return pose.keypoints.permute(0, 3, 4, 1, 2), self.instance(maps, pose).score_logit


def sampled(maps: Tensor, displacements: Tensor) -> Tensor:
    """Bilinear values of b c h w at every cell plus its displacement, b 2 h w."""
    height, width = maps.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=maps.device),
        torch.arange(width, device=maps.device),
        indexing="ij",
    )
    at = torch.stack([x, y], -1) + displacements.permute(0, 2, 3, 1)
    grid = 2 * (at + 0.5) / torch.tensor([width, height], device=maps.device) - 1
    return F.grid_sample(maps, grid, align_corners=False)


def heads(device: str) -> tuple[BatchedHeads, LoopedHeads]:
    torch.manual_seed(0)
    pose = KeypointBranches(FEATURES, JOINTS, KeypointBranchConfig())
    instance = InstanceBranch(FEATURES, JOINTS, 9, InstanceBranchConfig())
    for reader in (pose.locate, pose.regress):
        nn.init.normal_(reader.weight, std=0.05)
    batched, looped = BatchedHeads(pose, instance), LoopedHeads(pose, instance)
    return (
        batched.to(device, memory_format=torch.channels_last),
        looped.to(device),
    )


def timed(device: str, work) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def compare(side: int, rounds: int, device: str) -> dict[str, dict[str, float]]:
    """Seconds of both and the ratio, without and with gradients, for a picture of `side` px."""
    batched, looped = heads(device)
    maps = torch.randn(1, FEATURES, side // 4, side // 4, device=device)
    last = maps.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        for one, other in zip(batched(last), looped(maps), strict=True):
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)

    def predict(heads: nn.Module, maps: Tensor) -> None:
        with torch.no_grad():
            heads(maps)

    def learn(heads: nn.Module, maps: Tensor) -> None:
        keypoints, score = heads(maps.detach().requires_grad_())
        (keypoints.square().mean() + score.square().mean()).backward()

    found = {}
    for name, work in (("predict", predict), ("learn", learn)):
        times: dict[str, list[float]] = {"batched": [], "looped": []}
        for turn in range(rounds + 1):  # the first one warms up
            pairs = [("batched", batched, last), ("looped", looped, maps)][:: 1 if turn % 2 else -1]
            for kind, module, given in pairs:
                seconds = timed(device, lambda m=module, g=given, w=work: w(m, g))
                if turn:
                    times[kind].append(seconds)
        ratios = [a / b for a, b in zip(times["looped"], times["batched"], strict=True)]
        found[name] = {kind: statistics.median(t) for kind, t in times.items()}
        found[name]["ratio"] = statistics.median(ratios)
    return found


def cost(part: str, side: int, device: str) -> dict[str, float]:
    """Seconds and peak memory (MB) of one picture of `side` px: a prediction or a training step of
    HRNet-W32, after one that warms up."""
    torch.manual_seed(0)
    backbone = TimmBackbone(
        "hrnet_w32", frozen_stages=0, frozen_norm=False, options={"feature_location": ""}
    )
    model = PixelWise(PixelWiseConfig(backbone=backbone))
    model.to(device, memory_format=torch.channels_last)
    batch = Batch(
        torch.rand(1, 3, side, side),
        torch.zeros(1, side, side, dtype=torch.bool),
        [Meta((side, side), (side, side))],
        [made_up_person(side)],
    ).to(device)
    batch = batch.contiguous(torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)

    def work() -> None:
        if part == "predict":
            model.predict(batch)
            return
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()

    model.train(part == "learn")
    work()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(device, work)
    unit = 1 if platform.system() == "Darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    peak = peak if device == "cpu" else torch.cuda.max_memory_allocated()
    return {"seconds": seconds, "peak_mb": peak / 1e6}


def made_up_person(side: int) -> Target:
    joints = side / 2 + torch.linspace(-side / 6, side / 6, JOINTS)[None, :, None].expand(-1, -1, 2)
    return Target(
        image_size=(side, side),
        boxes=torch.tensor([[side / 3, side / 3, side * 2 / 3, side * 2 / 3]]),
        ignore=torch.tensor([False]),
        areas=torch.tensor([side * side / 18]),
        keypoints=Labelled(joints.contiguous(), torch.tensor([True])),
        visibility=torch.full((1, JOINTS), 2),
        skeleton=COCO17,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=512, help="of a square picture, px")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--part", choices=("predict", "learn"), help="only this cost, as JSON")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.part:
        print(json.dumps(cost(given.part, given.side, given.device)))
        return
    found = compare(given.side, given.rounds, given.device)
    print(f"heads at {given.side} px, seconds")
    for name, row in found.items():
        print(
            f"{name:>8}: side by side {row['batched']:.3f}, in a loop {row['looped']:.3f} "
            f"({row['ratio']:.1f}x)"
        )
    save(given.out, given, heads=found)
    costs = {}
    for part in ("predict", "learn"):
        asked = ["--part", part, "--side", str(given.side), "--device", given.device]
        ran = subprocess.run(
            [sys.executable, "-m", "benchmarks.pixelwise", *asked, "--threads", str(given.threads)],
            capture_output=True,
            text=True,
            check=True,
        )
        costs[part] = json.loads(ran.stdout.splitlines()[-1])
        print(
            f"{part:>8}: HRNet-W32, one picture: {costs[part]['seconds']:.2f} s, peak "
            f"{costs[part]['peak_mb']:.0f} MB"
        )
        save(given.out, given, heads=found, costs=costs)


if __name__ == "__main__":
    main()
