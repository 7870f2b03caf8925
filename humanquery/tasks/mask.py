"""Which pixels are the person: a dot product of the query's mask embedding with a pixel map of
stride 4."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from humanquery.core.affine import Size
from humanquery.core.errors import ConfigError
from humanquery.core.transfer import constants
from humanquery.losses.shapes import (
    dice,
    mask_bce,
    pairwise_bce_cost,
    pairwise_dice_cost,
    uncertain_points,
)
from humanquery.nn.sampling import sample_points
from humanquery.nn.transformer import MLP
from humanquery.tasks.base import (
    PROPOSALS,
    Draws,
    Encoded,
    Matches,
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
    config_type = MaskConfig
    result = "masks"
    loss_names = ("mask_bce", "mask_dice")

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

    def final_loss_names(self) -> tuple[str, ...]:
        return ("refined_mask_bce", "refined_mask_dice") if self.refinement is not None else ()

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


def _drawn_at(
    truths: Truths, points: Float[Tensor, "m p 2"], size: Size, rows: Int[Tensor, " m"]
) -> Float[Tensor, "m p"]:
    """True masks of the people `rows` at points (0..1 of a canvas of `size`), 0..1."""
    height, width = truths.target.image_size
    scale = constants([size[1] / width, size[0] / height], points)
    return sample_points(truths.target.masks.value, points * scale, rows)
