"""Masks painted at the picture's pixels, the one place where that is done: logits are interpolated
straight at the pixels' centres, per person only where a positive cell is near, since elsewhere
nothing can be positive."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humanquery.core.affine import Affine2D, Size
from humanquery.core.batch import Meta
from humanquery.core.transfer import to_device
from humanquery.ops import native
from humanquery.ops.native.masks import painted

Painted = tuple[Bool[Tensor, "n H W"], Float[Tensor, " n"]]
"""masks, and the mean probability inside each (0 for an empty one)"""


def paint_masks(logits: Float[Tensor, "n h w"], meta: Meta, padded_size: Size) -> Painted:
    """Masks at the picture's size from logits on the padded canvas, of which only the valid part is
    read. A rotated canvas raises ValueError: its lines are no lines of the picture."""
    masks = _no_masks(logits.shape[0], meta.image_size, logits.device)
    stride = padded_size[0] / logits.shape[1], padded_size[1] / logits.shape[2]
    places = _sampling_places(meta.to_canvas, meta.image_size, meta.canvas_size, stride)
    return masks, _paint(logits, *places, masks)


def paint_windows(
    logits: Float[Tensor, "n g g"], windows: Float[Tensor, "n 4"], meta: Meta
) -> Painted:
    """As `paint_masks`, from logits on grids over windows (xyxy px of the canvas); nobody is where
    his window is not."""
    device = logits.device
    logits, windows = logits.cpu(), windows.cpu()  # host sync: for all people at once
    masks = _no_masks(logits.shape[0], meta.image_size, logits.device)
    inside = logits.new_zeros(logits.shape[0])
    patches = _window_patches(windows, logits.shape[-1], meta)
    for i, (lines, columns, down, right) in enumerate(patches):
        if len(down) and len(right):
            patch = masks[i : i + 1, lines, columns]
            inside[i] = _paint(logits[i : i + 1], down, right, patch)[0]
    return masks.to(device), inside.to(device)


Patch = tuple[slice, slice, Float[Tensor, " lines"], Float[Tensor, " columns"]]
"""lines and columns of the picture, and where their centres lie on a map, as indices of its
cells (the first's centre is 0.0)"""


def _window_patches(windows: Float[Tensor, "n 4"], grid: int, meta: Meta) -> Iterator[Patch]:
    """Per person the patch of the picture whose pixels' centres lie in the person's window and on
    the valid canvas, with their places on the window's grid."""
    c = meta.to_canvas
    _check_upright(c)
    for x1, y1, x2, y2 in windows.tolist():
        axes = []
        for scale, offset, length, valid, low, high in (
            (c.e, c.f, meta.image_size[0], meta.canvas_size[0], y1, y2),
            (c.a, c.c, meta.image_size[1], meta.canvas_size[1], x1, x2),
        ):
            centers = scale * (np.arange(length) + 0.5) + offset
            inside = np.flatnonzero((centers >= max(low, 0.0)) & (centers < min(high, valid)))
            here = slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0)
            at = (centers[here] - low) / max(high - low, 1e-6) * grid - 0.5
            axes.append((here, torch.from_numpy(at.clip(0, grid - 1)).float()))
        (lines, down), (columns, right) = axes
        yield lines, columns, down, right


def _sampling_places(
    to_canvas: Affine2D, image_size: Size, canvas_size: Size, stride: tuple[float, float]
) -> tuple[Float[Tensor, " h"], Float[Tensor, " w"]]:
    """Where the centres of a picture's lines and columns lie on the stride-4 map, as indices of
    cells (the first cell's centre is 0.0), kept inside the valid canvas. A rotated canvas raises
    ValueError: its lines are no lines of the map."""
    _check_upright(to_canvas)
    places = []
    for scale, offset, length, valid, cell in (
        (to_canvas.e, to_canvas.f, image_size[0], canvas_size[0], stride[0]),
        (to_canvas.a, to_canvas.c, image_size[1], canvas_size[1], stride[1]),
    ):
        at = (scale * (torch.arange(length, dtype=torch.float64) + 0.5) + offset) / cell - 0.5
        # at the last valid cell's centre nothing of the padding is blended in
        places.append(at.clamp(min=0, max=max(valid / cell - 1, 0)).float())
    return places[0], places[1]


