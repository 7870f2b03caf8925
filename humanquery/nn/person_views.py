"""What pictures of single people, cut out of the photo, say about them: apparent gender and age."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from humanquery.core.boxes import clip
from humanquery.core.transfer import constants, to_device
from humanquery.nn.roi_align import roi_align

Boxes = Sequence[Float[Tensor, "_n 4"]] | Float[Tensor, "b q 4"]


@dataclass(frozen=True)
class RegionConfig:
    """Two or three views of each person, of fixed sizes (height, width) in px, multiples of 32,
    so that people near and far look alike to the network."""

    whole: tuple[int, int] = (160, 96)
    """the box, stretched to this size"""
    upper: tuple[int, int] = (128, 128)
    """a square at the top of the box, as wide as its shorter side: head and shoulders of who
    stands
    """
    head: int = 0
    """side of a third view, a square about the head, which is found in the other two; 0: no such
    view"""
    margin: float = 0.08
    """of a view's sides, added on each side"""
    channels: int = 256
    """to which the map of stride 32 is brought before it is pooled"""
    whole_grid: tuple[int, int] = (5, 1)
    """(rows, columns) of cells to which a view's map is pooled"""
    upper_grid: tuple[int, int] = (2, 2)
    head_grid: tuple[int, int] = (2, 2)
    dim: int = 256
    """of the vector per person"""
    dropout: float = 0.3
    view_dropout: float = 0.0
    """chance in training that a view of a person goes unheard, so that no view is relied on
    alone
    """
    num_ages: int = 85
    """classes 0 .. num_ages - 1 years"""


@dataclass(frozen=True, eq=False)
class RegionViews:
    """One row per box, picture after picture."""

    whole: Float[Tensor, "n 3 h w"]
    upper: Float[Tensor, "n 3 s t"]
    aspect: Float[Tensor, "n 1"]
    """logarithm of the box's height over its width, within ±1.5"""
    which: Float[Tensor, "n 1"]
    """number of the person's picture in the batch"""
    inside: Float[Tensor, "n 4"]
    """the boxes, xyxy px, clipped to the canvas, at least one pixel wide and high"""

    def mirrored(self) -> "RegionViews":
        """Both views mirrored; the boxes stay where they are in the picture."""
        return replace(self, whole=self.whole.flip(-1), upper=self.upper.flip(-1))


@dataclass(frozen=True, eq=False)
class RegionReading:
    """One row per box, picture after picture."""

    vectors: Float[Tensor, "n dim"]
    gender_logit: Float[Tensor, " n"]
    """of label 1, female"""
    age_logits: Float[Tensor, "n ages"]
    heads: Float[Tensor, "n 4"] | None = None
    """squares, xyxy px of the canvas, in which the heads were taken to be; None without a head
    view
    """


def cut_views(images: Float[Tensor, "b 3 h w"], boxes: Boxes, config: RegionConfig) -> RegionViews:
    """The views of everybody. `boxes`: xyxy px of the canvas, one tensor per picture (may be
    empty).

    Boxes are clipped to the canvas; one that lies outside of it shows the nearest edge. What a
    view shows of outside the canvas is 0, the mean colour of normalised pictures. Another number
    of box tensors than pictures raises ValueError.
    """
    pictures = (
        boxes.shape[0] if isinstance(boxes, Tensor) else len(boxes)
    )  # len would close an exported batch
    if pictures != images.shape[0]:
        raise ValueError(
            f"cut_views: {images.shape[0]} pictures and boxes of {pictures}; expected one tensor "
            f"of boxes each"
        )
    which, inside = _in_canvas(images, boxes)
    sides = inside[:, 2:] - inside[:, :2]
    short = sides.amin(-1)
    middle = (inside[:, 0] + inside[:, 2]) / 2
    square = torch.stack(
        [middle - short / 2, inside[:, 1], middle + short / 2, inside[:, 1] + short], 1
    )
    views = [
        _cut(images, which, _widened(p, config.margin), size)
        for p, size in ((inside, config.whole), (square, config.upper))
    ]
    return RegionViews(*views, (sides[:, 1:] / sides[:, :1]).log().clamp(-1.5, 1.5), which, inside)


