"""Deformable attention on the CPU: the providers against each other, in one run.

python -m benchmarks.attention [--out attention.json]
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from humanquery.engine.report import machine
from humanquery.ops.deformable import PROVIDERS

CASES = {
    "encoder of 800x1333": (1, 22223, ((100, 167), (50, 84), (25, 42), (13, 21)), 32),
    "decoder, 300 queries": (1, 300, ((100, 167), (50, 84), (25, 42), (13, 21)), 32),
    "encoder of 160x160, batch 8": (8, 525, ((20, 20), (10, 10), (5, 5)), 16),
}


def measure(b: int, q: int, shapes, d: int, repeats: int = 5) -> dict[str, dict[str, float]]:
    """Median seconds of forward, and of forward with backward, alternating between the providers."""
    s = sum(h * w for h, w in shapes)
    value = torch.randn(b, s, 8, d, requires_grad=True)
    places = torch.rand(b, q, 8, len(shapes), 4, 2, requires_grad=True)
    weights = torch.rand(b, q, 8, len(shapes), 4, requires_grad=True)
    times: dict[str, dict[str, list[float]]] = {name: {"forward": [], "both": []} for name in PROVIDERS}
    for _ in range(repeats):
        for name, run in PROVIDERS.items():
            start = time.perf_counter()
            with torch.no_grad():
                run(value, shapes, places, weights)
            times[name]["forward"].append(time.perf_counter() - start)
            start = time.perf_counter()
            run(value, shapes, places, weights).sum().backward()
            times[name]["both"].append(time.perf_counter() - start)
    return {name: {kind: statistics.median(t) for kind, t in kinds.items()} for name, kinds in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results = {name: measure(*case) for name, case in CASES.items()}
    print(f"{'case':30}{'pass':>10}" + "".join(f"{name:>12}" for name in PROVIDERS) + "   reference / gather")
    for name, found in results.items():
        for kind in ("forward", "both"):
            row = "".join(f"{found[p][kind] * 1000:10.1f}ms" for p in PROVIDERS)
            print(f"{name:30}{kind:>10}{row}{found['reference'][kind] / found['gather'][kind]:14.2f}x")
    if arguments.out:
        arguments.out.write_text(json.dumps({"machine": machine()} | {"seconds": results}, indent=1))


if __name__ == "__main__":
    main()
