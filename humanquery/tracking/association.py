"""Which person is which track: costs of pairs, and assignments under a limit."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humanquery.core.assignment import assign
from humanquery.core.boxes import BODY_SHARE, areas, iou
from humanquery.core.oks import oks

Pairs = tuple[Int[Tensor, " p"], Int[Tensor, " p"]]


def cosine_distances(
    gallery: Float[Tensor, "n g d"], filled: Int[Tensor, " n"], found: Float[Tensor, "m d"]
) -> Float[Tensor, "n m"]:
    """1 - cosine of every found embedding to the nearest of each track's; all of length 1. `filled` leads the gallery."""
    n, g, d = gallery.shape
    near = (gallery.reshape(n * g, d) @ found.T).view(n, g, len(found))
    if (filled < g).any():
        near.masked_fill_((torch.arange(g)[None] >= filled[:, None])[..., None], -1.0)
    return 1 - near.amax(1)


def box_similarities(tracks: Float[Tensor, "n 4"], found: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """IoU, 0..1."""
    return iou(tracks, found)


def pose_similarities(
    tracks: Float[Tensor, "n k 2"],
    found: Float[Tensor, "m k 2"],
    boxes: Float[Tensor, "m 4"],
    sigmas: Float[Tensor, " k"],
    counts: Bool[Tensor, "m k"],
) -> Float[Tensor, "n m"]:
    """OKS of the joints of every pair, 0..1; the found person's box gives the area."""
    area = areas(boxes) * BODY_SHARE
    return oks(found[None], tracks[:, None], area[None], sigmas, counts[None])


def match(cost: Float[Tensor, "n m"], limit: float) -> Pairs:
    """Rows and columns of the cheapest one-to-one assignment without the pairs that cost more than `limit`."""
    rows, columns = assign(cost.clamp(max=limit + 1e-3))
    fits = cost[rows, columns] <= limit
    return rows[fits], columns[fits]


def cascade(cost: Float[Tensor, "n m"], unseen: Int[Tensor, " n"], limit: float) -> Pairs:
    """`match`, but whoever was seen more recently (`unseen` frames ago) chooses first (DeepSORT's matching cascade)."""
    ages = unseen.unique().tolist()
    if len(ages) == 1:
        return match(cost, limit)
    free = torch.ones(cost.shape[1], dtype=torch.bool)
    rows, columns = [], []
    for age in ages:
        candidates, people = (unseen == age).nonzero()[:, 0], free.nonzero()[:, 0]
        if not len(people):
            break
        i, j = match(cost[candidates][:, people], limit)
        rows.append(candidates[i])
        columns.append(people[j])
        free[people[j]] = False
    none = torch.zeros(0, dtype=torch.long)
    return torch.cat([none, *rows]), torch.cat([none, *columns])