def _cut(
    images: Tensor, which: Float[Tensor, "n 1"], boxes: Float[Tensor, "n 4"], size: tuple[int, int]
) -> Tensor:
    return roi_align(images.float(), torch.cat([which, boxes], 1), size, sampling_ratio=0)


def _in_canvas(images: Tensor, boxes: Boxes) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n 4"]]:
    """Number of the picture, and box inside the canvas, at least one pixel wide and high."""
    height, width = images.shape[-2:]
    if isinstance(
        boxes, Tensor
    ):  # as many in each picture; no loop over pictures, which a trace could not keep open
        number = torch.arange(boxes.shape[0], device=images.device, dtype=torch.float32)
        which = number[:, None].expand(boxes.shape[:2]).reshape(-1, 1)
        rows = boxes.detach().float().flatten(0, 1)
    else:
        each = [images.new_full((len(b), 1), i, dtype=torch.float32) for i, b in enumerate(boxes)]
        which, rows = torch.cat(each), torch.cat([b.detach().float() for b in boxes])
    inside = clip(to_device(rows, images.device), (height, width))
    start = torch.minimum(inside[:, :2], constants([width - 1, height - 1], inside))
    return which, torch.cat([start, torch.maximum(inside[:, 2:], start + 1)], 1)


def _widened(boxes: Float[Tensor, "n 4"], margin: float) -> Float[Tensor, "n 4"]:
    more = (boxes[:, 2:] - boxes[:, :2]) * margin
    return torch.cat([boxes[:, :2] - more, boxes[:, 2:] + more], 1)


