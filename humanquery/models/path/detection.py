"""Detection of people on one feature map: anchor points as queries of a transformer decoder."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from humanquery.core.assignment import assign_all
from humanquery.core.batch import Batch
from humanquery.core.boxes import canvas_to_unit, cxcywh_to_xyxy, giou, iou, unit_to_canvas
from humanquery.core.persons import Persons
from humanquery.core.system import Picture
from humanquery.losses.scores import focal, focal_cost
from humanquery.models.path.config import DetectionHeadConfig
from humanquery.models.path.heads import Features
from humanquery.nn.encodings import inverse_sigmoid, sine_boxes
from humanquery.nn.transformer import MLP, DecoderLayer, LayerConfig
from humanquery.tasks.base import count_over_ranks, prior_bias, zero_init

SCORE, L1, GIOU = 2.0, 5.0, 2.0
"""weights of focal loss, L1 and GIoU in matching and in the loss, as released"""
COVERED = 0.7
"""a box of which so much lies in an ignore region is no negative"""
FIRST_SIDE = 0.1
"""of the canvas; where box sizes start"""


class DetectionHead(nn.Module):
    """DETR-like: points with shared content queries (Anchor DETR), one map of stride 16, the same
    losses after every layer. Only people are looked for."""

    loss_names = ("score", "l1", "giou")
    skeleton = None

    def __init__(self, config: DetectionHeadConfig, dim: int):
        super().__init__()
        self.config = config
        c = config.width
        self.reduce = nn.Conv2d(dim, c, 1)
        self.points = nn.Embedding(config.points, 2)
        nn.init.uniform_(self.points.weight)
        self.contents = nn.Embedding(config.contents, c)
        self.position = MLP(4 * (c // 4), c, c)
        layer = LayerConfig(
            dim=c, heads=config.heads, levels=1, points=4, feedforward=config.feedforward
        )
        self.layers = nn.ModuleList(DecoderLayer(layer) for _ in range(config.layers))
        self.scores = nn.ModuleList(prior_bias(nn.Linear(c, 1)) for _ in range(config.layers))
        self.boxes = nn.ModuleList(MLP(c, c, c, 4) for _ in range(config.layers))
        for box in self.boxes:
            zero_init(box[-1])

    def forward(self, features: Features) -> list[tuple[Tensor, Tensor]]:
        """After every layer: logits b q, boxes b q 4 (cxcywh, 0..1 of the padded canvas)."""
        maps = self.reduce(features.maps)
        b, _, h, w = maps.shape
        memory = maps.flatten(2).transpose(1, 2)
        padding = torch.zeros(b, h * w, dtype=torch.bool, device=maps.device)
        start = torch.cat(
            [self.points.weight, torch.full_like(self.points.weight, FIRST_SIDE)], 1
        ).clamp(0, 1)
        start = start.repeat_interleave(self.config.contents, 0).expand(b, -1, -1)
        position = self.position(sine_boxes(start, self.config.width // 4))
        queries = self.contents.weight.repeat(self.config.points, 1).expand(b, -1, -1)
        found = []
        for layer, score, box in zip(self.layers, self.scores, self.boxes, strict=True):
            value = layer.cross_attention.project(memory, padding)
            queries = layer.attend_self(queries, position)
            queries = layer.attend_memory(queries, position, start[:, :, None], value, ((h, w),))
            boxes = (inverse_sigmoid(start) + box(queries)).sigmoid()
            found.append((score(queries).squeeze(-1).float(), boxes.float()))
        return found

    def losses(self, layers: list[tuple[Tensor, Tensor]], batch: Batch) -> dict[str, Tensor]:
        """Focal, L1 and GIoU losses: sums over layers, divided by the people of all ranks."""
        size = tuple(batch.images.shape[-2:])
        targets = batch.targets or []
        device = batch.images.device
        true = [canvas_to_unit(t.people().boxes, size).to(device) for t in targets]
        regions = [t.boxes[t.ignore].to(device) for t in targets]
        people = count_over_ranks(sum(map(len, true)), batch.images)
        total = {name: torch.zeros((), device=device) for name in self.loss_names}
        costs = [
            self._cost(*one)
            for logits, boxes in layers
            for one in zip(logits, boxes, true, strict=True)
        ]
        pairs = iter(assign_all(costs))  # all layers at once: each call makes the host wait
        for logits, boxes in layers:
            for i in range(len(true)):
                rows, columns = next(pairs)
                positive = torch.zeros(len(logits[i]), dtype=torch.bool, device=device)
                positive[rows] = True
                counts = positive | ~self._covered(boxes[i], regions[i], size)
                each = torch.where(counts, focal(logits[i], positive), 0.0)
                total["score"] = total["score"] + each.sum()
                a, b = boxes[i][rows], true[i][columns]
                total["l1"] = total["l1"] + (a - b).abs().sum()
                overlap = giou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b))
                total["giou"] = total["giou"] + (1 - overlap).sum()
        weights = {"score": SCORE, "l1": L1, "giou": GIOU}
        return {name: weights[name] * value / people for name, value in total.items()}

    def _cost(self, logits: Tensor, boxes: Tensor, true: Tensor) -> Float[Tensor, "q g"]:
        a, b = boxes.detach()[:, None], true[None]
        overlap = giou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b))
        scores = focal_cost(logits.detach())[:, None]
        return SCORE * scores + L1 * (a - b).abs().sum(-1) - GIOU * overlap

    def _covered(self, boxes: Tensor, regions: Tensor, size) -> Bool[Tensor, " q"]:
        if not len(regions):
            return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        return (iou(unit_to_canvas(boxes.detach(), size), regions, crowd=True) >= COVERED).any(1)

    def decode(self, layers: list[tuple[Tensor, Tensor]], batch: Batch) -> list[Picture]:
        """All queries of the last layer as people, best first, in px of the picture."""
        logits, boxes = layers[-1]
        size = tuple(batch.images.shape[-2:])
        pictures = []
        for meta, scores, unit in zip(batch.metas, logits.sigmoid(), boxes, strict=True):
            order = scores.argsort(descending=True)
            found = Persons(
                image_size=meta.canvas_size,
                boxes=unit_to_canvas(unit[order], size),
                scores=scores[order],
            )
            pictures.append(Picture(found.warp(meta.to_canvas.inverse(), meta.image_size)))
        return pictures
