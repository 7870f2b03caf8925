"""What pictures of single people, cut out of the photo, say about them: apparent gender and age."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torchvision.ops import roi_align

from humanquery.core.boxes import clip
from humanquery.core.transfer import numbers, sent

Boxes = Sequence[Float[Tensor, "_n 4"]] | Float[Tensor, "b q 4"]


@dataclass(frozen=True)
class RegionConfig:
    """Two views of each person, of fixed sizes (height, width) in px, multiples of 32, so that people near and far look
    alike to the network."""

    whole: tuple[int, int] = (160, 96)
    """the box, stretched to this size"""
    upper: tuple[int, int] = (128, 128)
    """a square at the top of the box, as wide as its shorter side: head and shoulders of who stands"""
    margin: float = 0.08
    """of a view's sides, added on each side"""
    channels: int = 256
    """to which the map of stride 32 is brought before it is pooled"""
    whole_grid: tuple[int, int] = (5, 1)
    """(rows, columns) of cells to which a view's map is pooled"""
    upper_grid: tuple[int, int] = (2, 2)
    dim: int = 256
    """of the vector per person"""
    dropout: float = 0.3
    num_ages: int = 85
    """classes 0 .. num_ages - 1 years"""


@dataclass(frozen=True, eq=False)
class RegionViews:
    """One row per box, picture after picture."""

    whole: Float[Tensor, "n 3 h w"]
    upper: Float[Tensor, "n 3 s t"]
    aspect: Float[Tensor, "n 1"]
    """logarithm of the box's height over its width, within ±1.5"""


@dataclass(frozen=True, eq=False)
class RegionReading:
    """One row per box, picture after picture."""

    vectors: Float[Tensor, "n dim"]
    gender_logit: Float[Tensor, " n"]
    """of label 1, female"""
    age_logits: Float[Tensor, "n ages"]


def cut_views(images: Float[Tensor, "b 3 h w"], boxes: Boxes, config: RegionConfig) -> RegionViews:
    """The views of everybody. `boxes`: xyxy px of the canvas, one tensor per picture (may be empty).

    Boxes are clipped to the canvas; one that lies outside of it shows the nearest edge. What a view shows of outside the
    canvas is 0, the mean colour of normalised pictures. Another number of box tensors than pictures raises ValueError.
    """
    pictures = boxes.shape[0] if isinstance(boxes, Tensor) else len(boxes)  # len would close an exported batch
    if pictures != images.shape[0]:
        raise ValueError(
            f"cut_views: {images.shape[0]} pictures and boxes of {pictures}; expected one tensor of boxes each"
        )
    which, inside = _in_canvas(images, boxes)
    sides = inside[:, 2:] - inside[:, :2]
    short = sides.amin(-1)
    middle = (inside[:, 0] + inside[:, 2]) / 2
    square = torch.stack([middle - short / 2, inside[:, 1], middle + short / 2, inside[:, 1] + short], 1)
    views = [
        roi_align(
            images.float(), torch.cat([which, _widened(part, config.margin)], 1), size, sampling_ratio=0, aligned=True
        )
        for part, size in ((inside, config.whole), (square, config.upper))
    ]
    return RegionViews(*views, (sides[:, 1:] / sides[:, :1]).log().clamp(-1.5, 1.5))


def _in_canvas(images: Tensor, boxes: Boxes) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n 4"]]:
    """Number of the picture, and box inside the canvas, at least one pixel wide and high."""
    height, width = images.shape[-2:]
    if isinstance(boxes, Tensor):  # as many in each picture; no loop over pictures, which a trace could not keep open
        number = torch.arange(boxes.shape[0], device=images.device, dtype=torch.float32)
        which = number[:, None].expand(boxes.shape[:2]).reshape(-1, 1)
        rows = boxes.detach().float().flatten(0, 1)
    else:
        each = [images.new_full((len(b), 1), i, dtype=torch.float32) for i, b in enumerate(boxes)]
        which, rows = torch.cat(each), torch.cat([b.detach().float() for b in boxes])
    inside = clip(sent(rows, images.device), (height, width))
    start = torch.minimum(inside[:, :2], numbers([width - 1, height - 1], inside))
    return which, torch.cat([start, torch.maximum(inside[:, 2:], start + 1)], 1)


