"""A ResNet with bottlenecks, any width, under the official parameter names: stands in for the
tiny oracle's backbone, which is narrower than any timm model."""

import torch
from torch import Tensor, nn


class Bottleneck(nn.Module):
    def __init__(self, inner: int, width: int, stride: int):
        super().__init__()
        out = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = (
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.downsample = None
        if stride != 1 or inner != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(inner, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return (self.bn3(self.conv3(x)) + shortcut).relu()


class OfficialResNet(nn.Module):
    """C2..C5; batch norms always in eval mode, stem and first stage frozen, as the release
    trains."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # the oracle's pictures are already normalised

    def __init__(self, width: int = 64, blocks: tuple[int, ...] = (3, 4, 6, 3)):
        super().__init__()
        self.channels = tuple(4 * width * 2**i for i in range(4))
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        inner = width
        for i, count in enumerate(blocks):
            stage = []
            for j in range(count):
                stage.append(Bottleneck(inner, width * 2**i, 2 if i and not j else 1))
                inner = 4 * width * 2**i
            setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
        for name, parameter in self.named_parameters():
            frozen = (
                name.startswith(("conv1", "bn1", "layer1"))
                or ".bn" in name
                or "downsample.1" in name
            )
            parameter.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> "OfficialResNet":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        x = torch.max_pool2d(self.bn1(self.conv1(images)).relu(), 3, 2, 1)
        features = []
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
            features.append(x)
        return features
