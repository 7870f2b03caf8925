"""Masks as bitmaps, polygons and COCO run lengths (column-major counts, compressed to the COCO
string)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from humanquery.core.affine import Size
from humanquery.core.errors import AnnotationError


def polygons_to_bitmap(
    polygons: Sequence[Sequence[int | float]], size: Size
) -> Bool[Tensor, "h w"]:
    """Union of COCO polygons [x1, y1, x2, y2, ...] (continuous px) on a canvas of `size`; pixels
    whose centre is inside.

    A polygon needs at least three points; fewer raise AnnotationError.
    """
    canvas = np.zeros(size, bool)
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise AnnotationError(
                f"a mask polygon has {len(polygon)} numbers, expected an even count of at least 6 "
                f"(three points)"
            )
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
        if not np.isfinite(points).all():
            raise AnnotationError(
                "a mask polygon holds NaN or infinity; expected finite pixel coordinates"
            )
        canvas |= _inside(points, size)
    return torch.from_numpy(canvas)


def _inside(ring: np.ndarray, size: Size) -> np.ndarray:
    """Pixels whose centre lies inside one closed ring (even-odd rule): each edge flips all pixels
    right of it."""
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
    return bitmaps_to_rles(bitmap[None])[0]


def bitmaps_to_rles(bitmaps: Bool[Tensor, "n h w"]) -> list[dict[str, Any]]:
    """COCO compressed RLE of each bitmap; all at once is faster than one by one. In C where that
    can be had."""
    texts = _native_texts(bitmaps)
    if texts is None:
        texts = _compress(*_counts(bitmaps))
    return [{"size": list(bitmaps.shape[1:]), "counts": text} for text in texts]


def _native_texts(bitmaps: Bool[Tensor, "n h w"]) -> list[str] | None:
    """The counts as COCO strings, None where there is nothing in C to make them."""
    from humanquery.ops import native
    from humanquery.ops.native.masks import run_lengths

    return None if native.missing() else run_lengths(bitmaps)


def bitmap_to_counts(bitmap: Bool[Tensor, "h w"]) -> list[int]:
    """Uncompressed COCO counts: lengths of alternating runs in column-major order, the first of
    zeros (maybe 0)."""
    return _counts(bitmap[None])[0].tolist()


def _counts(
    bitmaps: Bool[Tensor, "n h w"],
) -> tuple[Int[np.ndarray, " counts"], Int[np.ndarray, " n"]]:
    """The counts of all bitmaps one after the other, and how many each has (at least 1)."""
    height, width = bitmaps.shape[1:]
    area = height * width
    if not area or not len(bitmaps):
        return np.zeros(len(bitmaps), np.int64), np.ones(len(bitmaps), np.int64)
    pixels = np.ascontiguousarray(bitmaps.cpu().numpy()).view(np.uint8)
    # torch's maximum is ten times as fast as numpy's
    lines = torch.from_numpy(pixels).amax(2).numpy()
    tops, ends = lines.argmax(1).tolist(), (height - lines[:, ::-1].argmax(1)).tolist()
    bounds = [
        # every bitmap has an interval of its own, so that one sort serves all
        _flips(bitmap[top:end], top, height) + i * (area + 1)
        for i, (bitmap, top, end, shown) in enumerate(
            zip(pixels, tops, ends, lines.any(1).tolist(), strict=True)
        )
        if shown
    ]
    starts = np.arange(len(bitmaps) + 1) * (area + 1)
    bounds, times = np.unique(np.concatenate([np.zeros(0, np.int64), *bounds]), return_counts=True)
    bounds = bounds[
        times == 1
    ]  # twice: a column that ends where the next one starts, which is no bound
    # counts are the distances between 0, the bounds and the area; a bitmap that ends set has its
    # area as a bound already
    closed = np.isin(starts[1:] - 1, bounds, assume_unique=True)
    marks = np.sort(np.concatenate([starts[:-1], bounds, (starts[1:] - 1)[~closed]]), kind="stable")
    num_marks = np.diff(np.searchsorted(marks, starts))
    counts = np.diff(marks)
    between = np.cumsum(num_marks)[:-1] - 1  # from one bitmap's end to the next one's start
    return np.delete(counts, between), num_marks - 1


def _flips(pixels: UInt8[np.ndarray, "h w"], top: int, height: int) -> Int[np.ndarray, " flips"]:
    """Column-major positions on a picture of `height` at which a column turns on or off, in any
    order."""
    columns = np.flatnonzero(np.bitwise_or.reduce(pixels, 0))
    left, end = int(columns[0]), int(columns[-1]) + 1
    inner = pixels[:, left:end]
    flips = np.empty((len(inner) + 1, -(-(end - left) // 8) * 8), np.uint8)
    flips[:, end - left :] = 0
    shown = flips[:, : end - left]
    shown[0], shown[-1] = inner[0], inner[-1]
    np.not_equal(inner[1:], inner[:-1], out=shown[1:-1].view(bool))
    words = flips.view(np.uint64).ravel()
    hit = np.flatnonzero(words)  # most words of eight pixels hold none
    word, place = np.nonzero(words[hit].view(np.uint8).reshape(-1, 8))
    line, column = np.divmod(hit[word] * 8 + place, flips.shape[1])
    return (column + left) * height + line + top


def rle_to_bitmap(rle: dict[str, Any]) -> Bool[Tensor, "h w"]:
    """From compressed or uncompressed COCO RLE; anything else, or counts that do not fill the size,
    raises AnnotationError."""
    lengths = run_lengths_of(rle)
    height, width = rle["size"]
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return torch.from_numpy(np.ascontiguousarray(flat.reshape(width, height).T))


def run_lengths_of(rle: dict[str, Any]) -> Int[np.ndarray, " runs"]:
    """The runs of a compressed or uncompressed COCO RLE, checked without painting it; anything
    else, or counts that do not fill the size, raises AnnotationError."""
    try:
        (height, width), counts = rle["size"], rle["counts"]
        lengths = (
            _expand(counts)
            if isinstance(counts, str | bytes)
            else np.asarray(counts, np.int64).reshape(-1)
        )
    except (KeyError, TypeError, ValueError, OverflowError) as problem:
        raise AnnotationError(
            f"an RLE mask must be {{'size': [height, width], 'counts': ...}}: {problem}"
        ) from problem
    if (lengths < 0).any():
        raise AnnotationError(
            f"an RLE mask has a run of {lengths.min()} pixels; its counts are damaged"
        )
    # one run alone beyond the picture: the sum could wrap around to the right number
    if lengths.sum() != height * width or lengths.max(initial=0) > height * width:
        raise AnnotationError(
            f"an RLE mask counts {lengths.sum()} pixels, expected {height} x {width} = "
            f"{height * width}"
        )
    return lengths


_LIMITS = 1 << (
    5 * np.arange(1, 13) - 1
)  # a number in [-limit, limit) fits into that many characters


def _compress(counts: Int[np.ndarray, " counts"], num_counts: Int[np.ndarray, " n"]) -> list[str]:
    """The COCO string of each mask: 5 bits a character from 48 up, bit 5 = more follows; from the
    fourth number on, differences to two before."""
    ends = np.cumsum(num_counts)
    place = np.arange(len(counts)) - np.repeat(ends - num_counts, num_counts)
    numbers = counts.copy()
    numbers[2:] -= np.where(place[2:] > 2, counts[:-2], 0)
    num_characters = 1 + ((numbers[:, None] >= _LIMITS) | (numbers[:, None] < -_LIMITS)).sum(1)
    digit = np.arange(num_characters.max(initial=1))
    characters = (numbers[:, None] >> (5 * digit)) & 0x1F
    characters |= np.where(digit < num_characters[:, None] - 1, 0x20, 0)
    text = (
        (characters + 48)[digit < num_characters[:, None]]
        .astype(np.uint8)
        .tobytes()
        .decode("ascii")
    )
    cuts = [0, *np.cumsum(num_characters)[ends - 1].tolist()]
    return [text[start:end] for start, end in pairwise(cuts)]


def _expand(text: str | bytes) -> np.ndarray:
    codes = np.frombuffer(
        text if isinstance(text, bytes) else text.encode("ascii", "replace"), np.uint8
    )
    characters = codes.astype(np.int64) - 48
    if not len(characters):
        return characters
    last = (characters & 0x20) == 0
    if ((characters < 0) | (characters > 63)).any() or not last[-1]:
        raise ValueError("the counts are not a COCO run-length string")
    first = np.flatnonzero(np.append(True, last[:-1]))
    place = np.arange(len(characters)) - np.repeat(
        first, np.diff(np.append(first, len(characters)))
    )
    if place.max() > 11:
        raise ValueError("the counts are not a COCO run-length string")
    numbers = np.add.reduceat((characters & 0x1F) << (5 * place), first)
    bits = 5 * (place[last] + 1)
    numbers -= np.where(characters[last] & 0x10, 1 << bits, 0)  # two's complement
    numbers[1::2], numbers[2::2] = np.cumsum(numbers[1::2]), np.cumsum(numbers[2::2])
    return numbers


def mask_boxes(masks: Bool[Tensor, "n h w"]) -> Float[Tensor, "n 4"]:
    """Tight xyxy px boxes; zeros for an empty mask."""
    (x1, x2), (y1, y2) = _extent(masks.any(1)), _extent(masks.any(2))
    return torch.where(masks.any(2).any(1)[:, None], torch.stack([x1, y1, x2, y2], -1), 0).float()


def _extent(marked: Tensor) -> tuple[Tensor, Tensor]:
    position = torch.arange(marked.shape[1], device=marked.device)
    first = torch.where(marked, position, marked.shape[1]).amin(1)
    return first, torch.where(marked, position + 1, 0).amax(1)
