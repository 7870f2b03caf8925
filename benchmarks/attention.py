"""Deformable attention on the CPU: the providers against `grid_sample`, in one run.

    python -m benchmarks.attention --repeats 5 --out attention.json

Repetitions of the providers alternate, numbers are medians. `local` cases look around each query's own cell with a spread
of four cells, as a trained encoder does; the others look anywhere, which is harder on caches.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from humanquery.engine.report import machine
from humanquery.ops import native
from humanquery.ops.deformable import PROVIDERS

Shapes = tuple[tuple[int, int], ...]
WHOLE = ((100, 167), (50, 84), (25, 42), (13, 21))  # 800 × 1333 at strides 8 to 64
POINTS = 4


@dataclass(frozen=True)
class Case:
    """Sizes of one measurement; `queries` 0: one per cell, as in an encoder."""

    shapes: Shapes = WHOLE
    queries: int = 0
    batch: int = 1
    heads: int = 8
    d: int = 32
    local: bool = False
    dtype: torch.dtype = torch.float32


CASES = {
    "encoder of 800x1333": Case(),
    "encoder of 800x1333, local": Case(local=True),
    "encoder of 800x1333, local, bf16": Case(local=True, dtype=torch.bfloat16),
    "decoder, 300 queries": Case(queries=300),
    "encoder of 160x160, batch 8": Case(((20, 20), (10, 10), (5, 5)), batch=8, d=16, local=True),
}


def inputs(case: Case) -> tuple[Tensor, Shapes, Tensor, Tensor]:
    """Made-up values, places and weights, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    cells = sum(h * w for h, w in case.shapes)
    q = case.queries or cells
    kind = (case.batch, q, case.heads, len(case.shapes), POINTS)
    value = torch.randn(case.batch, cells, case.heads, case.d, generator=generator).to(case.dtype)
    places = torch.rand(*kind, 2, generator=generator)
    if case.local:
        sizes = torch.tensor([[w, h] for h, w in case.shapes])[:, None]
        spread = torch.randn(*kind, 2, generator=generator) * 4 / sizes
        places = cell_centres(case.shapes)[:, None, None, None] + spread
    weights = torch.rand(kind, generator=generator).flatten(3).softmax(-1).view(kind)
    return value.requires_grad_(), case.shapes, places.requires_grad_(), weights.requires_grad_()


def cell_centres(shapes: Shapes) -> Tensor:
    """cells × 2, 0..1."""
    levels = []
    for h, w in shapes:
        y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
        levels.append(torch.stack([x, y], -1).flatten(0, 1))
    return torch.cat(levels)


def measure(case: Case, repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds of `forward`, and of forward with backward (`both`), alternating between the providers."""
    given = inputs(case)
    kernels = {"native": not native.missing(), "triton": False}
    names = [name for name in PROVIDERS if kernels.get(name, True)]
    times: dict[str, dict[str, list[float]]] = {name: {"forward": [], "both": []} for name in names}
    slope = PROVIDERS["gather"](*given).detach()
    leaves = [given[0], *given[2:]]

    def backward(out: Tensor) -> None:
        torch.autograd.grad(out, leaves, slope)

    for _ in range(repeats):
        for name in names:
            with torch.no_grad():
                times[name]["forward"].append(seconds(lambda run=PROVIDERS[name]: run(*given)))
            times[name]["both"].append(seconds(lambda run=PROVIDERS[name]: backward(run(*given))))
    return {name: {kind: statistics.median(t) for kind, t in kinds.items()} for name, kinds in times.items()}


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if native.missing():
        print(f"no native kernel: {native.missing()}")
    results: dict[str, dict[str, dict]] = {}
    for name in given.only:
        print(f"\n{name}\n{'threads':>9}{'pass':>10}  milliseconds (times as fast as grid_sample)")
        for threads in given.threads:
            torch.set_num_threads(threads)
            found = measure(CASES[name], given.repeats)
            results.setdefault(name, {})[str(threads)] = found
            for kind in ("forward", "both"):
                slow = found["reference"][kind]
                row = "".join(f"{p:>13} {t[kind] * 1000:.1f} ({slow / t[kind]:.1f}x)" for p, t in found.items())
                print(f"{threads:>9}{kind:>10}{row}")
    if given.out:
        settings = {"repeats": given.repeats, "capability": torch.backends.cpu.get_cpu_capability()}
        given.out.write_text(json.dumps({"machine": machine()} | {"settings": settings, "seconds": results}, indent=1))
        print(f"\nwritten: {given.out}")


if __name__ == "__main__":
    main()
