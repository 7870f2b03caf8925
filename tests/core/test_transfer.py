"""Numbers of the host beside a tensor."""

import torch
from torch import nn
from torch.export import Dim

from humanquery.core.transfer import numbers


class Sides(nn.Module):
    def forward(self, image):
        height, width = image.shape
        return image.sum() * numbers([[width, height], [width - 1, 0.5]], image)


def test_numbers_have_the_type_of_the_tensor_beside_them():
    for dtype in (torch.float32, torch.float64, torch.int64):
        found = numbers([2, 3], torch.zeros(1, dtype=dtype))
        assert found.dtype == dtype and found.tolist() == [2, 3]


def test_sides_of_an_array_stay_open_in_a_trace():
    """A trace that holds the example's sides is right for pictures of that size only."""
    open_sides = ({0: 2 * Dim("tall", min=1), 1: 2 * Dim("wide", min=1)},)
    program = torch.export.export(
        Sides(),
        (torch.ones(8, 10),),
        dynamic_shapes=open_sides,
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    image = torch.full((4, 6), 0.5)
    torch.testing.assert_close(program.module()(image), Sides()(image))
