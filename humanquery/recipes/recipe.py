"""What a recipe is: a model, its data and the way it is trained, as plain numbers."""

from dataclasses import dataclass, field

from humanquery.data.augment.augment import AugmentConfig
from humanquery.data.augment.person_crops import RegionAugmentConfig
from humanquery.data.loading.loader import MixConfig
from humanquery.data.readers.sources import SourceConfig
from humanquery.engine.train_config import EngineConfig
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models import SystemConfig


@dataclass(frozen=True)
class ValPart:
    """One of several evaluation parts; `name` begins the names of its numbers."""

    name: str
    source: SourceConfig
    letterbox: LetterboxConfig


@dataclass(frozen=True)
class DataConfig:
    """What is learned from, and what is scored on."""

    train: MixConfig
    val: SourceConfig
    augment: AugmentConfig | RegionAugmentConfig = field(default_factory=AugmentConfig)
    letterbox: LetterboxConfig = field(default_factory=LetterboxConfig)
    """how pictures are laid for evaluation"""
    also_val: tuple[ValPart, ...] = ()
    """further parts, scored by recipes that train attributes on known boxes"""


@dataclass(frozen=True)
class Recipe:
    """A whole experiment. `--set model.tasks.mask=none` and the like change one number."""

    model: SystemConfig
    data: DataConfig
    engine: EngineConfig = field(default_factory=EngineConfig)
    data_name: str = ""
    """what the model card says about the data"""
    data_licence: str = ""
