"""Configuration of an HQNet. Defaults are those of the released network; where the paper differs, a
field can be set to its value."""

from dataclasses import dataclass, field
from typing import Any

from humanquery.backbones import TimmBackbone
from humanquery.core.skeleton import Skeleton
from humanquery.experts import AnyBackbone
from humanquery.media.letterbox import LetterboxConfig
from humanquery.tasks.age import AgeConfig
from humanquery.tasks.box import BoxConfig
from humanquery.tasks.face import FaceConfig
from humanquery.tasks.gender import GenderConfig
from humanquery.tasks.keypoint_confidence import KeypointConfidenceConfig
from humanquery.tasks.keypoints import KeypointsConfig
from humanquery.tasks.mask import MaskConfig
from humanquery.tasks.person import PersonConfig


@dataclass(frozen=True)
class TransformerConfig:
    dim: int = 256
    heads: int = 8
    points: int = 4
    levels: int = 4
    """feature levels of the encoder, from stride 8 on"""
    encoder_layers: int = 6
    decoder_layers: int = 6
    feedforward: int = 2048
    dropout: float = 0.0


@dataclass(frozen=True)
class DenoisingConfig:
    """Contrastive denoising (DINO): noised true boxes as extra training queries."""

    pairs: int = 100
    """about so many positive queries per picture: groups = pairs // (people of the fullest
    picture), at least 1"""
    box_noise: float = 1.0


@dataclass(frozen=True)
class ExtraTask:
    """A task that is not built in: the name of its class, whose file must have been imported, and
    the fields of its `Task.config_type` that differ from their defaults."""

    task: str
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TasksConfig:
    """Which tasks to build; None leaves one out. Person and box are always there: the queries hang
    on them."""

    person: PersonConfig = field(default_factory=PersonConfig)
    box: BoxConfig = field(default_factory=BoxConfig)
    keypoints: KeypointsConfig | None = field(default_factory=KeypointsConfig)
    keypoint_confidence: KeypointConfidenceConfig | None = field(
        default_factory=KeypointConfidenceConfig
    )
    mask: MaskConfig | None = field(default_factory=MaskConfig)
    gender: GenderConfig | None = field(default_factory=GenderConfig)
    age: AgeConfig | None = field(default_factory=AgeConfig)
    face: FaceConfig | None = None
    """not in the released network (section 5.4 of the paper adds it to a frozen one)"""
    extra: tuple[ExtraTask, ...] = ()


@dataclass(frozen=True)
class HQNetConfig:
    backbone: AnyBackbone = field(default_factory=TimmBackbone)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    matching: tuple[str, ...] = ("person", "box", "keypoints", "keypoint_confidence", "mask")
    """tasks whose costs are summed for the one assignment (HQ-Ins matching); ("person", "box") is
    DINO's"""
    denoising: DenoisingConfig | None = field(default_factory=DenoisingConfig)
    priors: tuple[str, ...] = ()
    """what a backbone that was trained on people answers about them (`experts.answers`) and queries
    start from, see `models.hqnet.priors.Priors`; empty: the HQNet of the paper"""
    distinct_iou: float = 0.7
    """proposals that overlap a better one more than this are no queries while there are others;
    only with the prior `person`"""
    num_queries: int = 300
    num_persons: int = 100
    """best-scored queries that become `Persons`"""
    skeleton: str | Skeleton = "coco17"
    """name of a built-in layout of joints, or one of its own"""
    input: LetterboxConfig = field(default_factory=LetterboxConfig)
