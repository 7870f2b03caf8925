"""Every kind of source, as one union: a source has a length and gives `Sample`s in picture px by
index."""

from typing import Protocol, runtime_checkable

from humanquery.core.batch import Sample
from humanquery.data.augment.person_crops import RegionsConfig
from humanquery.data.readers.coco import CocoSourceConfig
from humanquery.data.readers.counting import CountingConfig
from humanquery.data.readers.crops import FacesConfig, MosaicConfig, PetaConfig
from humanquery.data.readers.crowdhuman import CrowdHumanConfig
from humanquery.data.readers.identities import IdentityConfig
from humanquery.data.readers.parsing import ParsingConfig
from humanquery.data.readers.pedestrian_attributes import Pa100kConfig, PetaAttributesConfig
from humanquery.data.readers.persons import PersonsConfig
from humanquery.data.scenes.scenes import GeneratedScenes, Scenes

# A new kind of source joins here: a frozen dataclass with `build()` (or a line in
# `open_source`).
SourceConfig = (
    CocoSourceConfig
    | PetaConfig
    | FacesConfig
    | MosaicConfig
    | GeneratedScenes
    | RegionsConfig
    | IdentityConfig
    | PetaAttributesConfig
    | Pa100kConfig
    | ParsingConfig
    | CountingConfig
    | CrowdHumanConfig
    | PersonsConfig
)


@runtime_checkable
class Source(Protocol):
    """What `build()` of a source config gives. Sample i is always the same."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Sample: ...


def open_source(config: SourceConfig) -> Source:
    """The source that the config describes; its own errors (missing file, bad labels) come
    through."""
    return Scenes(config) if isinstance(config, GeneratedScenes) else config.build()
