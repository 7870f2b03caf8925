"""Plain vision transformers with the simple feature pyramid of ViTDet."""

from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from humanquery.backbones.parts import Backbone, fill, freeze, read_tensors
from humanquery.core.errors import ConfigError


@dataclass(frozen=True)
class VitBackbone:
    """A timm ViT of patch 16 by name; the position table is interpolated to any picture size."""

    name: str = "vit_large_patch16_224"
    pretrained: bool = False
    weights: str = ""
    frozen_blocks: int = 0
    """the patch embedding and so many blocks stay fixed; 0 trains all"""
    options: dict[str, Any] = field(default_factory=dict)


class VitFeatures(Backbone):
    """The last block's map, brought to strides 4, 8, 16, 32 by two, one and no transposed
    convolution, and a max-pool (Li et al., "Exploring Plain Vision Transformer Backbones for Object
    Detection", 2022)."""

    def __init__(self, config: VitBackbone):
        super().__init__()
        import timm  # its import takes more time than loading a network

        self.body = timm.create_model(
            config.name,
            pretrained=config.pretrained and not config.weights,
            num_classes=0,
            dynamic_img_size=True,
            **config.options,
        )
        if self.body.patch_embed.patch_size != (16, 16):
            raise ConfigError(
                f"backbone {config.name}: patches of {self.body.patch_embed.patch_size}, expected "
                f"16 × 16"
            )
        self.mean, self.std = (tuple(self.body.pretrained_cfg[key]) for key in ("mean", "std"))
        dim = self.body.embed_dim
        self.up4 = nn.Sequential(
            _double(dim, dim // 2),
            nn.GroupNorm(1, dim // 2),
            nn.GELU(),
            _double(dim // 2, dim // 4),
        )
        self.up2 = _double(dim, dim // 2)
        self.channels = (dim // 4, dim // 2, dim, dim)
        if config.weights:
            fill(self.body, read_tensors(config.weights), config.weights)
        if config.frozen_blocks:
            freeze([self.body.patch_embed, *self.body.blocks[: config.frozen_blocks]])

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _c _h _w"]]:
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % 16, 0, -height % 16))
        x = self.body.forward_intermediates(padded, indices=1, intermediates_only=True, norm=True)[
            -1
        ]
        levels = [self.up4(x), self.up2(x), x, F.max_pool2d(x, 2, ceil_mode=True)]
        # the maps of the padded picture, cut to the cells that the picture reaches
        return [
            level[..., : -(-height // stride), : -(-width // stride)]
            for level, stride in zip(levels, self.strides, strict=True)
        ]


def _double(inner: int, outer: int) -> nn.Module:
    return nn.ConvTranspose2d(inner, outer, 2, 2)
