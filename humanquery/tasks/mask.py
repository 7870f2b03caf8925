"""Which pixels are the person: a dot product of the query's mask embedding with a pixel map of
stride 4."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from humanquery.core.affine import Affine2D, Size
from humanquery.core.errors import ConfigError
from humanquery.core.transfer import constants, to_device
from humanquery.losses.shapes import (
    dice,
    mask_bce,
    pairwise_bce_cost,
    pairwise_dice_cost,
    uncertain_points,
)
from humanquery.nn.sampling import sample_points
from humanquery.nn.transformer import MLP
from humanquery.ops import native
from humanquery.ops.native.masks import painted
from humanquery.tasks.base import (
    PROPOSALS,
    Draws,
    Encoded,
    Matches,
    Reading,
    Reference,
    Task,
    TaskSizes,
    Truths,
    at_queries,
    copies,
    count_over_ranks,
    zero_loss,
)
from humanquery.tasks.mask_refinement import MaskRefinement, MaskRefinementConfig


@dataclass(frozen=True)
class MaskConfig:
    """Weights of the released HQNet."""

    bce: float = 8.0
    dice: float = 5.0
    cost_bce: float = 8.0
    cost_dice: float = 5.0
    num_points: int = 12544
    release_quirks: bool = False
    """as the release: proposals' embeddings get no gradient, and in batches of several sizes the
    matcher samples true masks on their own canvas instead of the padded one"""
    in_boxes: bool = False
    """logits fall off outside of the reference box (see `_fall`): who is meant is then settled
    by the box, and the product of embedding and map only learns what is body, which a short
    training notices"""
    refinement: MaskRefinementConfig | None = None
    """needs `in_boxes`"""

    def __post_init__(self):
        if self.refinement is not None and not self.in_boxes:
            raise ConfigError(
                "tasks.mask.refinement looks at people's boxes: set tasks.mask.in_boxes=true, or "
                "refinement=none"
            )


@dataclass(frozen=True, eq=False)
class PixelMap:
    cells: Float[Tensor, "b c h w"]
    padded_size: Size
    """of the canvas that the cells cover, px"""
    valid: Float[Tensor, "b 2"]
    """valid share of that canvas (x, y)"""


@dataclass(frozen=True, eq=False)
class MaskPrediction:
    embeddings: Float[Tensor, "b q c"]
    pixel_map: PixelMap
    boxes: Float[Tensor, "b q 4"] | None = None
    """cxcywh in 0..1 of the padded canvas, outside of which logits fall off"""

    def of(self, picture: int) -> "MaskPrediction":
        """One picture, as a batch of one."""
        here = slice(picture, picture + 1)
        pixel_map = PixelMap(
            self.pixel_map.cells[here], self.pixel_map.padded_size, self.pixel_map.valid[here]
        )
        return MaskPrediction(
            self.embeddings[here], pixel_map, None if self.boxes is None else self.boxes[here]
        )

    def logits(self, chosen: Int[Tensor, "b k"]) -> Float[Tensor, "b k h w"]:
        """Mask logits of some queries of each picture, stride 4 of the padded canvas."""
        cells = self.pixel_map.cells
        logits = (
            (at_queries(self.embeddings, chosen) @ cells.flatten(2))
            .unflatten(2, cells.shape[-2:])
            .float()
        )
        return (
            logits
            if self.boxes is None
            else logits + _fall_on_cells(at_queries(self.boxes, chosen), cells.shape[-2:])
        )


class MaskTask(Task):
    """Point-sampled BCE and Dice (Mask DINO); the pixel map is P2 plus the encoder's finest
    memory."""

    name = "mask"

    def __init__(self, config: MaskConfig, sizes: TaskSizes):
        super().__init__()
        self.config = config
        dim, groups = sizes.dim, min(32, sizes.dim // 4)
        self.lateral = nn.Sequential(nn.Conv2d(dim, dim, 1, bias=False), nn.GroupNorm(groups, dim))
        self.output = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, bias=False), nn.GroupNorm(groups, dim), nn.ReLU()
        )
        self.pixel_map = nn.Conv2d(dim, dim, 1)
        for conv in (self.lateral[0], self.output[0], self.pixel_map):
            nn.init.xavier_uniform_(conv.weight)
        self.heads = copies(lambda: MLP(dim, dim, dim, dim), sizes.stages)
        self.refinement = (
            None if config.refinement is None else MaskRefinement(config.refinement, dim)
        )

    def prepare(self, encoded: Encoded) -> PixelMap:
        coarse = F.interpolate(
            encoded.finest_memory(), encoded.fine.shape[-2:], mode="bilinear", align_corners=False
        )
        height, width = encoded.padded_size
        return PixelMap(
            self.pixel_map(self.output(self.lateral(encoded.fine) + coarse)),
            encoded.padded_size,
            encoded.sides() / constants([width, height], encoded.sides()),
        )

    def read(
        self,
        stage: int,
        queries: Tensor,
        reference: Reference,
        prepared: PixelMap,
    ) -> MaskPrediction:
        embeddings = self.heads[stage](queries)
        if stage == PROPOSALS and self.config.release_quirks:
            embeddings = embeddings.detach()
        boxes = None
        if self.config.in_boxes:
            boxes = (
                reference.box_logit.detach().float().sigmoid()
                * prepared.valid.repeat(1, 2)[:, None]
            )
        return MaskPrediction(embeddings, prepared, boxes)

    def costs(
        self, prediction: MaskPrediction, truths: Truths, draws: Draws, tag: str
    ) -> Tensor | None:
        masks, here = truths.target.masks, truths.span
        if masks is None:
            return None
        shape = (1, self.config.num_points, 2)
        pictures = range(here.start, here.stop)
        points = torch.cat(
            [draws.uniform(f"{tag}/match_img{i}", shape, truths.sides) for i in pictures]
        )
        # sampling is linear: the map is sampled once, then every query is a dot product
        cells = prediction.pixel_map.cells[here]
        seen = F.grid_sample(
            cells.float(), points[:, :, None] * 2 - 1, align_corners=False
        ).squeeze(-1)
        found = prediction.embeddings[here] @ seen
        if prediction.boxes is not None:
            found = found + _fall(prediction.boxes[here], points[..., 0], points[..., 1])
        size = prediction.pixel_map.padded_size
        which = truths.pictures - here.start
        theirs = points[which]
        if self.config.release_quirks:
            theirs = theirs * truths.sides[:, None] / constants([size[1], size[0]], theirs)
        true = truths.side_by_side(
            _drawn_at(truths, theirs, size, torch.arange(len(truths), device=cells.device))
        )
        cost = self.config.cost_bce * pairwise_bce_cost(found, true)
        cost = cost + self.config.cost_dice * pairwise_dice_cost(found, true)
        return torch.where(masks.valid[:, None], cost[which, :, truths.places], 0.0)

    def losses(
        self, prediction: MaskPrediction, matches: Matches, truths: Truths, draws: Draws, tag: str
    ) -> dict[str, Tensor]:
        size, cells = prediction.pixel_map.padded_size, prediction.pixel_map.cells
        if truths.target.masks is None:
            zero = zero_loss(prediction.embeddings, cells) / count_over_ranks(0, cells)
            return {"mask_bce": zero, "mask_dice": zero}
        # one product for the batch: indexing the map picture by picture would zero a full
        # gradient map each time
        place, width = matches.side_by_side()
        table = cells.new_zeros(len(cells), width, cells.shape[1])
        table = table.index_put(
            (matches.pictures, place), matches.predicted(prediction.embeddings).to(table)
        )
        maps = (table @ cells.flatten(2)).unflatten(2, cells.shape[-2:]).flatten(0, 1).float()
        if prediction.boxes is not None:
            boxes = maps.new_zeros(len(cells), width, 4)
            boxes = boxes.index_put((matches.pictures, place), matches.predicted(prediction.boxes))
            maps = maps + _fall_on_cells(boxes, cells.shape[-2:]).flatten(0, 1)
        rows = matches.pictures * width + place
        points = self._points(maps, rows, draws, tag)
        found, true = (
            sample_points(maps, points, rows),
            _drawn_at(truths, points, size, truths.rows(matches)),
        )
        drawn = truths.target.masks.valid[truths.rows(matches)]
        count = count_over_ranks(drawn.sum(), cells)
        return {
            "mask_bce": self.config.bce
            * torch.where(drawn, mask_bce(found, true), 0.0).sum()
            / count,
            "mask_dice": self.config.dice
            * torch.where(drawn, dice(found, true), 0.0).sum()
            / count,
        }

    def finish(
        self,
        prediction: MaskPrediction,
        matches: Matches,
        truths: Truths,
        encoded: Encoded,
        prepared: PixelMap,
    ) -> dict[str, Tensor]:
        """Losses of the second look, on people whose mask was drawn."""
        c, people = self.config.refinement, truths.host
        if c is None:
            return {}
        drawn = people.ignore & False if people.masks is None else people.masks.valid
        shown = truths.matches_of(drawn, matches)
        count = count_over_ranks(len(shown), prediction.embeddings)
        if not len(shown):
            zero = zero_loss(*self.refinement.parameters()) / count
            return {"refined_mask_bce": zero, "refined_mask_dice": zero}
        # people of a picture side by side; empty places hold the first query and are never read
        place, width = shown.side_by_side()
        chosen = torch.zeros(len(truths.counts), width, dtype=torch.long, device=place.device)
        chosen[shown.pictures, place] = shown.queries
        logits, windows = self.refined(prediction, chosen, encoded)
        found, where = logits[shown.pictures, place].flatten(1), windows[shown.pictures, place]
        true = _drawn_at(
            truths, self.refinement.points(where), encoded.padded_size, truths.rows(shown)
        )
        return {
            "refined_mask_bce": c.bce * mask_bce(found, true).sum() / count,
            "refined_mask_dice": c.dice * dice(found, true).sum() / count,
        }

    def refined(
        self, prediction: MaskPrediction, chosen: Int[Tensor, "b k"], encoded: Encoded
    ) -> tuple[Float[Tensor, "b k g g"], Float[Tensor, "b k 4"]]:
        """Logits on the grid of each person's window, and the windows, xyxy in 0..1 of the
        padded canvas."""
        windows = self.refinement.windows(at_queries(prediction.boxes, chosen))
        logits = prediction.logits(chosen).detach()
        return self.refinement(prediction.pixel_map.cells, encoded.fine, logits, windows), windows

    def _points(
        self, logits: Float[Tensor, "k h w"], rows: Int[Tensor, " n"], draws: Draws, tag: str
    ) -> Float[Tensor, "n p 2"]:
        n, p = len(rows), self.config.num_points
        candidates = draws.uniform(f"{tag}/oversample", (n, 3 * p, 2), logits)
        rest = draws.uniform(f"{tag}/random", (n, p - int(0.75 * p), 2), logits)
        return uncertain_points(logits, p, candidates, rest, rows)

    def decode(
        self, prediction: MaskPrediction, reading: Reading, encoded: Encoded, prepared: PixelMap
    ) -> dict[str, Tensor]:
        """Logits interpolated straight at the picture's pixels, from the valid part of the
        canvas only; per person only where a positive cell is near, since elsewhere nothing can
        be positive. Refined masks are read from their windows."""
        here, chosen = prediction.of(reading.picture), reading.queries[None]
        device = chosen.device
        if self.refinement is None:
            masks, logits = (
                _no_masks(chosen.shape[1], reading.image_size, device),
                here.logits(chosen)[0],
            )
            inside = _paint(logits, *_places_on_map(logits, reading, encoded.padded_size), masks)
            return {"masks": masks, "mask_scores": reading.scores * inside}
        fine = replace(encoded, fine=encoded.fine[reading.picture : reading.picture + 1])
        found = self.refined(here, chosen, fine)
        logits, windows = (part[0].cpu() for part in found)  # host sync: for all people at once
        masks, inside = (
            _no_masks(len(logits), reading.image_size, logits.device),
            logits.new_zeros(len(logits)),
        )
        patches = _window_patches(windows, logits.shape[-1], reading, encoded.padded_size)
        for i, (lines, columns, down, right) in enumerate(patches):
            if len(down) and len(right):
                inside[i] = _paint(
                    logits[i : i + 1], down, right, masks[i : i + 1, lines, columns]
                )[0]
        return {"masks": masks.to(device), "mask_scores": reading.scores * inside.to(device)}

    def tensors(
        self, prediction: MaskPrediction, chosen: Tensor, encoded: Encoded, prepared: PixelMap
    ) -> dict[str, Tensor]:
        if self.refinement is None:
            return {"mask_logits": prediction.logits(chosen)}
        logits, windows = self.refined(prediction, chosen, encoded)
        height, width = encoded.padded_size
        return {
            "mask_logits": logits,
            "mask_windows": windows * constants([width, height, width, height], windows),
        }


FALL, MARGIN = 30.0, 0.1
"""logits per half side of a box, from that share of a half side beyond its edge on"""


def _beyond(
    boxes: Float[Tensor, "*b n 4"], at: Float[Tensor, "*b p"], axis: int
) -> Float[Tensor, "*b n p"]:
    """How far places on one axis lie beyond the margin of cxcywh boxes, in half sides of the
    box; 0 inside."""
    center, side = boxes[..., axis, None], boxes[..., axis + 2, None].clamp(min=1e-4)
    return ((at[..., None, :] - center).abs() * 2 / side - 1 - MARGIN).clamp(min=0)


def _fall(
    boxes: Float[Tensor, "*b n 4"], x: Float[Tensor, "*b p"], y: Float[Tensor, "*b p"]
) -> Float[Tensor, "*b n p"]:
    """What the mask logits of people in these boxes lose at places (0..1, like the boxes):
    nothing inside."""
    return -FALL * (_beyond(boxes, x, 0) + _beyond(boxes, y, 1))


def _fall_on_cells(
    boxes: Float[Tensor, "*b n 4"], size: tuple[int, int]
) -> Float[Tensor, "*b n h w"]:
    """`_fall` at the centres of the cells of a map."""
    y, x = (
        ((torch.arange(n, device=boxes.device) + 0.5) / n).expand(*boxes.shape[:-2], n)
        for n in size
    )
    return -FALL * (_beyond(boxes, y, 1)[..., :, None] + _beyond(boxes, x, 0)[..., None, :])


Patch = tuple[slice, slice, Float[Tensor, " lines"], Float[Tensor, " columns"]]
"""lines and columns of the picture, and where their centres lie on a map, as indices of its
cells (the first's centre is 0.0)"""


def _places_on_map(
    logits: Float[Tensor, "n h w"], reading: Reading, padded_size: Size
) -> tuple[Float[Tensor, " lines"], Float[Tensor, " columns"]]:
    """Of the whole picture on the stride-4 map."""
    stride = padded_size[0] / logits.shape[1], padded_size[1] / logits.shape[2]
    return _sampling_places(reading.to_canvas, reading.image_size, reading.canvas_size, stride)


def _window_patches(
    windows: Float[Tensor, "n 4"], grid: int, reading: Reading, padded_size: Size
) -> Iterator[Patch]:
    """Per person the patch of the picture whose pixels' centres lie in the person's window (xyxy
    in 0..1 of the padded canvas) and on the valid canvas, with their places on the window's
    grid. A rotated canvas raises ValueError."""
    c = reading.to_canvas
    _check_upright(c)
    for window in windows.tolist():
        axes = []
        for scale, offset, length, valid, padded, low, high in (
            (
                c.e,
                c.f,
                reading.image_size[0],
                reading.canvas_size[0],
                padded_size[0],
                window[1],
                window[3],
            ),
            (
                c.a,
                c.c,
                reading.image_size[1],
                reading.canvas_size[1],
                padded_size[1],
                window[0],
                window[2],
            ),
        ):
            low, high = low * padded, high * padded
            centers = scale * (np.arange(length) + 0.5) + offset
            inside = np.flatnonzero((centers >= max(low, 0.0)) & (centers < min(high, valid)))
            here = slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0)
            at = (centers[here] - low) / max(high - low, 1e-6) * grid - 0.5
            axes.append((here, torch.from_numpy(at.clip(0, grid - 1)).float()))
        (lines, down), (columns, right) = axes
        yield lines, columns, down, right


def _drawn_at(
    truths: Truths, points: Float[Tensor, "m p 2"], size: Size, rows: Int[Tensor, " m"]
) -> Float[Tensor, "m p"]:
    """True masks of the people `rows` at points (0..1 of a canvas of `size`), 0..1."""
    height, width = truths.target.image_size
    scale = constants([size[1] / width, size[0] / height], points)
    return sample_points(truths.target.masks.value, points * scale, rows)


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
    # numpy asks the system for zeroed memory, of which only the pages of people are ever touched
    if device.type == "cpu":
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
