"""A backbone that learned apparent gender and age on known boxes, as the part of a stack that only answers questions."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from humanquery.backbones.parts import Backbone, fill, freeze, read_tensors
from humanquery.backbones.sight import Sight
from humanquery.backbones.timm_features import TimmBackbone, TimmFeatures
from humanquery.nn.regions import RegionAttributes, RegionConfig


@dataclass(frozen=True)
class AttributesBackbone:
    """`weights`: a file of the recipe `attributes_small` (parameters under `backbone.` and `regions.`)."""

    weights: str = ""
    backbone: TimmBackbone = field(default_factory=lambda: TimmBackbone("mobilenetv2_100", pretrained=False))
    regions: RegionConfig = field(default_factory=RegionConfig)


class AttributesFeatures(Backbone):
    """Frozen, always in eval mode. Its maps have no channels: whoever stacks it hears what it says about boxes and nothing
    else."""

    channels = (0, 0, 0, 0)
    gives = ("gender", "age")

    def __init__(self, config: AttributesBackbone):
        super().__init__()
        self.backbone = TimmFeatures(config.backbone)
        self.regions = RegionAttributes(tuple(self.backbone.channels)[1:], config.regions)
        self.mean, self.std = self.backbone.mean, self.backbone.std
        if config.weights:
            fill(self, read_tensors(config.weights), config.weights)
        freeze([self])

    def train(self, mode: bool = True) -> "AttributesFeatures":
        return super().train(False)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _c _h _w"]]:
        return self.see(images).features

    def see(self, images: Float[Tensor, "b 3 h w"]) -> Sight:
        features = self.backbone(images)
        return Sight([f[:, :0] for f in features], attributes=Looks(self.regions, features[1:]))


@dataclass(frozen=True, eq=False)
class Looks:
    """Maps of strides 8, 16, 32 and what reads them."""

    regions: RegionAttributes
    features: list[Float[Tensor, "b _c _h _w"]]

    def in_boxes(self, boxes: Float[Tensor, "b q 4"]) -> tuple[Float[Tensor, "b q"], Float[Tensor, "b q ages"]]:
        """Logit of label 1 (female) and logits of whole years from 0, for boxes xyxy px of the padded canvas."""
        reading = self.regions(self.features, boxes)
        shape = boxes.shape[:2]
        return reading.gender_logit.unflatten(0, shape), reading.age_logits.unflatten(0, shape)
