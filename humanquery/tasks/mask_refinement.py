"""A second look at each person's mask: its box on a grid of fixed size, whatever the person's size
in the picture."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from humanquery.core.transfer import constants
from humanquery.nn.roi_align import roi_align
from humanquery.tasks.base import zero_init


@dataclass(frozen=True)
class MaskRefinementConfig:
    """Convolutions over the person's box, as in the mask head of Mask R-CNN, that correct the
    product of query and pixel map."""

    grid: int = 32
    """cells of a mask along each side of the box, even; features are read on half as many"""
    margin: float = 0.1
    """of the box's sides, added on each side"""
    width: int = 128
    layers: int = 4
    bce: float = 8.0
    dice: float = 5.0


class MaskRefinement(nn.Module):
    """Starts by changing nothing."""

    def __init__(self, config: MaskRefinementConfig, dim: int):
        super().__init__()
        self.config = c = config
        layers: list[nn.Module] = []
        for i in range(c.layers):
            width = c.width if i else 2 * dim + 4
            layers += [nn.Conv2d(width, c.width, 3, padding=1), nn.GroupNorm(8, c.width), nn.ReLU()]
        self.look = nn.Sequential(
            *layers, nn.ConvTranspose2d(c.width, c.width // 2, 2, stride=2), nn.ReLU()
        )
        self.correct = nn.Sequential(
            nn.Conv2d(c.width // 2 + 2, c.width // 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c.width // 4, 1, 1),
        )
        zero_init(self.correct)
        line = (torch.arange(c.grid) + 0.5) / c.grid
        places = torch.stack(torch.meshgrid(line, line, indexing="xy"))
        self.register_buffer("places", places.flatten(1).T.contiguous(), persistent=False)
        self.register_buffer("coarse_places", avg_pool2d(places * 2 - 1, 2), persistent=False)

    def windows(self, boxes: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
        """What the grids cover: cxcywh boxes with the margin, as xyxy in the same unit."""
        center, half = boxes[..., :2], boxes[..., 2:] * (0.5 + self.config.margin)
        return torch.cat([center - half, center + half], -1)

    def points(self, windows: Float[Tensor, "n 4"]) -> Float[Tensor, "n p 2"]:
        """(x, y) of the centres of the grid's cells, line by line, in the windows' unit."""
        corner, sides = windows[:, None, :2], (windows[:, 2:] - windows[:, :2])[:, None]
        return corner + sides * self.places

    def forward(
        self,
        cells: Float[Tensor, "b c h w"],
        fine: Float[Tensor, "b c h w"],
        logits: Float[Tensor, "b k h w"],
        windows: Float[Tensor, "b k 4"],
    ) -> Float[Tensor, "b k g g"]:
        """Refined logits on the grids. `cells` is the pixel map and `fine` the neck's map of stride
        4; `logits` the masks to be corrected; windows are xyxy in 0..1 of the maps."""
        return self.refined(*self.cut(cells, fine, logits, windows)).unflatten(0, logits.shape[:2])

    def cut(
        self, cells: Tensor, fine: Tensor, logits: Tensor, windows: Tensor
    ) -> tuple[Float[Tensor, "n d r r"], Float[Tensor, "n 1 g g"]]:
        """Both maps, one above the other, on half the grid, and logits on the grid, of all n = b ·
        k people."""
        b, k, height, width = logits.shape
        where = windows.detach().float().flatten(0, 1)
        where = where * constants([width, height, width, height], where)
        picture = (
            torch.arange(b, device=where.device, dtype=where.dtype)[:, None]
            .expand(b, k)
            .reshape(-1, 1)
        )
        person = torch.arange(b * k, device=where.device, dtype=where.dtype)[:, None]
        here, coarse, grid = torch.cat([picture, where], 1), self.config.grid // 2, self.config.grid
        maps = [
            roi_align(m.float(), here, (coarse, coarse), sampling_ratio=2) for m in (cells, fine)
        ]
        start = roi_align(
            logits.flatten(0, 1)[:, None].float(),
            torch.cat([person, where], 1),
            (grid, grid),
            sampling_ratio=2,
        )
        return torch.cat(maps, 1), start

    def refined(
        self, maps: Float[Tensor, "n d r r"], start: Float[Tensor, "n 1 g g"]
    ) -> Float[Tensor, "n g g"]:
        """Logits of people of whom `cut` was given."""
        known = torch.cat([start.clamp(-12, 12) / 4, start.sigmoid()], 1)
        places = self.coarse_places.expand(start.shape[0], -1, -1, -1)
        seen = self.look(torch.cat([maps, avg_pool2d(known, 2), places], 1))
        return (start + self.correct(torch.cat([seen, known.to(seen)], 1)).float()).squeeze(1)
