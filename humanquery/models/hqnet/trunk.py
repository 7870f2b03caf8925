"""The shared trunk of HQNet: deformable encoder, query selection, decoder with box refinement."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from humanquery.core.affine import Size
from humanquery.models.hqnet.config import TransformerConfig
from humanquery.nn.encodings import encoder_references, inverse_sigmoid, sine_boxes, sine_map
from humanquery.nn.transformer import MLP, DecoderLayer, EncoderLayer, LayerConfig, Shapes
from humanquery.tasks.base import PROPOSALS, Encoded, Reference, Task


def layer_config(config: TransformerConfig) -> LayerConfig:
    return LayerConfig(
        config.dim, config.heads, config.levels, config.points, config.feedforward, config.dropout
    )


class Encoder(nn.Module):
    """Deformable self-attention over all levels; gives the memory."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.dim = config.dim
        self.layers = nn.ModuleList(
            EncoderLayer(layer_config(config)) for _ in range(config.encoder_layers)
        )
        self.level_embeds = nn.Parameter(torch.randn(config.levels, config.dim))

    def forward(
        self,
        fine: Float[Tensor, "b c h w"],
        levels: list[Tensor],
        padding: Bool[Tensor, "b H W"],
        sizes: list[Size] | Int[Tensor, "b 2"],
    ) -> Encoded:
        """`fine`: P2, passed through; `levels`: P3 .. , each b c h w; `padding` at picture
        resolution."""
        shapes: Shapes = tuple(tuple(level.shape[-2:]) for level in levels)
        masks = [
            F.interpolate(padding[None].float(), shape, mode="nearest")[0].bool()
            for shape in shapes
        ]
        position = torch.cat(
            [
                sine_map(mask, self.dim // 2).flatten(2).transpose(1, 2) + embed
                for mask, embed in zip(masks, self.level_embeds, strict=True)
            ],
            1,
        )
        memory = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1)
        valid_ratios = torch.stack([_valid_ratio(mask) for mask in masks], 1)
        tokens_padding = torch.cat([mask.flatten(1) for mask in masks], 1)
        references = encoder_references(shapes, valid_ratios)
        for layer in self.layers:
            memory = layer(memory, position, references, tokens_padding, shapes)
        return Encoded(
            fine=fine,
            memory=memory,
            position=position,
            padding=tokens_padding,
            shapes=shapes,
            valid_ratios=valid_ratios,
            canvas_sizes=sizes,
            padded_size=tuple(padding.shape[-2:]),
        )


def _valid_ratio(padding: Bool[Tensor, "b h w"]) -> Float[Tensor, "b 2"]:
    """Valid share (x, y) of a level, read off its first row and column."""
    valid = (~padding).float()
    return torch.stack([valid[:, 0].mean(1), valid[:, :, 0].mean(1)], -1)


class QuerySelection(nn.Module):
    """Two-stage selection: every memory token proposes a box; the best become the decoder's
    reference boxes."""

    def __init__(self, dim: int):
        super().__init__()
        self.output = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.output.weight)

    def forward(self, encoded: Encoded) -> tuple[Float[Tensor, "b s c"], Float[Tensor, "b s 4"]]:
        """Token features and the logits of their proposal boxes (+inf where a token may not
        propose)."""
        proposals, usable = proposal_boxes(encoded)
        features = self.norm(self.output(encoded.memory.masked_fill(~usable[..., None], 0.0)))
        logit = torch.log(proposals / (1 - proposals)).masked_fill(~usable[..., None], float("inf"))
        return features, logit


