import torch
from torch import nn
class _M(nn.Module):
    def __init__(s, i, o, k, g, stride=1):
        super().__init__(); s.conv = nn.Conv2d(i, o, k, stride, k // 2, bias=False); s.norm = nn.GroupNorm(g, o); nn.init.xavier_uniform_(s.conv.weight)
    def forward(s, x): return s.norm(s.conv(x))
class ChannelMapper(nn.Module):
    def __init__(self, in_channels, out_channels, groups=32, extra_levels=1):
        super().__init__()
        self.levels = nn.ModuleList(_M(c, out_channels, 1, groups) for c in in_channels)
        self.extra = nn.ModuleList(_M(in_channels[-1], out_channels, 3, groups, 2) for _ in range(extra_levels))
    def forward(self, f):
        return [m(x) for m, x in zip(self.levels, f)] + [m(f[-1]) for m in self.extra]
