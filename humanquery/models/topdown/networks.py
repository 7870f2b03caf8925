"""Pose networks with one interface: crops n 3 h w to heat maps n k h/4 w/4.

Parameters of the backbones are named as torchvision and timm name them.
"""

from jaxtyping import Float
from torch import Tensor, nn

from humanquery.models.topdown.config import (
    FastPoseConfig,
    HRNetConfig,
    LiteHRNetConfig,
    SimplePoseConfig,
)
from humanquery.models.topdown.lite_hrnet import LiteHRNet

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
STRIDE = 4
"""px of the crop per cell of a heat map"""

NetworkConfig = FastPoseConfig | SimplePoseConfig | HRNetConfig | LiteHRNetConfig


def build_network(config: NetworkConfig, num_joints: int) -> nn.Module:
    """The network of a config, with fresh weights."""
    return NETWORKS[type(config)](config, num_joints)


class Squeeze(nn.Module):
    """Channels scaled by a gate from their means (Hu et al. 2018) without a bottleneck."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.Sigmoid(),
        )

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return maps * self.fc(maps.mean((-2, -1)))[..., None, None]


class DeformableConv(nn.Module):
    """3×3 convolution that samples where an ordinary one tells it to (Dai et al. 2017).

    Offsets are (dy, dx) tap by tap; what lies outside of the map is zero.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        plain = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.weight, self.stride = plain.weight, stride
        self.offset = nn.Conv2d(inputs, 18, 3, stride, 1)
        # at first it is the plain convolution
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d H W"]:
        from torchvision.ops import deform_conv2d  # takes as long to import as PyTorch

        return deform_conv2d(maps, self.offset(maps), self.weight, stride=self.stride, padding=1)


class Bottleneck(nn.Module):
    """ResNet's block of 1×1, 3×3 (with the stride), 1×1."""

    def __init__(self, inputs: int, planes: int, stride: int, kind: FastPoseConfig, first: bool):
        super().__init__()
        outputs = planes * 4
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        if kind.deformable and planes > 64:  # the last three stages
            self.conv2 = DeformableConv(planes, planes, stride)
        elif kind.unshuffle and stride == 2:
            self.conv2 = nn.Sequential(
                nn.PixelUnshuffle(2), nn.Conv2d(planes * 4, planes, 3, 1, 1, bias=False)
            )
        else:
            self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.se = Squeeze(outputs) if kind.squeeze and first else nn.Identity()
        self.downsample = nn.Identity()
        if first:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d H W"]:
        out = self.bn1(self.conv1(maps)).relu()
        out = self.bn2(self.conv2(out)).relu()
        out = self.se(self.bn3(self.conv3(out)))
        return (out + self.downsample(maps)).relu()


class ResNet(nn.Module):
    """torchvision's ResNet up to its last stage, 2048 channels at stride 32."""

    def __init__(self, config: FastPoseConfig):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, count in enumerate(BLOCKS[config.depth]):
            planes, blocks = 64 * 2**stage, []
            for i in range(count):
                stride = 2 if stage and not i else 1
                blocks.append(Bottleneck(channels, planes, stride, config, first=not i))
                channels = planes * 4
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))

    def forward(self, crops: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 2048 H W"]:
        maps = self.maxpool(self.bn1(self.conv1(crops)).relu())
        return self.layer4(self.layer3(self.layer2(self.layer1(maps))))


class DUC(nn.Sequential):
    """Dense upsampling: a convolution to four times the channels, shuffled into twice the size."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(
            nn.Conv2d(inputs, outputs * 4, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs * 4),
            nn.ReLU(),
            nn.PixelShuffle(2),
        )


def _shuffled_stage(inputs: int, outputs: int, convolutions: int) -> nn.Sequential:
    """A stage of the DUC models: shuffle first, then convolutions, the last one to `outputs`."""
    width, layers = inputs // 4, [nn.PixelShuffle(2)]
    for i in range(convolutions):
        into = outputs if i == convolutions - 1 else width
        layers += [nn.Conv2d(width, into, 3, 1, 1, bias=False), nn.BatchNorm2d(into), nn.ReLU()]
    return nn.Sequential(*layers)


def _upsampling(config: FastPoseConfig) -> tuple[nn.Sequential, int]:
    """From 2048 channels at stride 32 to stride 4, and the channels there."""
    if config.upsampling == "duc":
        sizes = ((2048, 1024, 4), (1024, 512, 2), (512, 256, 1))
        return nn.Sequential(*[_shuffled_stage(*size) for size in sizes]), 256
    if config.upsampling == "paper":
        sizes = ((2048, 512), (512, 256), (256, config.width))
        return nn.Sequential(*[DUC(*size) for size in sizes]), config.width
    return nn.Sequential(nn.PixelShuffle(2), DUC(512, 256), DUC(256, config.width)), config.width


class FastPose(nn.Module):
    """AlphaPose's network, see `FastPoseConfig`."""

    def __init__(self, config: FastPoseConfig, num_joints: int):
        super().__init__()
        self.backbone = ResNet(config)
        self.upsample, channels = _upsampling(config)
        side = 1 if config.upsampling == "paper" else 3
        self.head = nn.Conv2d(channels, num_joints, side, 1, side // 2)
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.zeros_(self.head.bias)

    def forward(self, crops: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k H W"]:
        return self.head(self.upsample(self.backbone(crops)))


class SimplePose(nn.Module):
    """See `SimplePoseConfig`."""

    def __init__(self, config: SimplePoseConfig, num_joints: int):
        super().__init__()
        self.backbone = ResNet(FastPoseConfig(depth=config.depth, squeeze=False))
        layers = []
        for inputs in (2048, 256, 256):
            layers += [
                nn.ConvTranspose2d(inputs, 256, 4, 2, 1, bias=False),
                nn.BatchNorm2d(256),
                nn.ReLU(),
            ]
        self.upsample = nn.Sequential(*layers)
        self.head = nn.Conv2d(256, num_joints, 1)
        for module in self.upsample:
            if isinstance(module, nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=0.001)
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.zeros_(self.head.bias)

    def forward(self, crops: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k H W"]:
        return self.head(self.upsample(self.backbone(crops)))


class HRNet(nn.Module):
    """timm's HRNet without its classifier; joints are read from the finest branch."""

    def __init__(self, config: HRNetConfig, num_joints: int):
        super().__init__()
        import timm  # its import takes more time than building the network

        whole = timm.create_model(f"hrnet_w{config.width}", pretrained=False)
        for unused in ("incre_modules", "downsamp_modules", "final_layer", "classifier"):
            setattr(whole, unused, None)
        last = whole.stage4[-1]
        last.fuse_layers = last.fuse_layers[:1]  # the coarser branches end here
        self.backbone = whole
        self.head = nn.Conv2d(config.width, num_joints, 1)
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.zeros_(self.head.bias)

    def forward(self, crops: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k H W"]:
        return self.head(self.backbone.forward_features(crops)[0])


NETWORKS: dict[type, type[nn.Module]] = {
    FastPoseConfig: FastPose,
    SimplePoseConfig: SimplePose,
    HRNetConfig: HRNet,
    LiteHRNetConfig: LiteHRNet,
}
"""type of a config -> the network that is built from it"""
