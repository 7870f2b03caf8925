"""Truth of a whole picture, pixel by pixel: classes (parsing) or amounts (density)."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from humanquery.core.affine import Affine2D, Size


@dataclass(frozen=True, eq=False)
class TruthMap:
    """One value per pixel of a picture.

    Whole numbers are classes: they move by nearest neighbour, so that no class appears between two
    others. Floats are amounts per px² (people of a density map): they move linearly and are divided
    by the change of area, so that their sum stays.
    """

    values: Tensor
    """h w (classes, whole numbers) or c h w (amounts, float)"""
    swaps: tuple[tuple[int, int], ...] = ()
    """classes (or channels) that a mirror swaps: left arm and right arm"""
    outside: int = 0
    """class of what lies outside of the picture after warping"""

    def __post_init__(self):
        wanted = 3 if self.values.is_floating_point() else 2
        if self.values.ndim != wanted:
            raise ValueError(
                f"TruthMap: values are {self.values.dtype} of shape {tuple(self.values.shape)}; "
                "expected whole numbers h w, or floats c h w"
            )

    @property
    def size(self) -> Size:
        """(height, width)."""
        return tuple(self.values.shape[-2:])

    def to(self, device: Any) -> "TruthMap":
        return replace(self, values=self.values.to(device))

    def warp(self, matrix: Affine2D, size: Size) -> "TruthMap":
        """The map on a canvas of `size`; a mirroring matrix also swaps left and right."""
        height, width = self.size
        device = self.values.device
        y, x = torch.meshgrid(
            torch.arange(size[0], device=device) + 0.5,
            torch.arange(size[1], device=device) + 0.5,
            indexing="ij",
        )
        # in double: a rounded centre would fall on the wrong side of a border between classes
        places = matrix.inverse().points(torch.stack([x, y], -1).double())
        inside = (places >= 0).all(-1) & (places[..., 0] < width) & (places[..., 1] < height)
        if self.values.is_floating_point():
            values = self._amounts(places, inside, abs(matrix.determinant))
        else:
            column = places[..., 0].long().clamp(0, max(width - 1, 0))
            line = places[..., 1].long().clamp(0, max(height - 1, 0))
            values = torch.where(inside, self.values[line, column], self.outside)
            values = values.to(self.values.dtype)
        moved = replace(self, values=values)
        return moved._swapped() if matrix.is_mirror else moved

    def _amounts(self, places: Tensor, inside: Tensor, area: float) -> Tensor:
        sides = places.new_tensor([self.size[1], self.size[0]])
        values = torch.nn.functional.grid_sample(
            self.values[None].double(),
            (places / sides * 2 - 1)[None],
            padding_mode="border",
            align_corners=False,
        )[0]
        return torch.where(inside, values / area, 0.0).to(self.values.dtype)

    def _swapped(self) -> "TruthMap":
        if self.values.is_floating_point():
            order = list(range(len(self.values)))
            for a, b in self.swaps:
                order[a], order[b] = order[b], order[a]
            return replace(self, values=self.values[order])
        values = self.values.clone()
        for a, b in self.swaps:
            values[self.values == a], values[self.values == b] = b, a
        return replace(self, values=values)