def _check_upright(to_canvas: Affine2D) -> None:
    if to_canvas.b or to_canvas.d:
        raise ValueError(
            f"masks are read from upright canvases only, not through {to_canvas}; use a letterbox"
        )


def _near(positive: Bool[Tensor, "n cells"], places: Float[Tensor, " p"]) -> Int[Tensor, "n 2"]:
    """Per row the range of `places` (end not included) less than one cell away from a positive
    cell or between two; empty where none is positive."""
    cells = torch.arange(positive.shape[1], device=positive.device)
    first = torch.where(positive, cells, positive.shape[1] + 1).amin(1)
    last = torch.where(positive, cells, -2).amax(1)
    near = (places > first[:, None] - 1) & (places < last[:, None] + 1)
    position = torch.arange(len(places), device=positive.device)
    start = torch.where(near, position, len(places)).amin(1)
    end = torch.where(near, position + 1, 0).amax(1)
    return torch.stack([start, end], 1)


def _no_masks(count: int, size: Size, device: torch.device) -> Bool[Tensor, "n h w"]:
    if device.type == "cpu":
        # numpy asks the system for zeroed memory, of which only the pages of people are touched
        return torch.from_numpy(np.zeros((count, *size), bool))
    return torch.zeros(count, *size, dtype=torch.bool, device=device)


def _paint(
    logits: Float[Tensor, "n cells_high cells_wide"],
    down: Float[Tensor, " h"],
    right: Float[Tensor, " w"],
    masks: Bool[Tensor, "n h w"],
) -> Float[Tensor, " n"]:
    """`ops.native.masks.painted` where it runs, else the same in torch."""
    native_runs = logits.device.type == "cpu" and not native.missing()
    return (painted if native_runs else _painted)(logits, down, right, masks)


def _painted(
    logits: Float[Tensor, "n cells_high cells_wide"],
    down: Float[Tensor, " h"],
    right: Float[Tensor, " w"],
    masks: Bool[Tensor, "n h w"],
) -> Float[Tensor, " n"]:
    """`ops.native.masks.painted` in torch."""
    positive, device = logits > 0, logits.device
    there = to_device(down, device), to_device(right, device)
    lines, columns = _near(positive.any(2), there[0]), _near(positive.any(1), there[1])
    windows = torch.cat(
        [lines, columns], 1
    ).tolist()  # host sync: the sizes of what is interpolated
    inside = logits.new_zeros(len(logits))
    for i, (top, bottom, left, end) in enumerate(windows):
        if top < bottom and left < end:
            first, last = int(down[top]), int(down[bottom - 1])
            values = _interpolated(
                logits[i, first : last + 2], there[0][top:bottom] - first, there[1][left:end]
            )
            found = values > 0
            masks[i, top:bottom, left:end] = found
            inside[i] = torch.where(found, values.sigmoid(), 0.0).sum() / (found.sum() + 1e-6)
    return inside


def _interpolated(
    cells: Float[Tensor, "h w"], down: Float[Tensor, " lines"], right: Float[Tensor, " columns"]
) -> Float[Tensor, "lines columns"]:
    """Bilinear, first along the lines of the map, then between them."""
    left, above = right.long(), down.long()
    cells = torch.lerp(
        cells[:, left], cells[:, (left + 1).clamp(max=cells.shape[1] - 1)], right - left
    )
    below = (above + 1).clamp(max=len(cells) - 1)
    return torch.lerp(cells[above], cells[below], (down - above)[:, None])