class RegionAttributes(nn.Module):
    """Gender and age logits of people from the maps of stride 32 (`channels` wide) of their
    views."""

    def __init__(self, channels: int, config: RegionConfig | None = None):
        super().__init__()
        self.config = c = config or RegionConfig()
        self.grids = (c.whole_grid, c.upper_grid, *([c.head_grid] if c.head else []))
        self.reduce = nn.ModuleList(nn.Conv2d(channels, c.channels, 1) for _ in self.grids)
        cells = c.channels * sum(rows * columns for rows, columns in self.grids)
        self.read = nn.Sequential(
            nn.Dropout(c.dropout),
            nn.Linear(cells + 1, c.dim),
            nn.LayerNorm(c.dim),
            nn.ReLU(),
            nn.Dropout(c.dropout),
        )
        self.gender = nn.Linear(c.dim, 1)
        self.age = nn.Linear(c.dim, c.num_ages)
        if c.head:
            self.find = HeadFinder(channels, (c.whole, c.upper))
        self.register_buffer(
            "ages", torch.arange(c.num_ages, dtype=torch.float32), persistent=False
        )
        with (
            torch.no_grad()
        ):  # ages of people in photos, roughly: the variance of an even start would drown all else
            self.age.bias.copy_(-0.5 * ((self.ages - 30) / 15) ** 2)

    def forward(
        self,
        whole: Float[Tensor, "n c h w"],
        upper: Float[Tensor, "n c s t"],
        aspect: Float[Tensor, "n 1"],
        head: Float[Tensor, "n c u u"] | None = None,
    ) -> RegionReading:
        """Maps and `RegionViews.aspect` to logits, row by row. `head`: that view's map, expected
        if the config has one."""
        maps = (whole, upper) if head is None else (whole, upper, head)
        if len(maps) != len(self.grids):
            raise ValueError(
                f"RegionAttributes: maps of {len(maps)} views; expected {len(self.grids)} "
                f"(config.head)"
            )
        cells = [
            self._heard(adaptive_avg_pool2d(reduce(f).relu().float(), grid).flatten(1))
            for f, reduce, grid in zip(maps, self.reduce, self.grids, strict=True)
        ]
        vectors = self.read(torch.cat([*cells[:2], aspect, *cells[2:]], 1))
        return RegionReading(
            vectors.float(), self.gender(vectors).squeeze(-1).float(), self.age(vectors).float()
        )

    def _heard(self, cells: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """The cells of a view, those of some people silenced in training (as dropout does, but
        all at once)."""
        if not self.training or not self.config.view_dropout:
            return cells
        kept = 1 - self.config.view_dropout
        return cells * torch.empty_like(cells[:, :1]).bernoulli_(kept) / kept


class HeadFinder(nn.Module):
    """Where the head is in a person's box, from the maps of stride 32 of the person's two views
    of `sizes` (h, w) px."""

    def __init__(self, channels: int, sizes: Sequence[tuple[int, int]], dim: int = 64):
        super().__init__()
        self.reduce = nn.ModuleList(nn.Conv2d(channels, dim, 1) for _ in sizes)
        cells = dim * sum((height // 32) * (width // 32) for height, width in sizes)
        self.place = nn.Sequential(nn.Linear(cells + 1, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, 3))
        with torch.no_grad():  # of somebody who stands
            self.place[-1].weight.mul_(0.1)
            self.place[-1].bias.copy_(torch.tensor([0.5, 0.13, -0.9]))

    def forward(
        self, maps: Sequence[Float[Tensor, "n c _h _w"]], aspect: Float[Tensor, "n 1"]
    ) -> Float[Tensor, "n 3"]:
        """Centre of the head's square, (x, y) as shares of the box's sides within 0..1, and the
        logarithm of its side over the root of the box's area."""
        cells = [
            reduce(f).relu().float().flatten(1) for reduce, f in zip(self.reduce, maps, strict=True)
        ]
        found = self.place(torch.cat([*cells, aspect], 1)).float()
        return torch.cat([found[:, :2].clamp(0, 1), found[:, 2:].clamp(-3, 1)], 1)


def head_squares(places: Float[Tensor, "n 3"], boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """Squares xyxy in the boxes' px, from the output of `HeadFinder`."""
    sides = boxes[:, 2:] - boxes[:, :2]
    middle = boxes[:, :2] + places[:, :2] * sides
    half = places[:, 2:].exp() * sides.prod(-1, keepdim=True).sqrt() / 2
    return torch.cat([middle - half, middle + half], 1)


def read_people(
    images: Float[Tensor, "b 3 h w"],
    boxes: Boxes,
    backbone: Callable[[Tensor], list[Tensor]],
    regions: RegionAttributes,
    *,
    mirrored: bool = False,
    heads: Callable[[Float[Tensor, "n 4"]], Float[Tensor, "n 4"]] | None = None,
) -> RegionReading:
    """Everybody in the boxes of normalised pictures: all views through the backbone, their
    coarsest maps to the head.

    `mirrored`: the mean over the views and their mirror images, for twice the
    time. `heads` may put other squares in the place of the found ones before they are cut out
    (training, where some are known).
    """
    views = cut_views(images, boxes, regions.config)
    nobody = views.aspect.shape[0] == 0
    if nobody:  # some layers refuse an empty batch; one blank person keeps the graph
        views = RegionViews(
            *(
                view.new_zeros(1, *view.shape[1:])
                for view in (getattr(views, f.name) for f in fields(views))
            )
        )
    turned = (views, views.mirrored()) if mirrored else (views,)
    maps = [(backbone(v.whole)[-1], backbone(v.upper)[-1]) for v in turned]
    squares = head = None
    if regions.config.head:
        squares = _found_heads(maps, views, regions)
        used = squares if heads is None or nobody else heads(squares)
        head = _cut(
            images,
            views.which,
            _widened(used.detach(), regions.config.margin),
            (regions.config.head,) * 2,
        )
    readings = []
    for i, (whole, upper) in enumerate(maps):
        third = None if head is None else backbone(head.flip(-1) if i else head)[-1]
        readings.append(regions(whole, upper, views.aspect, third))
    mean = (
        sum(getattr(s, name) for s in readings) / len(readings)
        for name in ("vectors", "gender_logit", "age_logits")
    )
    reading = RegionReading(*mean, squares)
    return _without_anybody(reading) if nobody else reading


def _without_anybody(reading: RegionReading) -> RegionReading:
    rows = {f.name: getattr(reading, f.name) for f in fields(reading)}
    return RegionReading(**{name: None if row is None else row[:0] for name, row in rows.items()})


def _found_heads(
    maps: Sequence[tuple[Tensor, Tensor]], views: RegionViews, regions: RegionAttributes
) -> Tensor:
    """Squares in px of the canvas; of views and their mirror images (the second maps), the mean."""
    places = [regions.find(of_views, views.aspect) for of_views in maps]
    for mirrored in places[1:]:
        places[0] = (places[0] + torch.cat([1 - mirrored[:, :1], mirrored[:, 1:]], 1)) / 2
    return head_squares(places[0], views.inside)
