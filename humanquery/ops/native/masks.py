"""Masks in C: bitmaps to COCO's strings, and logits to bitmaps; for who has asked
`native.missing`."""

import ctypes

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from humanquery.ops import native

LEAST_WORK = 1 << 20  # pixels for a further thread, some 50 µs


def run_lengths(bitmaps: Bool[Tensor, "n h w"], *, capability: str = "") -> list[str]:
    """COCO's compressed counts of each bitmap, in as many threads as torch has."""
    pixels = bitmaps.cpu()
    if pixels.stride(2) != 1 and pixels.numel():
        pixels = pixels.contiguous()
    count, height, width = pixels.shape
    texts = (ctypes.c_char_p * count)()
    library = native.library(capability)
    try:
        if library.humanquery_run_lengths(
            pixels.data_ptr(),
            texts,
            count,
            height,
            width,
            pixels.stride(0),
            pixels.stride(1),
            _threads(pixels),
        ):
            raise MemoryError(
                f"humanquery_run_lengths: no memory for the runs of a mask of {height} x {width}"
            )
        return [text.decode("ascii") for text in texts]
    finally:
        library.humanquery_free_texts(texts, count)


def painted(
    logits: Float[Tensor, "n cells_high cells_wide"],
    down: Float[Tensor, " h"],
    right: Float[Tensor, " w"],
    masks: Bool[Tensor, "n h w"],
    *,
    capability: str = "",
) -> Float[Tensor, " n"]:
    """Sets `masks`, which come as zeros and may be parts of larger ones, where bilinear `logits`
    are positive; gives the mean probability there (0 where nothing is). `down` and `right`:
    places of lines and columns as indices of cells, from 0 on."""
    count, height, width = masks.shape
    logits, down, right = (x.float().contiguous() for x in (logits, down, right))
    inside = torch.empty(count)
    pointers = [x.data_ptr() for x in (logits, down, right, masks, inside)]
    sizes = (count, *logits.shape[1:], height, width, masks.stride(0), masks.stride(1))
    if native.library(capability).humanquery_paint_masks(*pointers, *sizes, _threads(masks)):
        raise MemoryError(f"humanquery_paint_masks: no memory for lines of {width} pixels")
    return inside


def _threads(pixels: Tensor) -> int:
    return max(1, min(torch.get_num_threads(), pixels.numel() // LEAST_WORK))