def proposal_boxes(encoded: Encoded) -> tuple[Float[Tensor, "b s 4"], Bool[Tensor, "b s"]]:
    """cxcywh (0..1 of the valid canvas) of every token: its own centre, side 0.05 · 2^level; and
    which may propose."""
    boxes, start = [], 0
    for level, (h, w) in enumerate(encoded.shapes):
        valid = (~encoded.padding[:, start : start + h * w]).unflatten(1, (h, w))
        start += h * w
        counts = torch.stack([valid[:, 0].sum(1), valid[:, :, 0].sum(1)], -1)
        y, x = torch.meshgrid(
            torch.arange(h, device=valid.device) + 0.5,
            torch.arange(w, device=valid.device) + 0.5,
            indexing="ij",
        )
        centers = torch.stack([x.flatten(), y.flatten()], -1)[None] / counts[:, None]
        boxes.append(torch.cat([centers, torch.full_like(centers, 0.05 * 2**level)], -1))
    boxes = torch.cat(boxes, 1)
    usable = ((boxes > 0.01) & (boxes < 0.99)).all(-1) & ~encoded.padding
    return boxes, usable


@dataclass(frozen=True, eq=False)
class Selected:
    """Tokens that become queries, best first."""

    tokens: Int[Tensor, "b q"]
    features: Float[Tensor, "b q c"]
    box_logit: Float[Tensor, "b q 4"]
    """of the proposal boxes"""
    logits: Mapping[str, Tensor] = field(default_factory=dict)
    """further reference logits (`tasks.base.Reference`)"""

    @staticmethod
    def best(
        features: Float[Tensor, "b s c"],
        proposals_logit: Float[Tensor, "b s 4"],
        person: Task,
        count: int,
    ) -> "Selected":
        """The tokens that most likely are a person, as the first head of the person task says."""
        logits = person.read(PROPOSALS, features, Reference(proposals_logit), None).logit
        tokens = top_tokens(logits, count)
        return Selected(tokens, gather_rows(features, tokens), gather_rows(proposals_logit, tokens))


@dataclass(frozen=True, eq=False)
class Decoded:
    """The queries after every decoder layer."""

    queries: list[Float[Tensor, "b q c"]]
    """normed layer outputs: the human queries"""
    references: list[Float[Tensor, "b q 4"]]
    """each layer's input box, cxcywh in 0..1; with the gradient of the layer before (look forward
    twice)"""


class Decoder(nn.Module):
    """DINO's decoder: every layer samples the memory around its reference box, then moves the
    box."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.features = config.dim // 2
        self.layers = nn.ModuleList(
            DecoderLayer(layer_config(config)) for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(config.dim)
        self.position = MLP(2 * config.dim, config.dim, config.dim)

    def forward(
        self,
        queries: Float[Tensor, "b q c"],
        references: Float[Tensor, "b q 4"],
        encoded: Encoded,
        box_heads: nn.ModuleList,
        blocked: Bool[Tensor, "q q"] | None = None,
    ) -> Decoded:
        ratios = torch.cat([encoded.valid_ratios, encoded.valid_ratios], -1)
        states, inputs = [], [references]
        references = references.detach()
        for i, layer in enumerate(self.layers):
            placed = references[:, :, None] * ratios[:, None]
            position = self.position(sine_boxes(placed[:, :, 0], self.features))
            queries = layer.attend_self(queries, position, blocked)
            value = layer.cross_attention.project(encoded.memory, encoded.padding)
            queries = layer.attend_memory(queries, position, placed, value, encoded.shapes)
            states.append(self.norm(queries))
            if i < len(self.layers) - 1:  # the last layer's box is read by its head only
                moved = (box_heads[i](queries) + inverse_sigmoid(references)).float().sigmoid()
                inputs.append(moved)
                references = moved.detach()
        return Decoded(states, inputs)


def top_tokens(logits: Float[Tensor, "b s"], count: int) -> Int[Tensor, "b k"]:
    """Indices of the best tokens, best first; all of them where a picture has fewer."""
    return logits.topk(min(count, logits.shape[1]), dim=1).indices


def gather_rows(
    values: Float[Tensor, "b s c"], index: Int[Tensor, "b k"]
) -> Float[Tensor, "b k c"]:
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
