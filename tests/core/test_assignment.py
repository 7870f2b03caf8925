from itertools import permutations

import pytest
import torch

from humanquery.core.assignment import assign, assign_all
from humanquery.core.errors import NonFiniteError


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5), (1, 1)])
def test_the_cost_is_the_least_of_all_permutations(shape):
    cost = torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))
    rows, columns = assign(cost)
    assert len(rows) == min(shape) and rows.tolist() == sorted(rows.tolist())
    wide = cost if shape[0] <= shape[1] else cost.T
    least = min(
        wide[range(wide.shape[0]), order].sum()
        for order in permutations(range(wide.shape[1]), wide.shape[0])
    )
    torch.testing.assert_close(cost[rows, columns].sum(), least)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_nobody_to_assign_gives_no_pairs(shape):
    rows, columns = assign(torch.zeros(shape))
    assert rows.shape == columns.shape == (0,) and rows.dtype == torch.long


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_a_broken_cost_says_so(broken):
    with pytest.raises(
        NonFiniteError, match="matching cost holds NaN or infinity: a prediction or a target"
    ):
        assign(torch.tensor([[1.0, broken]]))


def test_costs_that_differ_less_than_single_precision_are_told_apart():
    cost = torch.tensor([[1.0, 1.0 - 1e-12]], dtype=torch.float64)
    assert assign(cost)[1].tolist() == [1]


def test_many_tables_give_what_each_gives_alone():
    costs = [torch.rand(5, 3), torch.zeros(4, 0), torch.rand(2, 6).requires_grad_()]
    for pair, cost in zip(assign_all(costs), costs, strict=True):
        assert [p.tolist() for p in pair] == [p.tolist() for p in assign(cost)]
    assert assign_all([]) == []
