"""Which person is which track: costs of pairs, and assignments under a limit."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from humanquery.core.assignment import assign_table
from humanquery.core.boxes import BODY_SHARE, areas, iou
from humanquery.core.oks import oks

Pairs = tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"]]

_MANY = 0.25
"""share of pairs from which one product of all queries is cheaper than many small ones"""
_LEAST_OKS = 0.01
"""poses less alike than this need not be compared"""


def cosine_distances(
    gallery: Float[np.ndarray, "n g d"],
    found: Float[np.ndarray, "m d"],
    near: Bool[np.ndarray, "n m"],
) -> Float[np.ndarray, "n m"]:
    """1 - cosine of found embeddings to the nearest of each track's (all of length 1); infinite for
    pairs not `near`."""
    cost = np.full(near.shape, np.inf, np.float32)
    if np.count_nonzero(near) > _MANY * near.size:
        n, g, d = gallery.shape
        alike = (gallery.reshape(n * g, d) @ found.T).reshape(n, g, len(found)).max(1)
        cost[near] = 1 - alike[near]
        return cost
    rows, columns = np.nonzero(near)
    cost[rows, columns] = 1 - np.matmul(gallery[rows], found[columns, :, None])[..., 0].max(
        1, initial=-1.0
    )
    return cost


def box_similarities(
    tracks: Float[np.ndarray, "n 4"], found: Float[np.ndarray, "m 4"]
) -> Float[np.ndarray, "n m"]:
    """IoU, 0..1, of boxes xyxy."""
    return iou(torch.from_numpy(tracks), torch.from_numpy(found)).numpy()


def pose_similarities(
    tracks: Float[np.ndarray, "n k 2"],
    found: Float[np.ndarray, "m k 2"],
    boxes: Float[np.ndarray, "m 4"],
    sigmas: Float[np.ndarray, " k"],
    counts: Bool[np.ndarray, "m k"],
) -> Float[np.ndarray, "n m"]:
    """OKS of the joints of every pair, 0..1, where it can be 0.01 or more, else 0; the found
    person's box gives the area."""
    area = areas(torch.from_numpy(boxes)).numpy() * BODY_SHARE
    reach = (
        2
        * sigmas.max(initial=0)
        * np.sqrt(2 * np.log(1 / _LEAST_OKS) * np.maximum(area, 1e-6))[:, None]
    )
    # some joint of the one must lie within reach of the same of the other, hence their hulls do
    (low, high), (found_low, found_high) = _hulls(tracks), _hulls(found)
    apart = np.maximum(low[:, None] - (found_high + reach), (found_low - reach) - high[:, None])
    rows, columns = np.nonzero((apart <= 0).all(-1))
    given = (found[columns], tracks[rows], area[columns], sigmas, counts[columns])
    alike = np.zeros((len(tracks), len(found)), np.float32)
    alike[rows, columns] = oks(*map(torch.from_numpy, given)).numpy()
    return alike


def doubled_pairs(
    overlap: Float[np.ndarray, "m m"],
    joints: Float[np.ndarray, "m k 2"],
    boxes: Float[np.ndarray, "m 4"],
    sigmas: Float[np.ndarray, " s"],
    counts: Bool[np.ndarray, "m k"],
    most: float,
) -> Bool[np.ndarray, "m m"]:
    """Pairs of found people more alike than `most`: by their `overlap` (IoU), where joints are
    known by the mean of it and OKS.

    OKS is what tells a double from somebody behind: a detector leaves no two boxes of much overlap,
    but whoever stands behind has joints of their own. k or s is 0 where there are no joints or no
    constants for them.
    """
    if not len(sigmas) or not joints.shape[1]:
        return overlap > most
    doubled = np.zeros(overlap.shape, bool)
    rows, columns = np.nonzero(np.triu(overlap > 2 * most - 1, 1))  # OKS is 1 at most
    if not len(rows):
        return doubled
    area = areas(torch.from_numpy(boxes)).numpy() * BODY_SHARE
    given = (
        joints[rows],
        joints[columns],
        np.minimum(area[rows], area[columns]),
        sigmas,
        counts[rows] & counts[columns],
    )
    alike = (overlap[rows, columns] + oks(*map(torch.from_numpy, given)).numpy()) / 2
    doubled[rows, columns] = doubled[columns, rows] = alike > most
    return doubled


def _hulls(
    joints: Float[np.ndarray, "n k 2"],
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]:
    """Their least and their largest x, y."""
    rows = joints.transpose(0, 2, 1).copy()  # numpy is quick along the last axis only
    return rows.min(-1), rows.max(-1)


def match(cost: Float[np.ndarray, "n m"], limit: float) -> Pairs:
    """Rows and columns of the cheapest one-to-one assignment without the pairs that cost more than
    `limit`."""
    rows, columns = assign_table(np.minimum(cost, limit + 1e-3))
    fits = cost[rows, columns] <= limit
    return rows[fits], columns[fits]
