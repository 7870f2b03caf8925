"""The numbers of a PATH model."""

import re
from dataclasses import dataclass, field
from typing import ClassVar

from humanquery.core.errors import ConfigError


@dataclass(frozen=True)
class PathBackbone:
    """A plain vision transformer of timm; the defaults are HumanBench's ViT-B."""

    name: str = "vit_base_patch16_224"
    weights: str = ""
    """a local .safetensors with timm's names, MAE's for instance; empty: fresh"""
    grid: tuple[int, int] = (14, 14)
    """rows and columns of the table of positions, which is resized to every input"""
    last_block: bool = False
    """the projector also reads the last block. As released it does not: the last block and the
    final norm learn nothing in pretraining"""


@dataclass(frozen=True)
class LadderConfig:
    """Ladder side-attention, as in the released code."""

    reduction: int = 8
    """width of the backbone over that of the ladder"""
    heads: int = 2
    temperature: float = 1.0


@dataclass(frozen=True)
class MLPConfig:
    """A residual MLP on the last map read, as HumanBench's README calls the projector."""

    ratio: float = 1.0
    """hidden width over that of the backbone"""


class _Head:
    reads_token: ClassVar[bool] = False
    """a class token of the data set, instead of the patches"""


@dataclass(frozen=True)
class PoseHeadConfig(_Head):
    skeleton: str = "coco17"
    width: int = 256
    sigma: float = 2.0
    """cells; of the target Gaussians"""


@dataclass(frozen=True)
class ParsingHeadConfig(_Head):
    classes: tuple[str, ...] = ()
    width: int = 256


@dataclass(frozen=True)
class AttributeHeadConfig(_Head):
    names: tuple[str, ...] = ()
    positive_share: tuple[float, ...] = ()
    """of each attribute's known labels, 0..1; weighs the loss"""


@dataclass(frozen=True)
class IdentityHeadConfig(_Head):
    reads_token: ClassVar[bool] = True
    people: int = 0
    """of the training data: classes of the classifier"""
    triplet: float = 1.0
    """weight of the batch-hard triplet loss beside the cross-entropy"""


@dataclass(frozen=True)
class DetectionHeadConfig(_Head):
    layers: int = 9
    points: int = 300
    contents: int = 3
    """queries per point"""
    width: int = 256
    heads: int = 8
    feedforward: int = 2048


@dataclass(frozen=True)
class CountingHeadConfig(_Head):
    width: int = 256


HeadConfig = (
    PoseHeadConfig
    | ParsingHeadConfig
    | AttributeHeadConfig
    | IdentityHeadConfig
    | DetectionHeadConfig
    | CountingHeadConfig
)


@dataclass(frozen=True)
class DataSetConfig:
    """A data set with a head of its own, and whom it shares the rest with."""

    name: str
    """`Target.source` of its pictures"""
    head: HeadConfig
    task: str = ""
    """data sets of one task share a projector; empty: the name of the data set"""
    weight: float = 1.0
    """of its loss; only the ratio to the others' counts"""
    drop_path: float = 0.0
    """of the last block, rising linearly from 0"""
    class_token: bool | None = None
    """a class token of its own; None: for identities alone"""

    def __post_init__(self):
        if not re.fullmatch(r"\w+", self.name) or not re.fullmatch(r"\w*", self.task):
            raise ConfigError(
                f"path: data set {self.name!r} of task {self.task!r}; expected letters, digits and "
                f"underscores, since they become names of parameters"
            )
        if not self.weight > 0 or not 0 <= self.drop_path < 1:
            raise ConfigError(
                f"path: data set {self.name}: weight {self.weight}, drop_path {self.drop_path}; "
                f"expected a weight above 0 and a rate of 0 to below 1"
            )

    @property
    def has_class_token(self) -> bool:
        if self.class_token is None:
            return self.head.reads_token
        return self.class_token

    @property
    def group(self) -> str:
        """Name of its projector."""
        return self.task or self.name


@dataclass(frozen=True)
class PathConfig:
    data_sets: tuple[DataSetConfig, ...]
    backbone: PathBackbone = field(default_factory=PathBackbone)
    projector: LadderConfig | MLPConfig | None = field(default_factory=LadderConfig)
    """None: no projector; heads read the last block's normed map (fine-tuning)"""
    answers: str = ""
    """the data set whose head `predict` asks; empty: the first"""

    def __post_init__(self):
        names = [one.name for one in self.data_sets]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"path: data sets {names}; expected at least one, each name once")
        if self.answers and self.answers not in names:
            raise ConfigError(f"path: answers {self.answers!r}, expected one of {', '.join(names)}")
