"""Masks as bitmaps, polygons and COCO run lengths (column-major counts, compressed to the COCO string)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from humanquery.core.affine import Size
from humanquery.core.errors import AnnotationError


def polygons_to_bitmap(polygons: Sequence[Sequence[int | float]], size: Size) -> Bool[Tensor, "h w"]:
    """Union of COCO polygons [x1, y1, x2, y2, ...] (continuous px) on a canvas of `size`; pixels whose centre is inside.

    A polygon needs at least three points; fewer raise AnnotationError.
    """
    canvas = np.zeros(size, bool)
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise AnnotationError(
                f"a mask polygon has {len(polygon)} numbers, expected an even count of at least 6 (three points)"
            )
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
        if not np.isfinite(points).all():
            raise AnnotationError("a mask polygon holds NaN or infinity; expected finite pixel coordinates")
        canvas |= _inside(points, size)
    return torch.from_numpy(canvas)


def _inside(ring: np.ndarray, size: Size) -> np.ndarray:
    """Pixels whose centre lies inside one closed ring (even-odd rule): each edge flips all pixels right of it."""
    height, width = size
    x, y = ring[:, 0], ring[:, 1]
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    top = np.clip(np.ceil(np.minimum(y, next_y) - 0.5), 0, height).astype(int)
    end = np.clip(np.ceil(np.maximum(y, next_y) - 0.5), 0, height).astype(int)
    count = end - top  # lines of pixel centres that each edge crosses
    edge = np.repeat(np.arange(len(x)), count)
    line = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + top[edge]
    along = (line + 0.5 - y[edge]) / (next_y[edge] - y[edge])
    crossing = x[edge] + along * (next_x[edge] - x[edge])
    flips = np.zeros((height, width + 1), np.uint8)
    np.add.at(flips, (line, np.clip(np.ceil(crossing - 0.5), 0, width).astype(int)), 1)
    return np.cumsum(flips[:, :width], axis=1, dtype=np.uint8) % 2 == 1


def bitmap_to_rle(bitmap: Bool[Tensor, "h w"]) -> dict[str, Any]:
    """COCO compressed RLE: {"size": [h, w], "counts": str}."""
    return {"size": list(bitmap.shape), "counts": _compress(bitmap_to_counts(bitmap))}


def bitmap_to_counts(bitmap: Bool[Tensor, "h w"]) -> list[int]:
    """Uncompressed COCO counts: lengths of alternating runs in column-major order, the first of zeros (maybe 0)."""
    flat = bitmap.cpu().numpy().T.ravel()  # a C-ordered transpose walks columns first
    if not flat.size:
        return [0]
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return [0, *counts] if flat[0] else counts


def rle_to_bitmap(rle: dict[str, Any]) -> Bool[Tensor, "h w"]:
    """From compressed or uncompressed COCO RLE; counts that do not fill the size raise AnnotationError."""
    height, width = rle["size"]
    counts = rle["counts"]
    lengths = _expand(counts) if isinstance(counts, str | bytes) else list(counts)
    if sum(lengths) != height * width or min(lengths, default=0) < 0:
        raise AnnotationError(
            f"an RLE mask counts {sum(lengths)} pixels, expected {height} x {width} = {height * width}"
        )
    values = np.arange(len(lengths)) % 2 == 1
    flat = np.repeat(values, lengths)
    return torch.from_numpy(np.ascontiguousarray(flat.reshape(width, height).T))


def _compress(counts: list[int]) -> str:
    """The COCO string: 5 bits a character from 48 up, bit 5 = more follows; from the third on, differences to two before."""
    out = []
    for i, count in enumerate(counts):
        rest = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            bits = rest & 0x1F
            rest >>= 5
            more = rest != -1 if bits & 0x10 else rest != 0
            out.append(chr((bits | 0x20 if more else bits) + 48))
    return "".join(out)


def _expand(text: str | bytes) -> list[int]:
    codes = text if isinstance(text, bytes) else text.encode("ascii", "replace")
    counts: list[int] = []
    value, shift = 0, 0
    for code in codes:
        bits = code - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value |= -1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value, shift = 0, 0
    return counts


def mask_boxes(masks: Bool[Tensor, "n h w"]) -> Float[Tensor, "n 4"]:
    """Tight xyxy px boxes; zeros for an empty mask."""
    out = torch.zeros(len(masks), 4)
    columns, lines = masks.any(1), masks.any(2)
    for i in range(len(masks)):
        x, y = columns[i].nonzero(), lines[i].nonzero()
        if len(x):
            out[i] = torch.tensor([x[0], y[0], x[-1] + 1, y[-1] + 1], dtype=torch.float32)
    return out