def _widened(boxes: Float[Tensor, "n 4"], margin: float) -> Float[Tensor, "n 4"]:
    more = (boxes[:, 2:] - boxes[:, :2]) * margin
    return torch.cat([boxes[:, :2] - more, boxes[:, 2:] + more], 1)


class RegionAttributes(nn.Module):
    """Gender and age logits of people from the maps of stride 32 (`channels` wide) of their two views."""

    def __init__(self, channels: int, config: RegionConfig | None = None):
        super().__init__()
        self.config = c = config or RegionConfig()
        self.reduce = nn.ModuleList(nn.Conv2d(channels, c.channels, 1) for _ in range(2))
        cells = c.channels * sum(rows * columns for rows, columns in (c.whole_grid, c.upper_grid))
        self.read = nn.Sequential(
            nn.Dropout(c.dropout),
            nn.Linear(cells + 1, c.dim),
            nn.LayerNorm(c.dim),
            nn.ReLU(),
            nn.Dropout(c.dropout),
        )
        self.gender = nn.Linear(c.dim, 1)
        self.age = nn.Linear(c.dim, c.num_ages)
        self.register_buffer("ages", torch.arange(c.num_ages, dtype=torch.float32), persistent=False)
        with torch.no_grad():  # ages of people in photos, roughly: the variance of an even start would drown all else
            self.age.bias.copy_(-0.5 * ((self.ages - 30) / 15) ** 2)

    def forward(
        self,
        whole: Float[Tensor, "n c h w"],
        upper: Float[Tensor, "n c s t"],
        aspect: Float[Tensor, "n 1"],
    ) -> RegionReading:
        """Maps and `RegionViews.aspect` to logits, row by row."""
        maps, grids = (whole, upper), (self.config.whole_grid, self.config.upper_grid)
        cells = [
            adaptive_avg_pool2d(reduce(f).relu().float(), grid).flatten(1)
            for f, reduce, grid in zip(maps, self.reduce, grids, strict=True)
        ]
        vectors = self.read(torch.cat([*cells, aspect], 1))
        return RegionReading(vectors.float(), self.gender(vectors).squeeze(-1).float(), self.age(vectors).float())


def read_people(
    images: Float[Tensor, "b 3 h w"],
    boxes: Boxes,
    backbone: Callable[[Tensor], list[Tensor]],
    regions: RegionAttributes,
    *,
    mirrored: bool = False,
) -> RegionReading:
    """Everybody in the boxes of normalised pictures: both views through the backbone, their coarsest maps to the head.

    `mirrored`: the mean of what is said of the views and of their mirror images, for twice the time.
    """
    views = cut_views(images, boxes, regions.config)
    if views.aspect.shape[0] == 0:  # some layers refuse an empty batch; one blank person keeps the graph
        blank = [view.new_zeros(1, *view.shape[1:]) for view in (views.whole, views.upper)]
        found = regions(*(backbone(view)[-1] for view in blank), views.aspect.new_zeros(1, 1))
        return RegionReading(found.vectors[:0], found.gender_logit[:0], found.age_logits[:0])
    said = regions(backbone(views.whole)[-1], backbone(views.upper)[-1], views.aspect)
    if not mirrored:
        return said
    other = regions(backbone(views.whole.flip(-1))[-1], backbone(views.upper.flip(-1))[-1], views.aspect)
    return RegionReading(
        (said.vectors + other.vectors) / 2,
        (said.gender_logit + other.gender_logit) / 2,
        (said.age_logits + other.age_logits) / 2,
    )
