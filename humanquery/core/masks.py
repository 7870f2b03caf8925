"""Masks as bitmaps, polygons and COCO run lengths (column-major counts, compressed to the COCO string)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from humanquery.core.affine import Size
from humanquery.core.arrays import Tensor, as_numpy, torch
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
    height, width = bitmap.shape
    pixels = as_numpy(bitmap)
    top, bottom, left, right = _crop(pixels)
    inner = pixels[top:bottom, left:right].view(np.uint8)
    framed = np.zeros((right - left, bottom - top + 2), np.int8)  # a column a line, a zero at either end
    framed[:, 1:-1] = inner.T
    steps = np.diff(framed, axis=1)
    starts, ends = (_positions(steps == step, top, left, height) for step in (1, -1))
    apart = np.flatnonzero(starts[1:] != ends[:-1])  # runs join where a full column meets the next one
    starts, ends = np.append(starts[:1], starts[apart + 1]), np.append(ends[apart], ends[-1:])
    bounds = np.concatenate([[0], np.stack([starts, ends], 1).ravel(), [height * width]]).astype(np.int64)
    counts = np.diff(bounds)
    return (counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts).tolist()


def _positions(marked: np.ndarray, top: int, left: int, height: int) -> np.ndarray:
    column, line = np.nonzero(marked)
    return (column + left) * height + line + top


def _crop(bitmap: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of what is set (ends not included); all 0 where nothing is."""
    lines = np.flatnonzero(bitmap.any(1))
    if not len(lines):
        return 0, 0, 0, 0
    top, bottom = int(lines[0]), int(lines[-1]) + 1
    columns = np.flatnonzero(bitmap[top:bottom].any(0))
    return top, bottom, int(columns[0]), int(columns[-1]) + 1


def rle_to_bitmap(rle: dict[str, Any]) -> Bool[Tensor, "h w"]:
    """From compressed or uncompressed COCO RLE; anything else, or counts that do not fill the size, raises
    AnnotationError."""
    try:
        (height, width), counts = rle["size"], rle["counts"]
        lengths = _expand(counts) if isinstance(counts, str | bytes) else np.asarray(counts, np.int64).reshape(-1)
    except (KeyError, TypeError, ValueError) as problem:
        raise AnnotationError(f"an RLE mask must be {{'size': [height, width], 'counts': ...}}: {problem}") from problem
    if (lengths < 0).any():
        raise AnnotationError(f"an RLE mask has a run of {lengths.min()} pixels; its counts are damaged")
    if lengths.sum() != height * width:
        raise AnnotationError(
            f"an RLE mask counts {lengths.sum()} pixels, expected {height} x {width} = {height * width}"
        )
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return torch.from_numpy(np.ascontiguousarray(flat.reshape(width, height).T))


_LIMITS = 1 << (5 * np.arange(1, 13) - 1)  # a number in [-limit, limit) fits into that many characters


def _compress(counts: list[int]) -> str:
    """The COCO string: 5 bits a character from 48 up, bit 5 = more follows; from the third on, differences to two before."""
    numbers = np.asarray(counts, np.int64)
    numbers[3:] -= np.asarray(counts, np.int64)[1:-2]
    num_characters = 1 + ((numbers[:, None] >= _LIMITS) | (numbers[:, None] < -_LIMITS)).sum(1)
    place = np.arange(num_characters.max(initial=1))
    characters = (numbers[:, None] >> (5 * place)) & 0x1F
    characters |= np.where(place < num_characters[:, None] - 1, 0x20, 0)
    return (characters + 48)[place < num_characters[:, None]].astype(np.uint8).tobytes().decode("ascii")


def _expand(text: str | bytes) -> np.ndarray:
    codes = np.frombuffer(text if isinstance(text, bytes) else text.encode("ascii", "replace"), np.uint8)
    characters = codes.astype(np.int64) - 48
    if not len(characters):
        return characters
    last = (characters & 0x20) == 0
    if ((characters < 0) | (characters > 63)).any() or not last[-1]:
        raise ValueError("the counts are not a COCO run-length string")
    first = np.flatnonzero(np.append(True, last[:-1]))
    place = np.arange(len(characters)) - np.repeat(first, np.diff(np.append(first, len(characters))))
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
