"""A light HRNet of shuffle units (Lite-HRNet, Yu et al. 2021, in the "wider naive" form of
PP-TinyPose): maps at strides 4 to 32 that are mixed again and again.

Norms are folded into the convolutions, as in the released TinyPose files, from which `TopDown`
networks of this kind start (`tinypose.py`).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from humanquery.models.topdown.config import LiteHRNetConfig

Maps = Float[Tensor, "n _c _h _w"]
UNITS = 2
"""shuffle units per branch of a module"""


def _separable(inputs: int, outputs: int, stride: int = 1, *, relu: bool = True) -> nn.Sequential:
    layers = [
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs),
        nn.Conv2d(inputs, outputs, 1),
    ]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


def _shuffled(one: Maps, other: Maps) -> Maps:
    """Channels of both in turn."""
    # written channels-last: one pass over memory, and the fast layout for what follows
    turns = torch.stack([one.movedim(1, -1), other.movedim(1, -1)], -1)
    return turns.flatten(-2).movedim(-1, 1)


class ShuffleUnit(nn.Module):
    """Half of the channels pass, the others go through 1×1, 3×3 depthwise, 1×1."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.work = nn.Sequential(nn.Conv2d(half, half, 1), nn.ReLU(), *_separable(half, half))

    def forward(self, maps: Maps) -> Maps:
        kept, worked = maps.chunk(2, 1)
        # a view of half of the channels would leave the fast layout
        worked = self.work(worked.contiguous(memory_format=torch.channels_last))
        return _shuffled(kept, worked)


class Stem(nn.Module):
    """From the crop to 32 channels at stride 4."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU())
        self.one = _separable(16, 16, 2)
        self.other = nn.Sequential(nn.Conv2d(16, 32, 1), nn.ReLU(), *_separable(32, 16, 2))

    def forward(self, crops: Float[Tensor, "n 3 h w"]) -> Maps:
        first, second = self.conv(crops).chunk(2, 1)
        return _shuffled(self.one(first), self.other(second))


class _Down(nn.Sequential):
    """Stride-2 convolutions from one branch to a coarser one, the last without ReLU."""

    def __init__(self, inputs: int, outputs: int, steps: int):
        between = [_separable(inputs, inputs, 2) for _ in range(steps - 1)]
        super().__init__(*between, _separable(inputs, outputs, 2, relu=False))


class _Up(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, steps: int):
        up = nn.Upsample(scale_factor=2**steps, mode="nearest")
        super().__init__(nn.Conv2d(inputs, outputs, 1), up)


class Module(nn.Module):
    """Shuffle units in each branch, then every branch gets what all others know."""

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*[ShuffleUnit(c) for _ in range(UNITS)]) for c in channels
        )
        self.fuse = nn.ModuleList(
            nn.ModuleList(_between(channels, j, i) for j in range(len(channels)))
            for i in range(len(channels))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(m) for branch, m in zip(self.branches, maps, strict=True)]
        fused = []
        for into in self.fuse:
            # the finest branch counts twice, and the coarser ones get it after it was mixed: the
            # released networks were trained so, by an addition in place
            total = 2 * into[0](maps[0])
            for layer, other in zip(into[1:], maps[1:], strict=True):
                total = total + layer(other)
            if not fused:
                maps[0] = total
            fused.append(total.relu())
        return fused


def _between(channels: tuple[int, ...], source: int, to: int) -> nn.Module:
    if source == to:
        return nn.Identity()
    kind = _Down if source < to else _Up
    return kind(channels[source], channels[to], abs(source - to))


class LiteHRNet(nn.Module):
    """Crops to heat maps at stride 4; see `LiteHRNetConfig`."""

    def __init__(self, config: LiteHRNetConfig, num_joints: int):
        super().__init__()
        channels = tuple(config.width * 2**i for i in range(4))
        self.stem = Stem()
        self.first = nn.ModuleList([_separable(32, channels[0]), _separable(32, channels[1], 2)])
        self.grow = nn.ModuleList(_separable(channels[i], channels[i + 1], 2) for i in (1, 2))
        self.stages = nn.ModuleList(
            nn.ModuleList(Module(channels[:count]) for _ in range(modules))
            for count, modules in zip((2, 3, 4), config.modules, strict=True)
        )
        into = (channels[0], *channels[:3])
        self.merge = nn.ModuleList(_separable(channels[i], into[i]) for i in range(4))
        self.head = nn.Conv2d(channels[0], num_joints, 1)
        self.detail = None
        if config.detail:
            self.detail = nn.Sequential(
                nn.Conv2d(2 * channels[0], config.detail, 3, 1, 1),
                nn.ReLU(),
                nn.Conv2d(config.detail, num_joints, 1),
            )
            # at first the maps are those of `head` alone
            nn.init.zeros_(self.detail[-1].weight)
            nn.init.zeros_(self.detail[-1].bias)

    def forward(self, crops: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k H W"]:
        return self.read(*self.features(crops))

    def features(self, crops: Float[Tensor, "n 3 h w"]) -> tuple[Maps, Maps]:
        """Maps at stride 4: of the finest branch, and of all branches merged."""
        stem = self.stem(crops)
        maps = [branch(stem) for branch in self.first]
        for i, stage in enumerate(self.stages):
            if i:
                maps = [*maps, self.grow[i - 1](maps[-1])]
            for module in stage:
                maps = module(maps)
        merged = self.merge[3](maps[3])
        for i in (2, 1, 0):
            size = maps[i].shape[-2:]
            wide = interpolate(merged, size=size, mode="bilinear", align_corners=True)
            merged = self.merge[i](maps[i] + wide)
        return maps[0], merged

    def read(self, fine: Maps, merged: Maps) -> Maps:
        """Heat maps from what `features` gives."""
        out = self.head(merged)
        if self.detail is not None:
            out = out + self.detail(torch.cat([fine, merged], 1))
        return out
