"""What stands between the shared backbone and the heads of one task, and is thrown away after
pretraining."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from humanquery.models.path.config import LadderConfig, MLPConfig


class Ladder(nn.Module):
    """Ladder side-attention: a narrow transformer that climbs along the blocks.

    f_0 = R_0 x_0 and f_i = Block_i(g_i f_{i-1} + (1 - g_i) R_i x_i) with g_i = sigmoid(a_i / T);
    the answer is P f of the last (HumanBench's released code, after Ladder Side-Tuning, Sung et
    al. 2022). Gates start at one half.
    """

    def __init__(self, config: LadderConfig, dim: int, maps: int):
        super().__init__()
        width = dim // config.reduction
        self.temperature = config.temperature
        self.reduce = nn.ModuleList(nn.Linear(dim, width) for _ in range(maps))
        self.gates = nn.Parameter(torch.zeros(maps - 1))
        self.blocks = nn.ModuleList(
            Block(width, config.heads, mlp_ratio=4.0, qkv_bias=False) for _ in range(maps - 1)
        )
        self.expand = nn.Linear(width, dim)
        self.apply(_small)

    def forward(self, maps: Sequence[Float[Tensor, "b n d"]]) -> Float[Tensor, "b n d"]:
        side = self.reduce[0](maps[0])
        gates = (self.gates / self.temperature).sigmoid()
        for gate, reduce, block, seen in zip(
            gates, self.reduce[1:], self.blocks, maps[1:], strict=True
        ):
            side = block(gate * side + (1 - gate) * reduce(seen))
        return self.expand(side)


class MLPProjector(nn.Module):
    """x + Linear(GELU(Linear(LayerNorm(x)))) of the last of its `maps`."""

    def __init__(self, config: MLPConfig, dim: int, maps: int = 1):
        super().__init__()
        hidden = int(dim * config.ratio)
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.apply(_small)

    def forward(self, maps: Sequence[Float[Tensor, "b n d"]]) -> Float[Tensor, "b n d"]:
        return maps[-1] + self.mlp(self.norm(maps[-1]))


PROJECTORS: dict[type, type] = {LadderConfig: Ladder, MLPConfig: MLPProjector}


def build_projector(config: LadderConfig | MLPConfig, dim: int, maps: int) -> nn.Module:
    """For a backbone of width `dim` that gives so many `maps`."""
    return PROJECTORS[type(config)](config, dim, maps)


def _small(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
