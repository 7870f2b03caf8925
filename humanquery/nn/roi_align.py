"""RoIAlign (He et al., Mask R-CNN, 2017) as torchvision compiled it."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from humanquery.core.affine import Size


def roi_align(
    maps: Float[Tensor, "b c h w"],
    boxes: Float[Tensor, "n 5"],
    size: Size,
    *,
    sampling_ratio: int,
) -> Float[Tensor, "n c p q"]:
    """Each box of `maps` on a grid of `size` (rows, columns) cells, every cell the mean of
    `sampling_ratio`² bilinear samples (0: as many as it has pixels). `boxes`: number of the
    picture, then xyxy px. More than a pixel outside of the maps is 0.

    Importing torchvision takes as long as importing PyTorch, because it brings PyTorch's compiler:
    where neither gradients nor a trace are wanted, only its library of operators is opened.
    """
    plain = not (torch.is_grad_enabled() and (maps.requires_grad or boxes.requires_grad))
    if plain and not torch.compiler.is_compiling() and operators_alone():
        return torch.ops.torchvision.roi_align(maps, boxes, 1.0, *size, sampling_ratio, True)
    from torchvision.ops import roi_align as with_gradients

    return with_gradients(maps, boxes, size, sampling_ratio=sampling_ratio, aligned=True)


@cache  # a library is opened once in a process
def operators_alone() -> bool:
    """Opens torchvision's library of compiled operators; False where it has another name."""
    spec = find_spec("torchvision")
    folders = [Path(place) for place in spec.submodule_search_locations] if spec else []
    for file in sorted(file for folder in folders for file in folder.glob("_C*")):
        if file.suffix in (".so", ".pyd"):
            torch.ops.load_library(str(file))
    return hasattr(torch.ops.torchvision, "roi_align")
