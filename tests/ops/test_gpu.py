"""The Triton kernels: in Triton's interpreter anywhere, and on a GPU where there is one."""

import importlib.util
import os
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
    for ours, true in zip((found, *grads), (wanted.detach(), *[x.grad for x in inputs]), strict=True):
        torch.testing.assert_close(ours.double(), true, atol=slack * max(true.abs().max().item(), 1), rtol=slack)


def compare_all() -> None:
    compare(torch.float32, q=3)
    compare(torch.bfloat16, q=3, d=16)
    compare(torch.float16, q=1, d=33, heads=1, points=3)


@needs_triton
def test_interpreted_kernels_equal_the_reference_in_float64():
    code = "from tests.ops.test_gpu import compare_all; compare_all()"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu_outputs_and_gradients_equal_those_in_float64(dtype, dims):
    value, shapes, locations, weights = case(**dims)
    locations, value = away_from_edges(locations, shapes).float(), value.to(dtype)
    found = graded(PROVIDERS["triton"], value.cuda(), shapes, locations.cuda(), weights.float().cuda())
    wanted = graded(reference, value.double(), shapes, locations.double(), weights.double())
    slack = {torch.float32: 2e-5, torch.bfloat16: 1.2e-2, torch.float16: 2e-3}[dtype]
    for ours, true in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.cpu(), true, atol=slack * max(true.abs().max().item(), 1), rtol=slack)
