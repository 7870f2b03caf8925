"""Every provider of deformable attention gives the same numbers and the same gradients."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from humanquery.core.errors import ConfigError
from humanquery.ops import native
from humanquery.ops.deformable import (
    PROVIDERS,
    deformable_attention,
    gather,
    provider_for,
    reference,
)
from humanquery.ops.fused import attend
from tests.paths import ROOT

SHAPES = ((5, 7), (3, 4), (2, 2))


def case(b=2, q=6, heads=2, d=3, shapes=SHAPES, points=2, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    s = sum(h * w for h, w in shapes)
    value = torch.randn(b, s, heads, d, generator=generator, dtype=dtype)
    locations = (
        torch.rand(b, q, heads, len(shapes), points, 2, generator=generator, dtype=dtype) * 1.6
        - 0.3
    )
    weights = torch.rand(b, q, heads, len(shapes), points, generator=generator, dtype=dtype)
    return value, shapes, locations, weights


needs_native = pytest.mark.skipif(native.missing() != "", reason=native.missing())
HERE = [
    pytest.param(name, marks=needs_native if name == "native" else ())
    for name in PROVIDERS
    if name != "triton"
]


@pytest.mark.parametrize("shapes", [SHAPES, ((4, 4),), ((1, 1), (1, 6)), ((6, 1),)])
@pytest.mark.parametrize("provider", HERE)
def test_samples_match_a_sum_written_by_hand(provider, shapes):
    value, shapes, locations, weights = case(shapes=shapes)
    found = PROVIDERS[provider](value, shapes, locations, weights)
    torch.testing.assert_close(found, by_hand(value, shapes, locations, weights))


def by_hand(value, shapes, locations, weights):
    b, _, heads, d = value.shape
    out = torch.zeros(b, locations.shape[1], heads, d, dtype=value.dtype)
    for index in torch.cartesian_prod(*[torch.arange(n) for n in weights.shape]):
        i, q, m, level, p = index.tolist()
        h, w = shapes[level]
        start = sum(a * c for a, c in shapes[:level])
        x, y = (locations[i, q, m, level, p] * torch.tensor([w, h]) - 0.5).tolist()
        for cy in (int(y // 1), int(y // 1) + 1):
            for cx in (int(x // 1), int(x // 1) + 1):
                if 0 <= cx < w and 0 <= cy < h:
                    share = (1 - abs(x - cx)) * (1 - abs(y - cy))
                    out[i, q, m] += (
                        weights[i, q, m, level, p] * share * value[i, start + cy * w + cx, m]
                    )
    return out.flatten(2)


@pytest.mark.parametrize("provider", HERE)
def test_gradients_of_values_places_and_weights_are_exact(provider):
    value, shapes, locations, weights = case(b=1, q=2, d=2, shapes=((3, 4), (2, 2)))
    inputs = [x.requires_grad_() for x in (value, locations, weights)]
    assert torch.autograd.gradcheck(lambda v, x, w: PROVIDERS[provider](v, shapes, x, w), inputs)


DIMS = [
    {},
    {"d": 32, "heads": 3, "points": 4},
    {"d": 16, "q": 1, "shapes": ((9, 1), (1, 1))},
    {"d": 8, "shapes": ((4, 4),), "points": 1},
    {"d": 64, "b": 1},
    {"d": 80, "q": 3},
    {"d": 33, "heads": 1, "points": 5},
    {"d": 32, "q": 300, "shapes": ((10, 14), (5, 7))},  # many queries: cells are packed
]


def graded(run, value, shapes, locations, weights):
    """Output and gradients, all in float64."""
    inputs = [x.detach().clone().requires_grad_() for x in (value, locations, weights)]
    out = run(inputs[0], shapes, *inputs[1:])
    slope = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out)
    grads = torch.autograd.grad(out, inputs, slope)
    assert out.dtype == value.dtype
    assert [g.dtype for g in grads] == [x.dtype for x in inputs]
    return [x.detach().double() for x in (out, *grads)]


def away_from_edges(locations, shapes):
    """Places a thousandth of a cell or more from where the gradient jumps: rounding must not decide
    the side."""
    sizes = torch.tensor([[w, h] for h, w in shapes], dtype=locations.dtype)[:, None]
    at = locations * sizes - 0.5
    return (at.floor() + (at - at.floor()).clamp(0.01, 0.99) + 0.5) / sizes


@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("provider", HERE)
def test_outputs_and_gradients_equal_those_in_float64(provider, dtype, dims):
    value, shapes, locations, weights = case(**dims)
    locations = away_from_edges(locations, shapes).float()
    value, weights = value.to(dtype), weights.float()
    found = graded(PROVIDERS[provider], value, shapes, locations, weights)
    slack = {torch.float32: 2e-5, torch.bfloat16: 1.2e-2, torch.float16: 2e-3}[dtype]
    wanted = graded(reference, value.double(), shapes, locations.double(), weights.double())
    for ours, true in zip(found, wanted, strict=True):
        torch.testing.assert_close(
            ours, true, atol=slack * max(true.abs().max().item(), 1), rtol=slack
        )


@pytest.mark.parametrize("provider", HERE)
def test_places_and_weights_may_be_of_another_precision_than_values(provider):
    value, shapes, locations, weights = case(d=16)
    mixed = (
        value.bfloat16(),
        shapes,
        away_from_edges(locations, shapes).float(),
        weights.bfloat16(),
    )
    graded(PROVIDERS[provider], *mixed)
    wanted = reference(mixed[0].double(), shapes, mixed[2].double(), mixed[3].double())
    torch.testing.assert_close(PROVIDERS[provider](*mixed).double(), wanted, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [{"q": 0}, {"b": 0}], ids=str)
@pytest.mark.parametrize("provider", HERE)
def test_no_query_or_picture_is_an_empty_answer_with_zero_gradients(provider, sizes, dtype):
    if provider == "reference" and sizes == {"b": 0}:
        pytest.skip("grid_sample takes no empty maps")
    value, shapes, locations, weights = case(**sizes, dtype=dtype)
    out, *grads = graded(PROVIDERS[provider], value, shapes, locations, weights)
    assert out.shape == (value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
    assert not any(x.any() for x in (out, *grads))


@pytest.mark.parametrize("far", [1e30, -1e30, float("inf"), float("nan"), -7.0])
@pytest.mark.parametrize("provider", HERE)
def test_far_away_or_nowhere_is_zero_and_reads_nothing(provider, far):
    if provider == "reference" and not abs(far) < float("inf"):
        pytest.skip("grid_sample gives nan on the CPU and 0 on CUDA")
    value, shapes, locations, weights = case(d=16, dtype=torch.float32)
    out, grad_value, _, grad_weights = graded(
        PROVIDERS[provider], value, shapes, locations * 0 + far, weights
    )
    assert not out.any() and not grad_value.any() and not grad_weights.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("provider", HERE)
def test_strided_inputs_give_the_same_as_contiguous_ones(provider, dtype):
    value, shapes, locations, weights = case(d=16, dtype=dtype)

    def strided(x):
        return x.transpose(0, 1).contiguous().transpose(0, 1)

    run = PROVIDERS[provider]
    found = graded(
        lambda v, s, x, w: run(strided(v), s, strided(x), strided(w)),
        value,
        shapes,
        locations,
        weights,
    )
    for ours, true in zip(found, graded(run, value, shapes, locations, weights), strict=True):
        torch.testing.assert_close(ours, true)


@pytest.mark.parametrize("provider", HERE)
def test_a_gradient_that_is_one_number_spread_out_is_taken(provider):
    value, shapes, locations, weights = case(d=16, dtype=torch.float32)
    value.requires_grad_()
    PROVIDERS[provider](value, shapes, locations, weights).sum().backward()
    inside = case(d=16)[0].requires_grad_()
    reference(inside, shapes, locations.double(), weights.double()).sum().backward()
    torch.testing.assert_close(value.grad.double(), inside.grad, atol=1e-4, rtol=1e-4)


def test_float32_providers_agree_at_a_real_size():
    inputs = case(
        b=2,
        q=300,
        heads=8,
        d=16,
        shapes=((20, 28), (10, 14), (5, 7)),
        points=4,
        dtype=torch.float32,
    )
    torch.testing.assert_close(gather(*inputs), reference(*inputs), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [*HERE, "auto", ""])
def test_the_environment_chooses_the_provider(monkeypatch, name):
    inputs = case(dtype=torch.float32)
    monkeypatch.setenv("HUMANQUERY_ATTENTION", name)
    torch.testing.assert_close(deformable_attention(*inputs), reference(*inputs))


def test_an_unknown_provider_is_told_with_the_known_ones(monkeypatch):
    monkeypatch.setenv("HUMANQUERY_ATTENTION", "gathr")
    with pytest.raises(
        ConfigError, match="HUMANQUERY_ATTENTION=gathr.*Did you mean 'gather'.*auto"
    ):
        deformable_attention(*case())


def test_native_is_the_default_on_the_cpu_where_it_is_and_gather_where_not(monkeypatch):
    assert provider_for("cpu") == ("gather" if native.missing() else "native")
    monkeypatch.setattr(native, "missing", lambda: "no C compiler found")
    assert provider_for("cpu") == provider_for("cpu", "auto") == "gather"
    with pytest.raises(
        ConfigError,
        match="HUMANQUERY_ATTENTION=native: not available: no C compiler found. Unset it",
    ):
        provider_for("cpu", "native")
    with pytest.raises(ConfigError, match="it runs on cpu, the values are on cuda"):
        provider_for("cuda", "native")


def test_on_cuda_triton_is_the_default_where_it_is(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: object() if name == "triton" else found(name)
    )
    assert provider_for("cuda") == "triton"
    assert provider_for("mps") == "gather"
    with pytest.raises(
        ConfigError, match="HUMANQUERY_ATTENTION=triton: not available: it runs on cuda"
    ):
        provider_for("cpu", "triton")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="the package triton is not installed"):
        provider_for("cuda", "triton")


@pytest.mark.parametrize("shapes", [((5, 7), (3, 4), (2, 3)), ((0, 7), (51, 1))])
def test_maps_that_are_not_in_the_values_are_refused(shapes):
    value, _, locations, weights = case()
    with pytest.raises(ValueError, match=r"value has 51 cells, the maps \(\("):
        deformable_attention(
            value, shapes, locations[:, :, :, : len(shapes)], weights[:, :, :, : len(shapes)]
        )


@needs_native
def test_the_operator_keeps_the_promises_of_torch_library():
    value, shapes, locations, weights = case(d=16, dtype=torch.float32)
    flat = [n for shape in shapes for n in shape]
    inputs = [x.requires_grad_() for x in (value, locations, weights)]
    torch.library.opcheck(attend, (inputs[0], flat, *inputs[1:]))


def compare_compiled():
    inputs = case(d=16, dtype=torch.float32)
    compiled = torch.compile(deformable_attention, fullgraph=True)
    for ours, true in zip(
        graded(compiled, *inputs), graded(deformable_attention, *inputs), strict=True
    ):
        torch.testing.assert_close(ours, true)


@pytest.mark.slow
@needs_native
def test_a_compiled_graph_holds_the_operator_and_gives_the_same():
    code = "from tests.ops.test_deformable import compare_compiled; compare_compiled()"
    # in a process of its own: the shape checks of this one cannot be compiled
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )


def test_an_exported_graph_holds_plain_operations_only():
    class Attention(torch.nn.Module):
        def forward(self, value, locations, weights):
            return deformable_attention(value, SHAPES, locations, weights)

    value, _, locations, weights = case(dtype=torch.float32)
    program = torch.export.export(Attention(), (value, locations, weights))
    assert "humanquery" not in str(program.graph)
    torch.testing.assert_close(
        program.module()(value, locations, weights), reference(value, SHAPES, locations, weights)
    )


@needs_native
def test_under_autocast_the_result_is_of_the_values_dtype():
    value, shapes, locations, weights = case(d=16, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert deformable_attention(value, shapes, locations, weights).dtype == torch.float32
        assert (
            deformable_attention(value.bfloat16(), shapes, locations, weights).dtype
            == torch.bfloat16
        )
