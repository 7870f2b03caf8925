"""Backbone levels to levels of one width (the ChannelMapper of the release)."""

from jaxtyping import Float
from torch import Tensor, nn


class MappedLevel(nn.Module):
    """Convolution without bias, then group norm; no activation."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int, groups: int):
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.GroupNorm(groups, outer)
        nn.init.xavier_uniform_(self.conv.weight)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return self.norm(self.conv(x))


class ChannelMapper(nn.Module):
    """C2..C5 to P2..P5 by 1×1 convolutions; further levels by 3×3 convolutions of stride 2, the
    first on C5 itself."""

    def __init__(
        self,
        in_channels: tuple[int, ...],
        out_channels: int,
        groups: int = 32,
        extra_levels: int = 1,
    ):
        super().__init__()
        self.levels = nn.ModuleList(MappedLevel(c, out_channels, 1, 1, groups) for c in in_channels)
        widths = [in_channels[-1], *[out_channels] * extra_levels][:extra_levels]
        self.extra = nn.ModuleList(MappedLevel(c, out_channels, 3, 2, groups) for c in widths)

    def forward(self, features: list[Tensor]) -> list[Float[Tensor, "b d _h _w"]]:
        mapped = [level(feature) for level, feature in zip(self.levels, features, strict=True)]
        last = features[-1]
        for level in self.extra:
            last = level(last)
            mapped.append(last)
        return mapped
