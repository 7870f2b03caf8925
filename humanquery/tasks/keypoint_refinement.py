"""The joint decoder (PETR): one query per joint attends to the memory again, for all kept
persons of a picture at once."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from humanquery.core.errors import ConfigError
from humanquery.nn.encodings import inverse_sigmoid
from humanquery.nn.transformer import MLP, DecoderLayer, LayerConfig
from humanquery.tasks.base import Encoded, TaskSizes


@dataclass(frozen=True)
class RefinementConfig:
    """As released."""

    layers: int = 2
    feedforward: int = 1024
    dropout: float = 0.1
    in_boxes: bool = False
    """moves are counted in sides of the reference box instead of logits of the canvas, sampling
    reaches as far as the box is large, and every joint's query starts with its person's"""
    scores: bool = False
    """every joint also gets a score: how near it is expected to be (its part of OKS), 0 for
    joints that cannot be seen"""
    local_features: bool = False
    """every joint also gets features of its surroundings that the system measures
    (`Encoded.joint_features`); refused where it has none"""


class KeypointRefinement(nn.Module):
    """Starts from the last decoder layer's joints; every layer moves each joint once."""

    def __init__(self, config: RefinementConfig, sizes: TaskSizes):
        super().__init__()
        layer = LayerConfig(
            sizes.dim, sizes.heads, sizes.levels, sizes.points, config.feedforward, config.dropout
        )
        self.in_boxes, self.local_features = config.in_boxes, None
        if config.in_boxes:
            self.person = nn.Linear(sizes.dim, sizes.dim)
        self.scores = nn.Linear(sizes.dim, 1) if config.scores else None
        if config.local_features:
            if not sizes.joint_features:
                raise ConfigError(
                    "tasks.keypoints.refinement.local_features: got true, but the model measures "
                    'nothing around joints; name "keypoints" in model.priors or set it to false'
                )
            self.local_features = nn.ModuleList(
                nn.Linear(sizes.joint_features, sizes.dim) for _ in range(config.layers)
            )
        self.layers = nn.ModuleList(DecoderLayer(layer) for _ in range(config.layers))
        self.joint_queries = nn.Embedding(len(sizes.skeleton), 2 * sizes.dim)
        """positional half, then content half"""
        self.heads = nn.ModuleList(
            MLP(sizes.dim, sizes.dim, sizes.dim, 2) for _ in range(config.layers)
        )
        for name, weight in self.layers.named_parameters():
            if (
                weight.dim() > 1
                and "sampling_offsets" not in name
                and "attention_weights" not in name
            ):
                nn.init.xavier_uniform_(weight)
        for head in self.heads:
            nn.init.zeros_(head[-1].weight)
            nn.init.zeros_(head[-1].bias)

    def forward(
        self,
        joints_unit: Float[Tensor, "b n k 2"],
        encoded: Encoded,
        sides_unit: Float[Tensor, "b n 2"],
        queries: Float[Tensor, "b n c"],
    ) -> tuple[list[Float[Tensor, "b n k 2"]], list[Float[Tensor, "b n k c"]]]:
        """Joints of n persons per picture (0..1 of the valid canvas) after every layer, and the
        states that moved them.

        `sides_unit` of the persons' boxes, and their `queries`, are used only as
        `RefinementConfig` says. Persons do not attend to each other; the memory's values are
        projected once per picture.
        """
        b, n, k, _ = joints_unit.shape  # n may be 0: no shape is left to -1
        c = queries.shape[-1]
        position, content = self.joint_queries.weight.chunk(2, -1)
        position = position.expand(b * n, -1, -1)
        states = content.expand(b * n, -1, -1)
        if self.in_boxes:
            states = states + self.person(queries).reshape(b * n, 1, c)
        points, all_points, all_states = joints_unit.detach(), [], []
        for i, (layer, head) in enumerate(zip(self.layers, self.heads, strict=True)):
            if self.local_features is not None:
                around = _joint_features(points, sides_unit, encoded)
                states = states + self.local_features[i](around.to(states)).reshape(b * n, k, c)
            states = layer.attend_self(states, position)
            value = layer.cross_attention.project(encoded.memory, encoded.padding)
            states = layer.attend_memory(
                states.reshape(b, n * k, c),
                position.reshape(b, n * k, c),
                self._references(points, sides_unit, encoded),
                value,
                encoded.shapes,
            ).reshape(b * n, k, c)
            move = head(states).reshape(b, n, k, 2)
            if self.in_boxes:
                moved = points + move.float() * sides_unit[:, :, None]
            else:
                moved = (move + inverse_sigmoid(points, 1e-5)).float().sigmoid()
            all_points.append(moved)
            all_states.append(states.reshape(b, n, k, c))
            points = moved.detach()
        return all_points, all_states

    def _references(
        self, points: Tensor, sides_unit: Tensor, encoded: Encoded
    ) -> Float[Tensor, "b nk levels r"]:
        """Points of the padded map, or with `in_boxes` boxes of half the person's size about
        them."""
        references = points.flatten(1, 2)[:, :, None] * encoded.valid_ratios[:, None]
        if not self.in_boxes:
            return references
        sides = (sides_unit[:, :, None] / 2).expand_as(points).flatten(1, 2)[
            :, :, None
        ] * encoded.valid_ratios[:, None]
        return torch.cat([references, sides.to(references)], -1)


@torch.no_grad()
def _joint_features(
    points: Float[Tensor, "b n k 2"], sides_unit: Float[Tensor, "b n 2"], encoded: Encoded
) -> Tensor:
    # without a gradient: the maps behind these features are frozen, and moving a point by the
    # slope of a sampled map would teach the layer before to please this one
    canvas = encoded.sides()[:, None]
    return encoded.joint_features(points * canvas[:, :, None], sides_unit * canvas)
