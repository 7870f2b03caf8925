"""A second look at each person's mask: its box on a grid of fixed size, whatever the person's size in the picture."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import roi_align

from humanquery.tasks.base import silent


@dataclass(frozen=True)
class MaskRefinementConfig:
    """Convolutions over the person's box, as in the mask head of Mask R-CNN, that correct the product of query and pixel map."""

    grid: int = 32
    """cells along each side of the box"""
    margin: float = 0.1
    """of the box's sides, added on each side"""
    width: int = 64
    layers: int = 4
    bce: float = 8.0
    dice: float = 5.0


class MaskRefinement(nn.Module):
    """Starts by changing nothing."""

    def __init__(self, config: MaskRefinementConfig, dim: int):
        super().__init__()
        self.config = c = config
        self.reduce = nn.Conv2d(2 * dim, c.width, 1)
        layers: list[nn.Module] = []
        for i in range(c.layers):
            layers += [nn.Conv2d(c.width + (0 if i else 4), c.width, 3, padding=1), nn.GroupNorm(8, c.width), nn.ReLU()]
        self.look = nn.Sequential(*layers)
        self.correct = silent(nn.Conv2d(c.width, 1, 1))
        line = (torch.arange(c.grid) + 0.5) / c.grid * 2 - 1
        self.register_buffer("places", torch.stack(torch.meshgrid(line, line, indexing="xy")), persistent=False)

    def windows(self, boxes: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
        """What the grids cover: cxcywh boxes with the margin, as xyxy in the same unit."""
        center, half = boxes[..., :2], boxes[..., 2:] * (0.5 + self.config.margin)
        return torch.cat([center - half, center + half], -1)

    def forward(
        self,
        cells: Float[Tensor, "b c h w"],
        fine: Float[Tensor, "b c h w"],
        logits: Float[Tensor, "b k h w"],
        windows: Float[Tensor, "b k 4"],
    ) -> Float[Tensor, "b k g g"]:
        """Refined logits on the grids. `cells` is the pixel map and `fine` the neck's map of stride 4; `logits` the masks to
        be corrected; windows are xyxy in 0..1 of the maps."""
        b, k, height, width = logits.shape
        where = windows.detach().float().flatten(0, 1) * windows.new_tensor([width, height, width, height])
        features = self.reduce(torch.cat([cells, fine], 1)).relu()
        picture = torch.arange(b, device=where.device, dtype=where.dtype)[:, None].expand(b, k).reshape(-1, 1)
        person = torch.arange(b * k, device=where.device, dtype=where.dtype)[:, None]
        seen = self._on_grid(features, torch.cat([picture, where], 1))
        start = self._on_grid(logits.flatten(0, 1)[:, None], torch.cat([person, where], 1))
        places = self.places.expand(b * k, -1, -1, -1)
        known = torch.cat([seen, start.clamp(-12, 12) / 4, start.sigmoid(), places], 1)
        return (start + self.correct(self.look(known)).float()).squeeze(1).unflatten(0, (b, k))

    def _on_grid(self, maps: Tensor, rois: Float[Tensor, "n 5"]) -> Float[Tensor, "n c g g"]:
        return roi_align(maps.float(), rois, self.config.grid, sampling_ratio=2, aligned=True)
