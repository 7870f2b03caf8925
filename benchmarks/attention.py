"""Deformable attention: the providers against `grid_sample`, in one run.

    python -m benchmarks.attention --repeats 5 --out attention.json
    python -m benchmarks.attention --device cuda --repeats 50 --rivals FOLDER

FOLDER holds the packages msda_triton, libreyolo or both.

Repetitions of the providers alternate, after calls that are not counted; numbers are medians.
`local` cases look around each query's own cell with a spread of four cells, as a trained encoder
does; the others look anywhere, which is harder on caches.
"""

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.results import save
from humanquery.ops import native
from humanquery.ops.deformable import PROVIDERS

Shapes = tuple[tuple[int, int], ...]
WHOLE = ((100, 167), (50, 84), (25, 42), (13, 21))  # 800 × 1333 at strides 8 to 64
POINTS = 4
DETERMINISTIC = "triton, deterministic"


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
    "decoder, 300 queries, bf16": Case(queries=300, dtype=torch.bfloat16),
    "encoder of 160x160, batch 8": Case(((20, 20), (10, 10), (5, 5)), batch=8, d=16, local=True),
}


def inputs(case: Case, device: str = "cpu") -> tuple[Tensor, Shapes, Tensor, Tensor]:
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
    value, places, weights = (x.to(device).requires_grad_() for x in (value, places, weights))
    return value, case.shapes, places, weights


def cell_centres(shapes: Shapes) -> Tensor:
    """cells × 2, 0..1."""
    levels = []
    for h, w in shapes:
        y, x = torch.meshgrid(
            (torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij"
        )
        levels.append(torch.stack([x, y], -1).flatten(0, 1))
    return torch.cat(levels)


def rivals(folder: Path) -> dict[str, Callable]:
    """The kernels of others that are in a folder, behind our signature; msda_triton knows no 16
    bits, LibreYOLO no backward."""
    sys.path.append(str(folder))
    found: dict[str, Callable] = {}
    if importlib.util.find_spec("msda_triton"):
        from msda_triton.autograd_function import triton_multiscale_deformable_attention as msda

        found["msda_triton"] = lambda v, shapes, at, w: msda(
            v, sides(shapes, v), at, w, "zeros", False
        ).flatten(2)
    if importlib.util.find_spec("libreyolo"):
        from libreyolo.kernels.attention.ms_deform_attn_triton import (
            triton_ms_deform_attn as libreyolo,
        )

        found["libreyolo"] = lambda v, shapes, at, w: libreyolo(v, sides(shapes, v), at, w)
    return found


def sides(shapes: Shapes, value: Tensor) -> Tensor:
    return torch.tensor(shapes, device=value.device)


def contenders(device: str, folder: Path | None) -> dict[str, Callable]:
    """What runs on a device, by name; "deterministic" is asked of torch while it runs."""
    if device == "cpu":
        return {
            name: run
            for name, run in PROVIDERS.items()
            if name != "triton" and (name != "native" or not native.missing())
        }
    found = {name: run for name, run in PROVIDERS.items() if name != "native"}
    return found | {DETERMINISTIC: PROVIDERS["triton"]} | (rivals(folder) if folder else {})


def measure(
    case: Case, repeats: int, device: str = "cpu", folder: Path | None = None
) -> dict[str, dict[str, float]]:
    """Median seconds of `forward`, and of forward with backward (`both`), alternating; who
    cannot do something lacks it."""
    given = inputs(case, device)
    runs = contenders(device, folder)
    slope = PROVIDERS["gather"](*given).detach()
    leaves = [given[0], *given[2:]]

    def forward(run: Callable) -> None:
        with torch.no_grad():
            run(*given)

    def both(run: Callable) -> None:
        torch.autograd.grad(run(*given), leaves, slope)

    plan = [
        (name, kind, what) for name in runs for kind, what in (("forward", forward), ("both", both))
    ]
    plan = [step for step in plan if able(*step, runs, given, slope)]
    times: dict[str, dict[str, list[float]]] = {}
    for _ in range(repeats):
        for name, kind, what in plan:
            torch.use_deterministic_algorithms(name == DETERMINISTIC)
            took = seconds(lambda run=runs[name], what=what: what(run), device)
            times.setdefault(name, {}).setdefault(kind, []).append(took)
    torch.use_deterministic_algorithms(False)
    return {
        name: {kind: statistics.median(t) for kind, t in kinds.items()}
        for name, kinds in times.items()
    }


def able(
    name: str, kind: str, what: Callable, runs: dict[str, Callable], given: tuple, truth: Tensor
) -> bool:
    """Whether a contender can do a pass and gives what `gather` gives; a first call, which
    compiles, is not counted either."""
    try:
        what(runs[name])
        with torch.no_grad():
            torch.testing.assert_close(runs[name](*given), truth, atol=2e-2, rtol=2e-2)
    except Exception as error:
        if name in PROVIDERS:
            raise
        print(f"{name} has no {kind} here: {' '.join(str(error).split())[:200]}")
        return False
    return True


def seconds(run: Callable[[], object], device: str = "cpu") -> float:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of the CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--rivals", type=Path, help="folder that holds the packages of rivals on CUDA"
    )
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.device == "cuda":
        given.threads = given.threads[:1]
    elif native.missing():
        print(f"no native kernel: {native.missing()}")
    results: dict[str, dict[str, dict]] = {}
    for name in given.only:
        print(f"\n{name}\n{'threads':>9}{'pass':>10}  milliseconds (times as fast as grid_sample)")
        for threads in given.threads:
            torch.set_num_threads(threads)
            found = measure(CASES[name], given.repeats, given.device, given.rivals)
            results.setdefault(name, {})[str(threads)] = found
            for kind in ("forward", "both"):
                slow = found["reference"][kind]
                row_times = {who: t[kind] for who, t in found.items() if kind in t}
                row = "".join(
                    f"{who:>13} {t * 1000:.2f} ({slow / t:.1f}x)" for who, t in row_times.items()
                )
                print(f"{threads:>9}{kind:>10}{row}")
    save(
        given.out,
        given,
        capability=torch.backends.cpu.get_cpu_capability(),
        seconds=results,
    )


if __name__ == "__main__":
    main()
