"""The Triton kernels: in Triton's interpreter anywhere, and on a GPU where there is one."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import torch

from humanquery.ops.deformable import PROVIDERS, reference
from tests.ops.test_deformable import DIMS, away_from_edges, case, graded
from tests.paths import ROOT

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no triton")


def compare(dtype: torch.dtype, **dims) -> None:
    """The kernels called by themselves, on the CPU."""
    from humanquery.ops import gpu

    value, shapes, locations, weights = case(**dims)
    locations, value = away_from_edges(locations, shapes), value.to(dtype)
    flat = [n for shape in shapes for n in shape]
    inputs = [x.double().requires_grad_() for x in (value, locations, weights)]
    wanted = reference(inputs[0], shapes, *inputs[1:])
    grad = torch.linspace(-1, 1, wanted.numel()).view_as(wanted).to(dtype)
    wanted.backward(grad.double())
    found = gpu.forward(value, flat, locations.float(), weights.float())
    grads = gpu.backward(grad, value, flat, locations.float(), weights.float())
    assert found.dtype == grads[0].dtype == dtype
    slack = 2e-5 if dtype == torch.float32 else 2e-2
    for ours, true in zip(
        (found, *grads), (wanted.detach(), *[x.grad for x in inputs]), strict=True
    ):
        torch.testing.assert_close(
            ours.double(), true, atol=slack * max(true.abs().max().item(), 1), rtol=slack
        )


def compare_all() -> None:
    for fixed in (False, True):
        torch.use_deterministic_algorithms(fixed)
        compare(torch.float32, q=3)
        compare(torch.bfloat16, q=3, d=16)
        compare(torch.float16, q=1, d=33, heads=1, points=3)


def order_matters(device: str) -> bool:
    """Whether the values' gradient changes by a bit where the queries come in another order."""
    from humanquery.ops import gpu

    value, shapes, locations, weights = (
        x.float().to(device) if isinstance(x, torch.Tensor) else x for x in case(q=20)
    )
    locations = locations / 4 + 0.3  # so that many samples meet in a cell
    flat = [n for shape in shapes for n in shape]
    grad = gpu.forward(value, flat, locations, weights).sin()
    found = [
        gpu.backward(
            grad[:, o].contiguous(),
            value,
            flat,
            locations[:, o].contiguous(),
            weights[:, o].contiguous(),
        )[0]
        for o in (torch.arange(20), torch.randperm(20, generator=torch.Generator().manual_seed(0)))
    ]
    return not torch.equal(*found)


def check_order() -> None:
    assert order_matters("cpu")
    torch.use_deterministic_algorithms(True)
    assert not order_matters("cpu")


def check_numbers_that_are_not_finite() -> None:
    from humanquery.ops import gpu

    value, shapes, locations, weights = (
        x.float() if isinstance(x, torch.Tensor) else x for x in case(q=1)
    )
    flat = [n for shape in shapes for n in shape]
    torch.use_deterministic_algorithms(True)
    for bad in (float("nan"), float("inf")):
        grad = torch.full((len(value), 1, value.shape[2] * value.shape[3]), bad)
        assert not gpu.backward(grad, value, flat, locations, weights)[0].isfinite().any()
    assert not gpu.backward(torch.zeros_like(grad), value, flat, locations, weights)[0].any()


CHECKS = (compare_all, check_order, check_numbers_that_are_not_finite)


def run_checks() -> None:
    """Names the checks that passed, one a line."""
    for check in CHECKS:
        torch.use_deterministic_algorithms(False)
        check()
        print(check.__name__, flush=True)


@pytest.fixture(scope="module")
def interpreted() -> subprocess.CompletedProcess:
    """All checks in Triton's interpreter: it is chosen where Triton is imported, so in a process of
    its own, and in one, since importing torch takes longer than a check."""
    code = "from tests.ops.test_gpu import run_checks; run_checks()"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@needs_triton
@pytest.mark.parametrize("check", CHECKS)
def test_interpreted_kernels(interpreted, check):
    """Equal the reference in float64; deterministic ones do not depend on the order; what is not
    finite stays so."""
    assert check.__name__ in interpreted.stdout.split(), interpreted.stderr[-3000:]


def compiled(kernel, dtype: str, generation: int, warps: int, fixed: bool = False) -> str:
    """The assembly of a kernel for heads of 32 channels; pointers at multiples of 16 bytes, as
    torch gives them."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {"HEADS": 8, "D": 32, "LEVELS": 4, "POINTS": 4, "R": 4 * warps, "WIDE": 32}
    kinds = {
        "value": dtype,
        "grad": dtype,
        "out": dtype,
        "maps": "i32",
        "grad_value": "i64" if fixed else "fp32",
    }
    signature = {name: "*" + kinds.get(name, "fp32") for name in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr") | dict.fromkeys(
        ("rows", "cells", "queries"), "i32"
    )
    at = {name: (i,) for i, name in enumerate(kernel.arg_names)}
    aligned = {
        at[name]: [["tt.divisibility", 16]]
        for name in kernel.arg_names
        if signature[name].startswith("*")
    }
    source = ASTSource(
        kernel, signature, {at[name]: value for name, value in constants.items()}, aligned
    )
    return triton.compile(
        source, target=GPUTarget("cuda", generation, 32), options={"num_warps": warps}
    ).asm["ptx"]


@needs_triton
@pytest.mark.parametrize("generation", [75, 80, 90])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_kernels_compile_and_read_four_channels_at_once(dtype, generation):
    from humanquery.ops import gpu

    forward = compiled(gpu._forward, dtype, generation, gpu.FORWARD_WARPS)
    fast, fixed = (
        compiled(gpu._backward, dtype, generation, gpu.BACKWARD_WARPS, kind)
        for kind in (False, True)
    )
    reads = r"ld\.global\S*\.v4\.b32" if dtype == "fp32" else r"ld\.global\S*\.v2\.b32"
    assert all(
        len(re.findall(reads, ptx)) >= 4 for ptx in (forward, fast, fixed)
    )  # one for each corner of a sample
    assert "acq_rel" not in fast + fixed  # nobody waits for memory that others wrote
    assert re.search(r"(atom|red)\S*add\.u64", fixed) and not re.search(
        r"(atom|red)\S*add\.u64", fast
    )


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu_outputs_and_gradients_equal_those_in_float64(dtype, dims):
    value, shapes, locations, weights = case(**dims)
    locations, value = away_from_edges(locations, shapes).float(), value.to(dtype)
    found = graded(
        PROVIDERS["triton"], value.cuda(), shapes, locations.cuda(), weights.float().cuda()
    )
    wanted = graded(reference, value.double(), shapes, locations.double(), weights.double())
    slack = {torch.float32: 2e-5, torch.bfloat16: 1.2e-2, torch.float16: 2e-3}[dtype]
    for ours, true in zip(found, wanted, strict=True):
        torch.testing.assert_close(
            ours.cpu(), true, atol=slack * max(true.abs().max().item(), 1), rtol=slack
        )


@pytest.mark.gpu
@needs_triton
def test_on_a_gpu_the_deterministic_gradient_is_the_same_in_every_run_and_order():
    torch.use_deterministic_algorithms(True)
    try:
        assert not any(order_matters("cuda") for _ in range(10))
    finally:
        torch.use_deterministic_algorithms(False)
