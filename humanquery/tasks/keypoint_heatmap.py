"""Training-only heat map of joints on the finest memory (PETR's auxiliary branch)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from humanquery.losses.people import heatmap_loss, heatmap_targets
from humanquery.nn.encodings import encoder_references
from humanquery.nn.transformer import EncoderLayer, LayerConfig
from humanquery.tasks.base import Encoded, TaskSizes, Truths, count_over_ranks, zero_loss

STRIDE = 8


@dataclass(frozen=True)
class HeatmapConfig:
    """As released."""

    loss: float = 4.0
    feedforward: int = 1024
    dropout: float = 0.1


class KeypointHeatmap(nn.Module):
    """One deformable encoder layer on the finest level, then a logit per joint and cell."""

    def __init__(self, config: HeatmapConfig, sizes: TaskSizes):
        super().__init__()
        self.config = config
        self.layer = EncoderLayer(
            LayerConfig(sizes.dim, sizes.heads, 1, sizes.points, config.feedforward, config.dropout)
        )
        self.head = nn.Linear(sizes.dim, len(sizes.skeleton))
        for name, weight in self.layer.named_parameters():
            if (
                weight.dim() > 1
                and "sampling_offsets" not in name
                and "attention_weights" not in name
            ):
                nn.init.xavier_uniform_(weight)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.constant_(self.head.bias, -2.197)  # probability 0.1

    def forward(self, encoded: Encoded) -> Float[Tensor, "b k h w"]:
        h, w = encoded.shapes[0]
        cells = h * w
        memory, position = encoded.memory[:, :cells], encoded.position[:, :cells]
        references = encoder_references(encoded.shapes[:1], encoded.valid_ratios[:, :1])
        memory = self.layer(
            memory, position, references, encoded.padding[:, :cells], encoded.shapes[:1]
        )
        return self.head(memory).transpose(1, 2).unflatten(2, (h, w))

    def loss(
        self, logits: Float[Tensor, "b k h w"], truths: Truths, encoded: Encoded
    ) -> dict[str, Tensor]:
        """Penalty-reduced focal loss; pictures of data sets without joints take no part."""
        if truths.target.keypoints is None:
            return {"keypoint_heatmap": zero_loss(logits) / count_over_ranks(0, logits)}
        size = tuple(logits.shape[-2:])
        targets = torch.stack(
            [
                heatmap_targets(
                    people.boxes, people.keypoints.value, people.counted_joints, size, stride=STRIDE
                )
                for people in truths.by_picture()
            ]
        )
        valid = ~encoded.padding[:, : size[0] * size[1]].unflatten(1, size)
        valid = valid & truths.annotated["keypoints"][:, None, None]
        loss = heatmap_loss(logits.float(), targets, valid) / count_over_ranks(
            (targets == 1).sum(), logits
        )
        return {"keypoint_heatmap": self.config.loss * loss}
