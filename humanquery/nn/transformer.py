"""The transformer parts of deformable DETR and DINO, post-norm."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from humanquery.core.transfer import constants
from humanquery.ops.deformable import deformable_attention

Shapes = tuple[tuple[int, int], ...]  # (height, width) of every level, finest first


@dataclass(frozen=True)
class LayerConfig:
    """One transformer layer."""

    dim: int = 256
    heads: int = 8
    levels: int = 4
    points: int = 4
    feedforward: int = 2048
    dropout: float = 0.0


class MLP(nn.Sequential):
    """Linear layers with ReLU between them: sizes (in, hidden, ..., out)."""

    def __init__(self, *sizes: int):
        layers: list[nn.Module] = []
        for i in range(len(sizes) - 1):
            layers += [nn.Linear(sizes[i], sizes[i + 1])] + (
                [nn.ReLU()] if i < len(sizes) - 2 else []
            )
        super().__init__(*layers)


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention (Deformable DETR, eq. 3), without the residual.

    Values are projected once with `project` and may serve many queries, for instance all joints of
    all persons of a picture.
    """

    def __init__(self, config: LayerConfig):
        super().__init__()
        self.config = config
        samples = config.heads * config.levels * config.points
        self.sampling_offsets = nn.Linear(config.dim, samples * 2)
        self.attention_weights = nn.Linear(config.dim, samples)
        self.value_proj = nn.Linear(config.dim, config.dim)
        self.output_proj = nn.Linear(config.dim, config.dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Offsets start as `heads` compass directions, one step further for every point; weights
        start equal."""
        c = self.config
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(c.heads) * (2 * math.pi / c.heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, c.points + 1, dtype=torch.float32)
        bias = directions[:, None, None] * steps[None, None, :, None]
        self.sampling_offsets.bias.data = (
            bias.expand(c.heads, c.levels, c.points, 2).flatten().clone()
        )
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def project(
        self, memory: Float[Tensor, "b s c"], padding: Bool[Tensor, "b s"]
    ) -> Float[Tensor, "b s heads d"]:
        """Values per head; zero where padded."""
        value = self.value_proj(memory).masked_fill(padding[..., None], 0.0)
        return value.unflatten(-1, (self.config.heads, -1))

    def sampling(
        self,
        query: Float[Tensor, "b q c"],
        references: Float[Tensor, "b q levels r"],
        shapes: Shapes,
    ) -> tuple[
        Float[Tensor, "b q heads levels points 2"], Float[Tensor, "b q heads levels points"]
    ]:
        """Where each query looks (0..1 of the padded map, x y) and with which weight."""
        c = self.config
        offsets = self.sampling_offsets(query).unflatten(-1, (c.heads, c.levels, c.points, 2))
        weights = (
            self.attention_weights(query).unflatten(-1, (c.heads, c.levels * c.points)).softmax(-1)
        )
        weights = weights.unflatten(-1, (c.levels, c.points))
        centers = references[:, :, None, :, None, :2]
        if references.shape[-1] == 2:
            cells = constants([[w, h] for h, w in shapes], query)
            return centers + offsets / cells[:, None], weights
        sides = references[:, :, None, :, None, 2:]
        return centers + offsets / c.points * sides * 0.5, weights

    def forward(
        self,
        query: Float[Tensor, "b q c"],
        references: Float[Tensor, "b q levels r"],
        value: Float[Tensor, "b s heads d"],
        shapes: Shapes,
    ) -> Float[Tensor, "b q c"]:
        """`references` are points (r = 2) or cxcywh boxes (r = 4) per level, 0..1 of the padded
        map."""
        locations, weights = self.sampling(query, references, shapes)
        return self.output_proj(deformable_attention(value, shapes, locations, weights))


TOGETHER = 1024
"""rows a thread that `FeedForward` expands at once on the CPU: all tokens of a picture at once
would leave its caches"""


class FeedForward(nn.Module):
    """Linear, ReLU, linear, with the residual."""

    def __init__(self, config: LayerConfig):
        super().__init__()
        self.expand = nn.Linear(config.dim, config.feedforward)
        self.reduce = nn.Linear(config.feedforward, config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._moved(x)
        together = TOGETHER * torch.get_num_threads()
        return torch.cat([self._moved(rows) for rows in x.flatten(0, -2).split(together)]).view(
            x.shape
        )

    def _moved(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        return x + self.dropout(self.reduce(self.dropout(self.expand(x).relu())))


class EncoderLayer(nn.Module):
    """Deformable self-attention of the memory, then feed-forward."""

    def __init__(self, config: LayerConfig):
        super().__init__()
        self.attention = DeformableAttention(config)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.feedforward = FeedForward(config)
        self.feedforward_norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        memory: Float[Tensor, "b s c"],
        position: Float[Tensor, "b s c"],
        references: Float[Tensor, "b s levels 2"],
        padding: Bool[Tensor, "b s"],
        shapes: Shapes,
    ) -> Float[Tensor, "b s c"]:
        value = self.attention.project(memory, padding)
        attended = memory + self.dropout(
            self.attention(memory + position, references, value, shapes)
        )
        return self.feedforward_norm(self.feedforward(self.attention_norm(attended)))


class DecoderLayer(nn.Module):
    """Self-attention among queries, deformable cross-attention into the memory, feed-forward."""

    def __init__(self, config: LayerConfig):
        super().__init__()
        self.self_attention = nn.MultiheadAttention(
            config.dim, config.heads, dropout=config.dropout, batch_first=True
        )
        self.self_norm = nn.LayerNorm(config.dim)
        self.cross_attention = DeformableAttention(config)
        self.cross_norm = nn.LayerNorm(config.dim)
        self.feedforward = FeedForward(config)
        self.feedforward_norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def attend_self(
        self,
        queries: Float[Tensor, "b q c"],
        position: Float[Tensor, "b q c"],
        blocked: Bool[Tensor, "q q"] | None = None,
    ) -> Float[Tensor, "b q c"]:
        placed = queries + position
        mixed = self.self_attention(placed, placed, queries, attn_mask=blocked, need_weights=False)[
            0
        ]
        return self.self_norm(queries + self.dropout(mixed))

    def attend_memory(
        self,
        queries: Float[Tensor, "b q c"],
        position: Float[Tensor, "b q c"],
        references: Float[Tensor, "b q levels r"],
        value: Float[Tensor, "b s heads d"],
        shapes: Shapes,
    ) -> Float[Tensor, "b q c"]:
        """Cross-attention and feed-forward; `value` from `cross_attention.project`."""
        seen = self.cross_attention(queries + position, references, value, shapes)
        queries = self.cross_norm(queries + self.dropout(seen))
        return self.feedforward_norm(self.feedforward(queries))
