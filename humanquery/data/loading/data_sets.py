"""Several data sets side by side: every optimizer step sees one micro-batch of each."""

import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from humanquery.core.batch import Batch
from humanquery.core.errors import ConfigError, HumanQueryError
from humanquery.data.loading.loader import Augmentation, MixConfig, TrainLoader
from humanquery.data.readers.sources import SourceConfig


@dataclass(frozen=True)
class DataSetPart:
    name: str
    """becomes `Target.source` of its pictures"""
    source: SourceConfig
    augment: Augmentation
    batch_size: int
    """pictures per micro-batch and process"""
    per_person: int = 0
    """pictures in a row of one person (see `loader.PersonPlan`); 0: any order"""


@dataclass(frozen=True)
class DataSetsConfig:
    """Micro-batch i is of part i modulo their number; `engine.accumulate` must be that number."""

    parts: tuple[DataSetPart, ...]

    def __post_init__(self):
        names = [part.name for part in self.parts]
        if not names or len(set(names)) < len(names):
            raise ConfigError(
                f"DataSetsConfig: parts {names}; expected at least one, each name once"
            )


class DataSetsLoader:
    """Endless (name, `Batch`) pairs, restartable like `TrainLoader`: batch i depends on (seed, i,
    rank, world_size) alone.

    An error of one data set says which it is.
    """

    def __init__(
        self,
        config: DataSetsConfig,
        *,
        seed: int = 0,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        divisor: int = 1,
    ):
        self.config = config
        self.loaders: dict[str, TrainLoader] = {}
        for part in config.parts:
            # of the name, so that a data set goes the same way alone and beside others
            own_seed = seed + zlib.crc32(part.name.encode()) % 65_536
            with _named(part.name):
                self.loaders[part.name] = TrainLoader(
                    MixConfig.of(part.source),
                    part.augment,
                    part.batch_size,
                    seed=own_seed,
                    num_workers=num_workers,
                    rank=rank,
                    world_size=world_size,
                    divisor=divisor,
                    per_person=part.per_person,
                )

    def batches(self, start: int = 0) -> Iterator[tuple[str, Batch]]:
        """Micro-batch `start` of this rank and all after it."""
        names = list(self.loaders)
        # of the batches before `start`, part j has had every one with i % n == j
        streams = {
            name: loader.batches((start - j + len(names) - 1) // len(names))
            for j, (name, loader) in enumerate(self.loaders.items())
        }
        i = start
        while True:
            name = names[i % len(names)]
            with _named(name):
                batch = next(streams[name])
            targets = [target.replace(source=name) for target in batch.targets or []]
            yield name, replace(batch, targets=targets)
            i += 1

    def identity(self) -> dict[str, Any]:
        """What is learned from, as plain data."""
        parts = {
            part.name: {
                **self.loaders[part.name].identity(),
                "batch_size": part.batch_size,
                "per_person": part.per_person,
            }
            for part in self.config.parts
        }
        return {"data_sets": parts}

    @property
    def unreadable(self) -> Counter[str]:
        """Pictures of all data sets that were replaced by the next ones."""
        return sum((loader.unreadable for loader in self.loaders.values()), Counter())


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Puts the name of the data set in front of an error."""
    try:
        yield
    except HumanQueryError as problem:
        raise type(problem)(f"data set {name!r}: {problem}") from problem
