"""One-to-one assignment at least cost."""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def assign(cost: Float[Tensor, "q g"]) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """Row and column indices of the assignment with the least total cost, min(q, g) pairs (Hungarian algorithm).

    Rows ascend. Nobody to assign (q or g is 0) gives no pairs.

    A non-finite cost raises ValueError: it means that a prediction is already broken.
    """
    table = cost.detach().cpu().double().numpy()  # host sync: scipy's solver runs on the CPU
    if not np.isfinite(table).all():
        raise ValueError("matching cost holds NaN or infinity: a prediction or a target is not finite")
    found, true = linear_sum_assignment(table)
    return torch.as_tensor(found, device=cost.device), torch.as_tensor(true, device=cost.device)
