"""A backbone that learned apparent gender and age on known boxes, as the part of a stack that only
answers questions."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from humanquery.backbones import Backbone, TimmBackbone
from humanquery.backbones import build as build_backbone
from humanquery.backbones.parts import fill, freeze, read_tensors
from humanquery.experts.answers import Answers, Expert
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


class AttributesFeatures(Expert):
    """Frozen, always in eval mode. Its maps have no channels: whoever stacks it hears what it says
    about boxes and nothing else. It does not look at a picture before somebody asks about boxes."""

    channels = (0, 0, 0, 0)
    answers_about = ("gender", "age")

    def __init__(self, config: AttributesBackbone):
        super().__init__()
        self.backbone = build_backbone(config.backbone)
        self.regions = RegionAttributes(self.backbone.channels[-1], config.regions)
        self.mean, self.std = self.backbone.mean, self.backbone.std
        if config.weights:
            fill(self, read_tensors(config.weights), config.weights)
        freeze([self])

    def train(self, mode: bool = True) -> "AttributesFeatures":
        return super().train(False)

    def answer(
        self, images: Float[Tensor, "b 3 h w"], zoomed: Float[Tensor, "b 3 H W"] | None = None
    ) -> Answers:
        height, width = images.shape[-2:]
        empty = [
            images.new_zeros(images.shape[0], 0, -(-height // s), -(-width // s))
            for s in self.strides
        ]
        return Answers(
            empty, attributes=AttributeCrops(self.backbone, self.regions, images, zoomed)
        )


@dataclass(frozen=True, eq=False)
class AttributeCrops:
    """Normalised pictures, and the network that reads people cut out of them."""

    backbone: Backbone
    regions: RegionAttributes
    images: Float[Tensor, "b 3 h w"]
    zoomed: Float[Tensor, "b 3 H W"] | None = None
    """people are cut out of these, if there are any"""

    @torch.no_grad()
    def in_boxes(self, boxes: Float[Tensor, "b q 4"]) -> dict[str, Float[Tensor, "b q *n"]]:
        """Logits of gender (b q) and age (b q years), for boxes xyxy px of the padded canvas."""
        images, times = (
            (self.images, 1)
            if self.zoomed is None
            else (self.zoomed, self.zoomed.shape[-1] // self.images.shape[-1])
        )
        reading = read_people(images, boxes * times, self.backbone, self.regions, mirrored=True)
        shape = boxes.shape[:2]
        return {
            "gender": reading.gender_logit.unflatten(0, shape),
            "age": reading.age_logits.unflatten(0, shape),
        }
