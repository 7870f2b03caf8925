"""Strided depthwise convolutions: the values and gradients of torch's own, and which are meant."""

import copy

import pytest
import torch
from torch import nn

from humanquery.ops.depthwise import StridedDepthwise, use_fast_depthwise


def pair(**options) -> tuple[nn.Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 6, **{"kernel_size": 3, "stride": 2, "padding": 1, "groups": 6} | options)
    quick = copy.deepcopy(plain)
    assert use_fast_depthwise(quick) == 1 and type(quick) is StridedDepthwise
    return plain, quick


def results(convolution: nn.Conv2d, maps: torch.Tensor, dtype=torch.bfloat16) -> list[torch.Tensor]:
    """Output, and gradients of maps, weight and bias, for a fixed gradient of the output."""
    maps = maps.clone().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        said = convolution(maps)
    said.backward(
        torch.randn(said.shape, generator=torch.Generator().manual_seed(3)).to(said.dtype)
    )
    return [
        said,
        maps.grad,
        convolution.weight.grad,
        *([] if convolution.bias is None else [convolution.bias.grad]),
    ]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"kernel_size": 5, "padding": 2},
        {"padding": 0},
        {"stride": (1, 2)},
        {"stride": 3},
        {"kernel_size": (3, 1), "padding": (1, 0)},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(10, 6), (7, 9), (5, 5)])
def test_values_and_gradients_in_bf16_are_torchs(options, size, layout):
    plain, quick = pair(**options)
    maps = torch.randn(2, 6, *size).to(memory_format=layout)
    for one, other in zip(results(plain, maps), results(quick, maps), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, atol=0.05, rtol=0.02)  # bf16 sums in another order


def test_gradients_are_near_those_of_float64():
    plain, quick = pair()
    maps = torch.randn(2, 6, 12, 8).bfloat16().float()
    with torch.no_grad():
        quick.weight.copy_(quick.weight.bfloat16())
        plain.weight.copy_(quick.weight)
    exact = copy.deepcopy(plain).double()
    large = maps.double().requires_grad_()
    said = exact(large)
    said.backward(
        torch.randn(said.shape, generator=torch.Generator().manual_seed(3)).bfloat16().double()
    )
    _, of_maps, of_weight, _ = results(quick, maps)
    torch.testing.assert_close(of_maps.double(), large.grad, atol=0.02, rtol=0.02)
    torch.testing.assert_close(of_weight.double(), exact.weight.grad, atol=0.1, rtol=0.02)


def test_in_float32_and_without_gradients_it_is_torchs_own_to_the_bit():
    plain, quick = pair()
    maps = torch.randn(2, 6, 10, 6)
    for one, other in zip(
        results(plain, maps, torch.float32), results(quick, maps, torch.float32), strict=True
    ):
        assert torch.equal(one, other)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plain(maps), quick(maps))


def test_frozen_weights_get_no_gradient_and_what_comes_before_them_does():
    _, quick = pair()
    quick.requires_grad_(False)
    maps = torch.randn(1, 6, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        quick(maps).sum().backward()
    assert quick.weight.grad is None and maps.grad.abs().sum() > 0


def test_only_depthwise_convolutions_with_strides_are_meant():
    class Own(nn.Conv2d):
        pass

    others = nn.Sequential(
        nn.Conv2d(6, 6, 3, stride=2),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.Conv2d(6, 12, 3, stride=2, groups=6),
        nn.Conv2d(6, 6, 3, stride=2, groups=6, dilation=2),
        nn.Conv2d(6, 6, 3, stride=2, groups=6, padding_mode="reflect"),
        Own(6, 6, 3, stride=2, groups=6),
    )
    assert use_fast_depthwise(others) == 0
    both = nn.Sequential(others, nn.Conv2d(6, 6, 3, stride=2, groups=6))
    names = list(both.state_dict())
    assert (
        use_fast_depthwise(both) == 1
        and use_fast_depthwise(both) == 0
        and list(both.state_dict()) == names
    )
