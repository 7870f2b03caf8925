"""Which pixels are the person: a dot product of the query's mask embedding with a pixel map of stride 4."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from humanquery.core.affine import Affine2D, Size
from humanquery.losses.shapes import (
    dice,
    mask_bce,
    pairwise_bce_cost,
    pairwise_dice_cost,
    sample_points,
    uncertain_points,
)
from humanquery.nn.transformer import MLP
from humanquery.tasks.base import (
    NO_PRIOR,
    PROPOSALS,
    Draws,
    Matches,
    Prior,
    Reading,
    Scene,
    Task,
    TaskSizes,
    Truth,
    at_queries,
    copies,
    count_over_ranks,
    nothing,
)


@dataclass(frozen=True)
class MaskConfig:
    """Weights of the released HQNet."""

    bce: float = 8.0
    dice: float = 5.0
    cost_bce: float = 8.0
    cost_dice: float = 5.0
    num_points: int = 12544
    release_quirks: bool = False
    """as the release: proposals' embeddings get no gradient, and in batches of several sizes the matcher samples true masks
    on their own canvas instead of the padded one"""


@dataclass(frozen=True, eq=False)
class PixelMap:
    cells: Float[Tensor, "b c h w"]
    padded_size: Size
    """of the canvas that the cells cover, px"""


@dataclass(frozen=True, eq=False)
class MaskPrediction:
    embeddings: Float[Tensor, "b q c"]
    pixel_map: PixelMap

    def logits(self, picture: int, queries: Tensor | slice = slice(None)) -> Float[Tensor, "n h w"]:
        """Mask logits of some queries of one picture, stride 4 of the padded canvas."""
        return torch.einsum("qc,chw->qhw", self.embeddings[picture, queries], self.pixel_map.cells[picture])


class MaskTask(Task):
    """Point-sampled BCE and Dice (Mask DINO); the pixel map is P2 plus the encoder's finest memory."""

    name = "mask"

    def __init__(self, config: MaskConfig, sizes: TaskSizes):
        super().__init__()
        self.config = config
        dim, groups = sizes.dim, min(32, sizes.dim // 4)
        self.lateral = nn.Sequential(nn.Conv2d(dim, dim, 1, bias=False), nn.GroupNorm(groups, dim))
        self.output = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, bias=False), nn.GroupNorm(groups, dim), nn.ReLU())
        self.pixel_map = nn.Conv2d(dim, dim, 1)
        for conv in (self.lateral[0], self.output[0], self.pixel_map):
            nn.init.xavier_uniform_(conv.weight)
        self.heads = copies(lambda: MLP(dim, dim, dim, dim), sizes.stages)

    def prepare(self, scene: Scene) -> PixelMap:
        coarse = F.interpolate(scene.finest_memory(), scene.fine.shape[-2:], mode="bilinear", align_corners=False)
        return PixelMap(self.pixel_map(self.output(self.lateral(scene.fine) + coarse)), scene.padded_size)

    def read(
        self, stage: int, queries: Tensor, reference_logit: Tensor, prepared: PixelMap, prior: Prior = NO_PRIOR
    ) -> MaskPrediction:
        embeddings = self.heads[stage](queries)
        if stage == PROPOSALS and self.config.release_quirks:
            embeddings = embeddings.detach()
        return MaskPrediction(embeddings, prepared)

    def cost(self, prediction: MaskPrediction, picture: int, truth: Truth, draws: Draws, tag: str) -> Tensor | None:
        masks = truth.target.masks
        if masks is None:
            return None
        points = draws.uniform(f"{tag}/match_img{picture}", (1, self.config.num_points, 2), prediction.embeddings)
        # sampling is linear: the map is sampled once, then every query is a dot product
        cells = prediction.pixel_map.cells[picture]
        seen = sample_points(cells, points.expand(len(cells), -1, -1))
        found = prediction.embeddings[picture] @ seen
        drawn = masks.value
        if not self.config.release_quirks:
            drawn = pad_to(drawn, prediction.pixel_map.padded_size)
        true = sample_points(drawn.float(), points.expand(len(drawn), -1, -1))
        cost = self.config.cost_bce * pairwise_bce_cost(found, true)
        cost = cost + self.config.cost_dice * pairwise_dice_cost(found, true)
        return torch.where(masks.valid[None], cost, 0.0)

    def losses(
        self, prediction: MaskPrediction, matches: Matches, truths: list[Truth], draws: Draws, tag: str
    ) -> dict[str, Tensor]:
        size, cells = prediction.pixel_map.padded_size, prediction.pixel_map.cells
        drawn, true = self._drawn(matches, truths, size)
        count = count_over_ranks(len(drawn), cells)
        if not len(drawn):
            zero = nothing(prediction.embeddings, cells)
            return {"mask_bce": zero, "mask_dice": zero}
        # one product for the batch: indexing the map picture by picture would zero a full gradient map each time
        place, width = drawn.side_by_side()
        table = cells.new_zeros(len(cells), width, cells.shape[1])
        table = table.index_put((drawn.pictures, place), drawn.predicted(prediction.embeddings))
        found = (table @ cells.flatten(2))[drawn.pictures, place].unflatten(1, cells.shape[-2:])
        points = self._points(found, draws, tag)
        found, true = sample_points(found, points), sample_points(true, points)
        return {
            "mask_bce": self.config.bce * mask_bce(found, true).sum() / count,
            "mask_dice": self.config.dice * dice(found, true).sum() / count,
        }

    def _drawn(self, matches: Matches, truths: list[Truth], size: Size) -> tuple[Matches, Float[Tensor, "m h w"]]:
        """The matches whose person has a mask, and these masks on the padded canvas."""
        known, masks = torch.zeros(len(matches), dtype=torch.bool, device=matches.pictures.device), []
        for i, truth in enumerate(truths):
            if truth.target.masks is None:
                continue
            here = (matches.pictures == i).nonzero().squeeze(1)
            people = matches.people[here]
            valid = truth.target.masks.valid[people]
            known[here[valid]] = True
            masks.append(pad_to(truth.target.masks.value[people[valid]], size))
        return matches[known], torch.cat(masks).float() if masks else torch.zeros(0, *size)

    def _points(self, logits: Float[Tensor, "n h w"], draws: Draws, tag: str) -> Float[Tensor, "n p 2"]:
        n, p = len(logits), self.config.num_points
        candidates = draws.uniform(f"{tag}/oversample", (n, 3 * p, 2), logits)
        rest = draws.uniform(f"{tag}/random", (n, p - int(0.75 * p), 2), logits)
        return uncertain_points(logits, p, candidates, rest)

    def decode(
        self, prediction: MaskPrediction, reading: Reading, scene: Scene, prepared: PixelMap
    ) -> dict[str, Tensor]:
        """Logits sampled straight at the picture's pixels through the one matrix, from the valid part of the canvas only."""
        logits = prediction.logits(reading.picture, reading.queries).float()
        stride = scene.padded_size[0] / logits.shape[1], scene.padded_size[1] / logits.shape[2]
        grid = _sampling_grid(reading.to_canvas, reading.image_size, reading.canvas_size, logits.shape[-2:], stride)
        masks = torch.zeros(len(logits), *reading.image_size, dtype=torch.bool, device=logits.device)
        inside = torch.zeros(len(logits), device=logits.device)
        for i in range(len(logits)):  # one at a time: a 4K picture takes 33 MB per person
            full = F.grid_sample(logits[None, i : i + 1], grid, "bilinear", "border", align_corners=False)[0, 0]
            masks[i] = full > 0
            inside[i] = torch.where(masks[i], full.sigmoid(), 0.0).sum() / (masks[i].sum() + 1e-6)
        return {"masks": masks, "mask_scores": reading.scores * inside}

    def tensors(
        self, prediction: MaskPrediction, chosen: Tensor, scene: Scene, prepared: PixelMap
    ) -> dict[str, Tensor]:
        embeddings = at_queries(prediction.embeddings, chosen)
        cells = prediction.pixel_map.cells
        return {"mask_logits": (embeddings @ cells.flatten(2)).unflatten(2, cells.shape[-2:]).float()}


def pad_to(masks: Bool[Tensor, "n h w"], size: Size) -> Bool[Tensor, "n H W"]:
    """Zeros right and bottom up to `size`."""
    return F.pad(masks, (0, size[1] - masks.shape[2], 0, size[0] - masks.shape[1]))


def _sampling_grid(
    to_canvas: Affine2D, image_size: Size, canvas_size: Size, cells: Size, stride: tuple[float, float]
) -> Float[Tensor, "1 h w 2"]:
    """Where each picture pixel's centre lies on the stride-4 map, in grid_sample's -1..1; kept inside the valid canvas."""
    height, width = image_size
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    at = to_canvas.points(torch.stack([x, y], -1))
    # half a cell from the edge of the valid part nothing of the padding is blended in
    limit = torch.tensor([canvas_size[1] / stride[1] - 0.5, canvas_size[0] / stride[0] - 0.5])
    at = (at / torch.tensor([stride[1], stride[0]])).minimum(limit.clamp(min=0.5))
    return (at / torch.tensor([cells[1], cells[0]]) * 2 - 1)[None].float()
