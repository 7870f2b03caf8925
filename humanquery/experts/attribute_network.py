"""A backbone that learned apparent gender and age on known boxes, as the part of a stack that only
answers questions."""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from humanquery.backbones.parts import Backbone, fill, freeze, multiple, read_tensors
from humanquery.backbones.sight import Sight
from humanquery.backbones.timm_features import TimmBackbone, TimmFeatures
from humanquery.nn.person_views import RegionAttributes, RegionConfig, read_people


@dataclass(frozen=True)
class AttributesBackbone:
    """`weights`: a file of the recipe `attributes_small` (parameters under `backbone.` and
    `regions.`)."""

    weights: str = ""
    backbone: TimmBackbone = field(
        default_factory=lambda: TimmBackbone("mobilenetv2_100", pretrained=False)
    )
    regions: RegionConfig = field(default_factory=RegionConfig)


class AttributesFeatures(Backbone):
    """Frozen, always in eval mode. Its maps have no channels: whoever stacks it hears what it says
    about boxes and nothing else. It does not look at a picture before somebody asks about boxes."""

    channels = (0, 0, 0, 0)
    gives = ("gender", "age")

    def __init__(self, config: AttributesBackbone):
        super().__init__()
        self.backbone = TimmFeatures(config.backbone)
        self.regions = RegionAttributes(self.backbone.channels[-1], config.regions)
        self.mean, self.std = self.backbone.mean, self.backbone.std
        if config.weights:
            fill(self, read_tensors(config.weights), config.weights)
        freeze([self])

    def train(self, mode: bool = True) -> "AttributesFeatures":
        return super().train(False)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _c _h _w"]]:
        return self.see(images).features

    def see(
        self, images: Float[Tensor, "b 3 h w"], finer: Float[Tensor, "b 3 H W"] | None = None
    ) -> Sight:
        height, width = images.shape[-2:]
        empty = [
            images.new_zeros(images.shape[0], 0, -(-height // s), -(-width // s))
            for s in self.strides
        ]
        return Sight(empty, attributes=Looks(self.backbone, self.regions, images, finer))


@dataclass(frozen=True, eq=False)
class Looks:
    """Normalised pictures, and what looks at people cut out of them."""

    backbone: TimmFeatures
    regions: RegionAttributes
    images: Float[Tensor, "b 3 h w"]
    finer: Float[Tensor, "b 3 H W"] | None = None
    """people are cut out of these, if there are any"""

    def of(self, picture: int) -> "Looks":
        """The picture alone, as a batch of one."""
        at = slice(picture, picture + 1)
        return replace(
            self, images=self.images[at], finer=None if self.finer is None else self.finer[at]
        )

    @torch.no_grad()
    def in_boxes(
        self, boxes: Float[Tensor, "b q 4"]
    ) -> tuple[Float[Tensor, "b q"], Float[Tensor, "b q ages"]]:
        """Logit of label 1 (female) and logits of whole years from 0, for boxes xyxy px of the
        padded canvas."""
        images, times = (
            (self.images, 1)
            if self.finer is None
            else (self.finer, multiple(self.images, self.finer))
        )
        reading = read_people(images, boxes * times, self.backbone, self.regions, mirrored=True)
        shape = boxes.shape[:2]
        return reading.gender_logit.unflatten(0, shape), reading.age_logits.unflatten(0, shape)
