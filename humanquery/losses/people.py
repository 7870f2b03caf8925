"""Losses that know about people: joints, ages, heat maps of joints."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from humanquery.core.affine import Size


def oks_loss(oks: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """-log OKS, cut at OKS 1e-6 (PETR)."""
    return -oks.clamp(min=1e-6).log()


def expected_age(logits: Float[Tensor, "n c"], ages: Float[Tensor, " c"]) -> Float[Tensor, " n"]:
    """Mean of the distribution over `ages`, in years."""
    return (logits.softmax(-1) * ages).sum(-1)


def age_loss(
    logits: Float[Tensor, "n c"],
    low: Float[Tensor, " n"],
    high: Float[Tensor, " n"],
    ages: Float[Tensor, " c"],
    *,
    mean: float = 0.02,
    variance: float = 0.1,
    ce: float = 1.0,
) -> Float[Tensor, " n"]:
    """Mean-variance loss with cross-entropy (Pan et al. 2018), for one age or an interval of
    ages in years.

    With p = softmax(logits), m = sum p_j a_j and v = sum p_j (a_j - m)², an age known to lie in
    [low, high] costs

        mean · d(m, [low, high])² + variance · max(v - u, 0)
        - ce · log sum_{a_j in [low, high]} p_j,

    d being the distance to the interval, and u = ((high - low + 1)² - 1) / 12 the variance of
    whole years spread evenly over it. One age y is the interval [y, y], for which u = 0 and this
    is HQNet's loss. Ends are rounded to whole classes and kept among them.
    """
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    m = (p * ages).sum(-1)
    v = (p * (ages - m[:, None]) ** 2).sum(-1)
    distance = (low - m).clamp(min=0) + (m - high).clamp(min=0)
    excess = (v - ((high - low + 1) ** 2 - 1) / 12).clamp(min=0)
    first = low.round().clamp(ages[0], ages[-1])[:, None]
    last = torch.maximum(high.round().clamp(ages[0], ages[-1])[:, None], first)
    inside = (ages >= first) & (ages <= last)
    missed = -log_p.masked_fill(~inside, float("-inf")).logsumexp(-1)
    return mean * distance**2 + variance * excess + ce * missed


def heatmap_targets(
    boxes: Float[Tensor, "n 4"],
    keypoints: Float[Tensor, "n k 2"],
    counted: Bool[Tensor, "n k"],
    size: Size,
    stride: int = 8,
) -> Float[Tensor, "k h w"]:
    """A small Gaussian at the cell of every counted joint (CornerNet's, as HQNet draws it); the
    largest wins.

    `boxes` xyxy px and `keypoints` px; `size` is the map's (h, w). The radius follows from the
    box at IoU 0.9, 0..3 cells.
    """
    height, width = size
    if not len(boxes):
        return keypoints.new_zeros(keypoints.shape[1], height, width)
    sides = (boxes[:, 2:] - boxes[:, :2]) / stride
    radius = _corner_radius(sides[:, 1], sides[:, 0]).floor().clamp(0, 3)[:, None, None]
    cells = (keypoints / stride).floor()
    dx = torch.arange(width, device=boxes.device) - cells[..., :1]
    dy = torch.arange(height, device=boxes.device) - cells[..., 1:]
    sigma = (2 * radius + 1) / 6
    along_x = torch.where(dx.abs() <= radius, torch.exp(-(dx**2) / (2 * sigma**2)), 0.0)
    along_y = torch.where(dy.abs() <= radius, torch.exp(-(dy**2) / (2 * sigma**2)), 0.0)
    along_x = torch.where(counted[..., None], along_x, 0.0)
    return (along_y[..., :, None] * along_x[..., None, :]).amax(0)


def _corner_radius(h: Tensor, w: Tensor, overlap: float = 0.9) -> Tensor:
    """How far both corners of a box may move with the IoU kept at `overlap`; the three cases of
    CornerNet, in the form with (b + sqrt) / 2 that everybody inherited."""
    cases = []
    for a, b, c in (
        (1, h + w, w * h * (1 - overlap) / (1 + overlap)),
        (4, 2 * (h + w), (1 - overlap) * w * h),
        (4 * overlap, -2 * overlap * (h + w), (overlap - 1) * w * h),
    ):
        cases.append((b + (b**2 - 4 * a * c).clamp(min=0).sqrt()) / 2)
    return torch.stack(cases).amin(0)


def heatmap_loss(
    logits: Float[Tensor, "b k h w"],
    targets: Float[Tensor, "b k h w"],
    valid: Bool[Tensor, "b h w"],
) -> Float[Tensor, ""]:
    """Sum of the penalty-reduced focal loss (CornerNet, eq. 1; to be divided by the number of
    joints, `targets` == 1). Padding counts only where a joint stands."""
    p = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    peak = targets == 1
    rest = ~peak & valid[:, None]
    at_peaks = torch.where(peak, p.log() * (1 - p) ** 2, 0.0).sum()
    elsewhere = torch.where(rest, (1 - p).log() * p**2 * (1 - targets) ** 4, 0.0).sum()
    return -(at_peaks + elsewhere)
