"""Strided depthwise convolutions on the CPU: forward with backward in bf16, PyTorch's against
`StridedDepthwise`.

    python -m benchmarks.depthwise --rounds 9 --out depthwise.json

The maps are those of MobileNetV2 with batches of 32 people's views. One thread, CPU time, both in
turns within each round; medians of the times and of the rounds' ratios. Gradients of both are
compared before.
"""

import argparse
import copy
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.results import save
from humanquery.ops.depthwise import use_fast_depthwise

SHAPES = (
    (32, 144, 40, 24),
    (32, 192, 20, 12),
    (32, 192, 16, 16),
    (32, 576, 10, 6),
    (32, 576, 8, 8),
)


def gradients(convolution: nn.Conv2d, maps: Tensor, slope: Tensor) -> tuple[Tensor, ...]:
    with torch.autocast("cpu", torch.bfloat16):
        out = convolution(maps)
    return torch.autograd.grad(out, (maps, convolution.weight), slope)


def measure(shape: tuple[int, ...], rounds: int) -> dict[str, float]:
    torch.manual_seed(0)
    plain = nn.Conv2d(shape[1], shape[1], 3, 2, 1, groups=shape[1], bias=False)
    quick = copy.deepcopy(plain)
    use_fast_depthwise(quick)
    maps = (
        torch.randn(shape).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    )
    slope = (
        torch.randn_like(plain(maps.float()))
        .bfloat16()
        .contiguous(memory_format=torch.channels_last)
    )
    for one, other in zip(
        gradients(plain, maps, slope), gradients(quick, maps, slope), strict=True
    ):
        torch.testing.assert_close(one, other, atol=0.1, rtol=0.05)
    times: dict[str, list[float]] = {"plain": [], "quick": []}
    for turn in range(rounds):
        pairs = [("plain", plain), ("quick", quick)]
        for name, convolution in pairs[:: 1 if turn % 2 else -1]:
            start = time.process_time()
            gradients(convolution, maps, slope)
            times[name].append(time.process_time() - start)
    ratios = [slow / fast for slow, fast in zip(times["plain"], times["quick"], strict=True)]
    return {name: statistics.median(t) for name, t in times.items()} | {
        "ratio": statistics.median(ratios)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'maps':>20}{'PyTorch':>12}{'ours':>10}  ms of CPU (times as fast)")
    results = {}
    for shape in SHAPES:
        name = " x ".join(map(str, shape))
        results[name] = found = measure(shape, given.rounds)
        print(
            f"{name:>20}{found['plain'] * 1e3:>12.1f}{found['quick'] * 1e3:>10.1f}  "
            f"({found['ratio']:.1f}x)"
        )
    save(given.out, given, seconds=results)


if __name__ == "__main__":
    main()
