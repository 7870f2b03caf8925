"""Multi-scale deformable attention: the sampling and weighing, by one of several providers with one signature."""

import os
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from humanquery.core.errors import ConfigError, nearest

Shapes = tuple[tuple[int, int], ...]  # (height, width) of every level
Value = Float[Tensor, "b s heads d"]
Locations = Float[Tensor, "b q heads levels points 2"]
Weights = Float[Tensor, "b q heads levels points"]


def deformable_attention(
    value: Value, shapes: Shapes, locations: Locations, weights: Weights
) -> Float[Tensor, "b q c"]:
    """Weighted bilinear samples of `value` (Deformable DETR, eq. 3 without the projections).

    `locations` are (x, y) in 0..1 of each level's map; cell centres lie at (i + 0.5) / n; zero outside. The c = heads · d
    outputs of a query stand head by head. The environment variable HUMANQUERY_ATTENTION names the provider, see
    `PROVIDERS`; by default `gather` for inference on the CPU, where it is fastest, and `reference` elsewhere. A graph that
    `torch.export` makes always holds `indexed`.
    """
    if torch.compiler.is_exporting():
        return indexed(value, shapes, locations, weights)
    return _provider(value)(value, shapes, locations, weights)


def _provider(value: Tensor) -> Callable:
    inference_on_cpu = value.device.type == "cpu" and not torch.is_grad_enabled()
    name = os.environ.get("HUMANQUERY_ATTENTION") or ("gather" if inference_on_cpu else "reference")
    if name not in PROVIDERS:
        raise ConfigError(f"HUMANQUERY_ATTENTION={name}: unknown provider.{nearest(name, PROVIDERS)}")
    return PROVIDERS[name]


def reference(value: Value, shapes: Shapes, locations: Locations, weights: Weights) -> Float[Tensor, "b q c"]:
    """One `grid_sample` per level."""
    b, _, heads, d = value.shape
    q = locations.shape[1]
    out = value.new_zeros(b * heads, d, q)
    for level, plane in enumerate(value.split([h * w for h, w in shapes], 1)):
        plane = plane.permute(0, 2, 3, 1).reshape(b * heads, d, *shapes[level])
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        seen = F.grid_sample(plane, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weight = weights[:, :, :, level].transpose(1, 2).reshape(b * heads, 1, q, weights.shape[-1])
        out = out + (seen * weight).sum(-1)
    return out.reshape(b, heads * d, q).transpose(1, 2)


def gather(value: Value, shapes: Shapes, locations: Locations, weights: Weights) -> Float[Tensor, "b q c"]:
    """All corners of all samples of a query as one weighted bag of rows: no native code of our own, and several times faster
    than `grid_sample` on a CPU because every row is read once, in one piece."""
    b, s, heads, d = value.shape
    q = locations.shape[1]
    rows, shares = _corners(shapes, locations, s)
    # one bag of 4 · levels · points rows for every picture, query and head
    bag = 4 * weights.shape[3] * weights.shape[4]
    shares = [share * weights for share in shares]
    rows = torch.stack(rows, 3).reshape(b * q * heads, bag)
    shares = torch.stack(shares, 3).reshape(b * q * heads, bag)
    table = value.reshape(b * s * heads, d)
    return F.embedding_bag(rows, table, mode="sum", per_sample_weights=shares).reshape(b, q, heads * d)


def indexed(value: Value, shapes: Shapes, locations: Locations, weights: Weights) -> Float[Tensor, "b q c"]:
    """`gather` in plain indexing, multiplying and adding, which every runtime of exported graphs has; level by level, since
    the rows of all samples at once would be the largest array of the network."""
    b, s, heads, d = value.shape
    q, points = locations.shape[1], locations.shape[-2]
    rows, shares = _corners(shapes, locations, s)
    table = value.reshape(b * s * heads, d)
    out = value.new_zeros(b * q * heads, 1, d)
    for level in range(len(shapes)):
        for row, share in zip(rows, shares, strict=True):
            seen = table[row[:, :, :, level].reshape(-1)].reshape(b * q * heads, points, d)
            out = out + (share * weights)[:, :, :, level].reshape(b * q * heads, 1, points) @ seen
    return out.reshape(b, q, heads * d)


def _corners(shapes: Shapes, locations: Locations, s: int) -> tuple[list[Tensor], list[Weights]]:
    """For each of the four cells around every sample: its row in the (picture, cell, head) table, and its bilinear share,
    0 where outside."""
    b, _, heads = locations.shape[:3]
    index = {"device": locations.device, "dtype": torch.int32}
    width = torch.tensor([w for _, w in shapes], **index)[:, None]
    height = torch.tensor([h for h, _ in shapes], **index)[:, None]
    starts = torch.tensor([0, *[h * w for h, w in shapes[:-1]]], **index).cumsum(0, dtype=torch.int32)[:, None]
    first = torch.arange(b, **index).view(b, 1, 1, 1, 1) * s + starts
    head = torch.arange(heads, **index).view(heads, 1, 1)
    columns, x_shares = _axis(locations[..., 0], width)
    lines, y_shares = _axis(locations[..., 1], height)
    lines = [(line * width + first) * heads + head for line in lines]
    columns = [column * heads for column in columns]
    rows = [line + column for line in lines for column in columns]
    return rows, [y * x for y in y_shares for x in x_shares]


def _axis(places: Tensor, cells: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The two cells around a place on one axis, kept inside the map, and their linear shares, 0 where outside."""
    at = places * cells.to(places.dtype) - 0.5
    low = at.detach().floor()
    part = at - low
    low = low.int()
    low_share = torch.where((low >= 0) & (low < cells), 1 - part, 0.0)
    high_share = torch.where((low >= -1) & (low < cells - 1), part, 0.0)
    return [low.clamp(min=0).minimum(cells - 1), (low + 1).clamp(min=0).minimum(cells - 1)], [low_share, high_share]


PROVIDERS: dict[str, Callable] = {"reference": reference, "gather": gather, "indexed": indexed}
