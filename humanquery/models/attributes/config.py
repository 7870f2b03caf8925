"""The numbers of an attribute model."""

from dataclasses import dataclass, field

from humanquery.backbones import TimmBackbone
from humanquery.experts import AnyBackbone
from humanquery.nn.person_views import RegionConfig
from humanquery.tasks.age import AgeConfig


@dataclass(frozen=True)
class AttributesConfig:
    backbone: AnyBackbone = field(
        default_factory=lambda: TimmBackbone(
            "mobilenetv2_100", pretrained=True, frozen_stages=2, frozen_norm=False
        )
    )
    regions: RegionConfig = field(default_factory=RegionConfig)
    gender_loss: float = 1.0
    label_smoothing: float = 0.05
    """a gender label counts as so much of the other one, halved"""
    age: AgeConfig = field(default_factory=lambda: AgeConfig(loss=0.15, variance=0.01))
    """weights of the loss (its classes are `regions.num_ages`). The release's variance weight of
    0.1 is a wall here: a tenth of the mass on an age 30 years off costs more by its variance than
    it gains by cross-entropy and mean"""
    head_loss: float = 1.0
    """of the place of the head's square, where it is known (used with `regions.head`)"""
    head_jitter: float = 0.1
    """known squares are moved and scaled by so much of their side before the head is looked at, as
    found ones are"""
    age_slack: float = 2.0
    """years to either side of an age that are as right: people who judge the same photo differ by
    more"""
