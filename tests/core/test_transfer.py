"""Numbers of the host beside a tensor."""

import torch
from torch import nn
from torch.export import Dim

from humanquery.core import transfer
from humanquery.core.transfer import constants

ELSEWHERE = torch.empty(0, device="meta")  # any device but the CPU


class Sides(nn.Module):
    def forward(self, image):
        height, width = image.shape
        return image.sum() * constants([[width, height], [width - 1, 0.5]], image)


def test_numbers_have_the_type_of_the_tensor_beside_them():
    for dtype in (torch.float32, torch.float64, torch.int64):
        found = constants([2, 3], torch.zeros(1, dtype=dtype))
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


def test_equal_numbers_are_sent_elsewhere_once_and_new_on_the_cpu():
    assert constants([[1, 2]], ELSEWHERE) is constants(((1, 2),), ELSEWHERE)
    assert constants([[1, 2]], ELSEWHERE) is not constants([[1, 2]], ELSEWHERE, torch.int32)
    here = torch.empty(0)
    assert constants([1, 2], here) is not constants([1, 2], here)
    assert (
        constants([1, 2], here).tolist() == [1.0, 2.0]
        and constants([3], here, torch.int32).dtype == torch.int32
    )


def test_what_a_cuda_graph_reads_is_never_forgotten(monkeypatch):
    monkeypatch.setattr(transfer, "_captured", [])
    constants([7.0], ELSEWHERE)
    assert not transfer._captured
    monkeypatch.setattr(transfer, "_capturing", lambda device: True)
    read = constants([7.0], ELSEWHERE)
    transfer._kept.cache_clear()
    assert (
        any(kept is read for kept in transfer._captured) and constants([7.0], ELSEWHERE) is not read
    )
