"""One-to-one assignment at least cost."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from humanquery.core.errors import NonFiniteError


def assign(cost: Float[Tensor, "q g"]) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """Row and column indices of the assignment with the least total cost, min(q, g) pairs
    (Hungarian algorithm).

    Rows come in ascending order; nobody to assign (q or g is 0) gives no pairs. A non-finite cost
    raises NonFiniteError: it means that a prediction is already broken.
    """
    return assign_all([cost])[0]


def assign_all(
    costs: list[Float[Tensor, "_q _g"]],
) -> list[tuple[Int[Tensor, " _m"], Int[Tensor, " _m"]]]:
    """`assign` for many tables at once, with one transfer to the CPU, where the solver runs, and
    one back."""
    if not costs:
        return []
    device = costs[0].device
    flat = (
        torch.cat([cost.detach().flatten() for cost in costs]).cpu().double().numpy()
    )  # host sync
    tables = np.split(flat, np.cumsum([cost.numel() for cost in costs])[:-1])
    pairs = [assign_table(t.reshape(c.shape)) for t, c in zip(tables, costs, strict=True)]
    sizes = [len(rows) for rows, _ in pairs]
    rows = torch.as_tensor(np.concatenate([rows for rows, _ in pairs]), dtype=torch.long).to(device)
    columns = torch.as_tensor(
        np.concatenate([columns for _, columns in pairs]), dtype=torch.long
    ).to(device)
    return list(zip(rows.split(sizes), columns.split(sizes), strict=True))


def assign_table(
    cost: Float[np.ndarray, "q g"],
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """`assign` for an array: the same rules, without a tensor on the way."""
    if not np.isfinite(cost).all():
        raise NonFiniteError(
            "matching cost holds NaN or infinity: a prediction or a target is not finite"
        )
    from scipy.optimize import (
        linear_sum_assignment,
    )  # half a second, which prediction can do without

    return linear_sum_assignment(cost)
