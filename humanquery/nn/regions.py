"""What the feature maps say about the people in given boxes: apparent gender and age from RoIAlign."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import roi_align

from humanquery.core.boxes import clip
from humanquery.core.transfer import numbers, sent

STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class RegionConfig:
    """Grids are (rows, columns) of cells laid over a box."""

    head_grid: tuple[int, int] = (6, 6)
    """stride 8, over the upper part of the box, where the face of a standing person is"""
    head_share: float = 0.4
    """of the box's height is that upper part"""
    body_grid: tuple[int, int] = (8, 4)
    """stride 16, over the whole box"""
    whole_grid: tuple[int, int] = (6, 3)
    """stride 32, over the whole box"""
    widths: tuple[int, int, int] = (32, 48, 64)
    """channels to which the maps of stride 8, 16 and 32 are reduced before they are read"""
    dim: int = 256
    """of the vector per person"""
    dropout: float = 0.3
    num_ages: int = 85
    """classes 0 .. num_ages - 1 years"""


@dataclass(frozen=True, eq=False)
class RegionReading:
    """One row per box, picture after picture."""

    vectors: Float[Tensor, "n dim"]
    gender_logit: Float[Tensor, " n"]
    """of label 1, female"""
    age_logits: Float[Tensor, "n ages"]


class RegionAttributes(nn.Module):
    """Gender and age logits of people from feature maps and their boxes, one pass for everybody in all pictures.

    `channels`: widths of the maps of strides 8, 16 and 32. Boxes may be whole people, people cut by the picture's edge
    or faces. The vector of a person is read from three grids of cells over its box and from the box's aspect.
    """

    def __init__(self, channels: tuple[int, ...], config: RegionConfig | None = None):
        super().__init__()
        if len(channels) != len(STRIDES):
            raise ValueError(
                f"RegionAttributes: got {len(channels)} channels {tuple(channels)}, expected the widths of the maps of "
                f"strides {STRIDES}"
            )
        self.config = config = config or RegionConfig()
        self.reduce = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in zip(channels, config.widths, strict=True))
        self.grids = (config.head_grid, config.body_grid, config.whole_grid)
        cells = sum(w * rows * columns for w, (rows, columns) in zip(config.widths, self.grids, strict=True))
        self.read = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(cells + 1, config.dim),
            nn.LayerNorm(config.dim),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.dim, config.dim),
            nn.ReLU(),
        )
        self.gender = nn.Linear(config.dim, 1)
        self.age = nn.Linear(config.dim, config.num_ages)
        self.register_buffer("ages", torch.arange(config.num_ages, dtype=torch.float32), persistent=False)
        with torch.no_grad():  # ages of people in photos, roughly: the variance of an even start would drown all else
            self.age.bias.copy_(-0.5 * ((self.ages - 30) / 15) ** 2)

    def forward(
        self,
        features: Sequence[Float[Tensor, "b _c _h _w"]],
        boxes: Sequence[Float[Tensor, "_n 4"]] | Float[Tensor, "b q 4"],
    ) -> RegionReading:
        """`features`: maps of strides 8, 16 and 32; `boxes`: xyxy px of the canvas, one tensor per picture (may be empty).

        Boxes are clipped to the canvas; one that lies outside of it reads the nearest edge. Rows of the result follow
        the boxes, picture after picture. Another number of maps, or of box tensors than pictures, raises ValueError.
        """
        pictures = boxes.shape[0] if isinstance(boxes, Tensor) else len(boxes)  # len would close an exported batch
        if len(features) != len(STRIDES) or pictures != features[0].shape[0]:
            raise ValueError(
                f"RegionAttributes: got {len(features)} maps of {len(features[0]) if len(features) else 0} pictures and "
                f"boxes of {len(boxes)}; expected the maps of strides {STRIDES} and one tensor of boxes per picture"
            )
        rois = self._rois(features[0], boxes)
        upper = rois.clone()
        upper[:, 4] = rois[:, 2] + (rois[:, 4] - rois[:, 2]) * self.config.head_share
        cells = [
            roi_align(reduce(f).relu().float(), where, grid, 1 / stride, sampling_ratio=2, aligned=True).flatten(1)
            for f, reduce, where, grid, stride in zip(
                features, self.reduce, (upper, rois, rois), self.grids, STRIDES, strict=True
            )
        ]
        sides = rois[:, 3:] - rois[:, 1:3]
        aspect = (sides[:, 1:] / sides[:, :1]).log().clamp(-1.5, 1.5)
        vectors = self.read(torch.cat([*cells, aspect], 1))
        return RegionReading(vectors.float(), self.gender(vectors).squeeze(-1).float(), self.age(vectors).float())

    @staticmethod
    def _rois(finest: Tensor, boxes: Sequence[Tensor] | Tensor) -> Float[Tensor, "n 5"]:
        """(picture, x1, y1, x2, y2), inside the canvas and at least one pixel wide and high."""
        height, width = (side * STRIDES[0] for side in finest.shape[-2:])
        if isinstance(
            boxes, Tensor
        ):  # as many in each picture; no loop over pictures, which a trace could not keep open
            number = torch.arange(boxes.shape[0], device=finest.device, dtype=torch.float32)
            which = number[:, None].expand(boxes.shape[:2]).reshape(-1, 1)
            rows = boxes.detach().float().flatten(0, 1)
        else:
            each = [finest.new_full((len(b), 1), i, dtype=torch.float32) for i, b in enumerate(boxes)]
            which, rows = torch.cat(each), torch.cat([b.detach().float() for b in boxes])
        inside = clip(sent(rows, finest.device), (height, width))
        start = torch.minimum(inside[:, :2], numbers([width - 1, height - 1], inside))
        return torch.cat([which, start, torch.maximum(inside[:, 2:], start + 1)], 1)
