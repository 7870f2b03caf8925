"""From sources to batches: the endless, restartable stream of training and the one pass of
evaluation."""

import logging
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from humanquery.core.batch import Batch, Sample
from humanquery.core.config import to_plain
from humanquery.core.errors import ConfigError, ImageError
from humanquery.core.target import Target
from humanquery.data.augment.augment import AugmentConfig, augment
from humanquery.data.augment.pedestrians import PedestrianAugmentConfig, augment_pedestrian
from humanquery.data.augment.person_crops import RegionAugmentConfig, augment_region
from humanquery.data.augment.person_samples import PersonSampleConfig, person_sample, proposer
from humanquery.data.loading.identity import source_identity
from humanquery.data.loading.transport import pack, unpack
from humanquery.data.readers.sources import Source, SourceConfig, open_source
from humanquery.media.letterbox import LetterboxConfig, letterboxed

log = logging.getLogger(__name__)

Augmentation = AugmentConfig | RegionAugmentConfig | PersonSampleConfig | PedestrianAugmentConfig

BLOCK = 1000
"""samples in which every source gets exactly its share"""
_REPLACEMENTS = 20
_LARGEST_SHUFFLE = 1 << 23
"""sources longer than this (generated ones) are walked in order: their pictures have none"""


@dataclass(frozen=True)
class MixPart:
    source: SourceConfig
    weight: float = 1.0
    augment: Augmentation | None = None
    """instead of the loader's"""


@dataclass(frozen=True)
class MixConfig:
    """Several sources; of `BLOCK` samples each gives its share by weight (at least one)."""

    parts: tuple[MixPart, ...]

    @staticmethod
    def of(*sources: SourceConfig) -> "MixConfig":
        """Equal shares."""
        return MixConfig(tuple(MixPart(source) for source in sources))


class TrainLoader:
    """Endless training batches. Batch i depends on (seed, i, rank, world_size) alone, not on
    workers or on where one began.

    Sample k of the run belongs to batch k // (batch_size * world_size) and to rank k % world_size,
    so ranks share no work and n ranks see together what one process with n times the batch would
    see. Every source is gone through epoch by epoch, each in an order of its own. A picture that
    cannot be read is named once in a warning, counted in `unreadable` (by the sentence that names
    it and says why) and replaced by the next one of its source. `per_person`: see `PersonPlan`.
    """

    def __init__(
        self,
        mix: MixConfig,
        augmentation: Augmentation,
        batch_size: int,
        *,
        seed: int = 0,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        divisor: int = 1,
        per_person: int = 0,
    ):
        self.mix = mix
        self.plan = PersonPlan(mix, seed, per_person) if per_person else MixPlan(mix, seed)
        self.samples = _TrainSamples(self.plan, mix, augmentation, seed)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.rank, self.world_size, self.divisor = rank, world_size, divisor
        self.unreadable: Counter[str] = Counter()

    def identity(self) -> dict[str, Any]:
        """What is learned from, as plain data: equal for a run that is taken up again."""
        parts = {
            str(i): {
                "source": source_identity(part.source, source),
                "weight": part.weight,
                "augment": to_plain(config),
            }
            for i, (part, source, config) in enumerate(
                zip(self.mix.parts, self.plan.sources, self.samples.configs, strict=True)
            )
        }
        return {"parts": parts, "divisor": self.divisor}

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Batch `start` of this rank and all after it."""
        loader = DataLoader(
            self.samples,
            batch_sampler=_Positions(start, self.batch_size, self.rank, self.world_size),
            **_worker_options(self.num_workers, self.divisor),
        )
        for structure, block in loader:
            batch, problems = unpack(structure, block)
            for message in problems:
                if not self.unreadable[message]:
                    log.warning("unreadable picture replaced by the next one: %s", message)
                self.unreadable[message] += 1
            yield batch


class MixPlan:
    """Which sample of which source stands at which place of the run."""

    def __init__(self, mix: MixConfig, seed: int):
        if not mix.parts:
            raise ConfigError("MixConfig: parts is empty; give at least one source")
        self.sources: list[Source] = [open_source(part.source) for part in mix.parts]
        for part, source in zip(mix.parts, self.sources, strict=True):
            if not len(source):
                raise ConfigError(
                    f"MixConfig: {part.source} has no sample; check its paths, its split and "
                    f"keep_empty"
                )
            if not part.weight > 0:
                raise ConfigError(
                    f"MixConfig: a weight is {part.weight}, expected more than 0; leave the source "
                    f"out instead"
                )
        self.seed = seed
        self.shares = _shares([part.weight for part in mix.parts])
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def at(self, position: int) -> tuple[int, int]:
        """(source, index in it) of sample `position` of the run."""
        if len(self.sources) == 1:
            return 0, self._index(0, position)
        block, place = divmod(position, BLOCK)
        order = np.random.default_rng((self.seed, 1, block)).permutation(
            np.repeat(np.arange(len(self.shares)), self.shares)
        )
        source = int(order[place])
        ordinal = block * self.shares[source] + int((order[:place] == source).sum())
        return source, self._index(source, ordinal)

    def _index(self, source: int, ordinal: int) -> int:
        epoch, place = divmod(ordinal, len(self.sources[source]))
        if len(self.sources[source]) > _LARGEST_SHUFFLE:
            return place
        known = self._orders.get(source)
        if known is None or known[0] != epoch:
            order = np.random.default_rng((self.seed, 2, source, epoch)).permutation(
                len(self.sources[source])
            )
            self._orders[source] = known = (epoch, order)
        return int(known[1][place])


class PersonPlan(MixPlan):
    """Runs of `per_person` pictures of one person, so that every batch has pairs (re-ID): all
    people once per epoch, in an order of its own."""

    def __init__(self, mix: MixConfig, seed: int, per_person: int):
        super().__init__(mix, seed)
        identities = getattr(self.sources[0], "identities", None)
        if len(self.sources) != 1 or identities is None:
            raise ConfigError(
                f"per_person: pictures are grouped by who they show in one source of identities; "
                f"got {[type(source).__name__ for source in self.sources]}"
            )
        self.per_person = per_person
        rows: dict[int, list[int]] = {}
        for i, identity in enumerate(identities):
            if identity > 0:  # junk and distractors are nobody
                rows.setdefault(identity, []).append(i)
        if len(rows) < 2:
            raise ConfigError(f"per_person: {len(rows)} people, expected two to tell apart")
        self._rows = [rows[identity] for identity in sorted(rows)]

    def _index(self, source: int, ordinal: int) -> int:
        run, place = divmod(ordinal, self.per_person)
        epoch, turn = divmod(run, len(self._rows))
        person = np.random.default_rng((self.seed, 3, epoch)).permutation(len(self._rows))[turn]
        rows = self._rows[person]
        order = np.random.default_rng((self.seed, 4, run)).permutation(len(rows))
        return rows[order[place % len(rows)]]


def _shares(weights: list[float]) -> list[int]:
    """Whole parts of `BLOCK` by largest remainder, each at least 1."""
    exact = [max(1.0, weight / sum(weights) * BLOCK) for weight in weights]
    shares = [int(part) for part in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: shares[i] - exact[i])
    while sum(shares) < BLOCK:
        shares[by_remainder[(BLOCK - sum(shares) - 1) % len(shares)]] += 1
    while sum(shares) > BLOCK:
        shares[shares.index(max(shares))] -= 1
    return shares


@dataclass
class _Positions:
    """Endless lists of sample numbers, one list per batch of this rank."""

    start: int
    batch_size: int
    rank: int
    world_size: int

    def __iter__(self) -> Iterator[list[int]]:
        batch = self.start
        while True:
            first = batch * self.batch_size * self.world_size + self.rank
            yield [first + i * self.world_size for i in range(self.batch_size)]
            batch += 1


class _TrainSamples(Dataset):
    """Sample k of the run, augmented by draws of (seed, k), with the pictures that failed on the
    way."""

    def __init__(
        self,
        plan: MixPlan,
        mix: MixConfig,
        augmentation: Augmentation,
        seed: int,
    ):
        self.plan, self.seed = plan, seed
        self.configs = [part.augment or augmentation for part in mix.parts]
        self._propose = {
            config.proposal_file: proposer(config)
            for config in self.configs
            if isinstance(config, PersonSampleConfig)
        }

    def __getitem__(self, position: int) -> tuple[Sample, list[str]]:
        rng = np.random.default_rng((self.seed, 0, position))
        source, index = self.plan.at(position)
        config = self.configs[source]
        problems: list[str] = []
        sample = self._read(source, index, problems)
        if isinstance(config, RegionAugmentConfig):
            return augment_region(sample, config, rng), problems
        if isinstance(config, PedestrianAugmentConfig):
            return augment_pedestrian(sample, config, rng), problems
        if isinstance(config, PersonSampleConfig):
            propose = self._propose[config.proposal_file]
            crop = person_sample(
                sample.image, sample.target, 0, config, rng, propose, sample.meta.image_id
            )
            return crop, problems
        donor = None
        if rng.random() < config.copy_paste.chance:
            donor = self._read(source, int(rng.integers(len(self.plan.sources[source]))), problems)
        return augment(sample, config, rng, donor), problems

    def _read(self, source: int, index: int, problems: list[str]) -> Sample:
        samples = self.plan.sources[source]
        for tried in range(_REPLACEMENTS):
            at = (index + tried) % len(samples)
            try:
                return samples[at]
            except ImageError as problem:
                problems.append(str(problem))
        raise ImageError(
            f"{_REPLACEMENTS} pictures in a row cannot be read, the last: {problems[-1]}. Is "
            f"the images folder right?"
        )


class EvalLoader:
    """Every picture of a source once, in order; rank r sees pictures r, r + world_size, ...

    Gives (batch, truths): the batch on its canvas (with targets in canvas px if `with_targets`, for
    losses), the truths in picture px for an evaluator. An unreadable picture raises ImageError:
    leaving it out would change the score.
    """

    def __init__(
        self,
        source: Source,
        config: LetterboxConfig,
        batch_size: int = 1,
        *,
        with_targets: bool = False,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        divisor: int = 1,
    ):
        self.samples = _EvalSamples(source, config, with_targets)
        self.indices = list(range(rank, len(source), world_size))
        self.batch_size, self.num_workers, self.divisor = batch_size, num_workers, divisor

    def __len__(self) -> int:
        """Batches."""
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Batch, list[Target | None]]]:
        groups = [
            self.indices[i : i + self.batch_size]
            for i in range(0, len(self.indices), self.batch_size)
        ]
        loader = DataLoader(
            self.samples, batch_sampler=groups, **_worker_options(self.num_workers, self.divisor)
        )
        for structure, block in loader:
            yield unpack(structure, block)


def eval_batches(
    source: Source, config: LetterboxConfig, batch_size: int = 1, **options: Any
) -> Iterator[tuple[Batch, list[Target | None]]]:
    """One pass of an `EvalLoader` with these options."""
    return iter(EvalLoader(source, config, batch_size, **options))


class _EvalSamples(Dataset):
    def __init__(self, source: Source, config: LetterboxConfig, with_targets: bool):
        self.source, self.config, self.with_targets = source, config, with_targets

    def __getitem__(self, index: int) -> tuple[Sample, Target | None]:
        sample = self.source[index]
        return letterboxed(sample, self.config, with_target=self.with_targets), sample.target


@dataclass(frozen=True)
class _Collate:
    """Pairs of (sample, something) to one packed (batch, list of somethings, lists joined)."""

    divisor: int

    def __call__(self, pairs: list[tuple[Sample, Any]]) -> tuple[bytes, Any]:
        batch = Batch.collate([sample for sample, _ in pairs], self.divisor)
        others: list[Any] = []
        for _, other in pairs:
            others.extend(other) if isinstance(other, list) else others.append(other)
        return pack((batch, others))


def _worker_options(num_workers: int, divisor: int) -> dict[str, Any]:
    return {
        "num_workers": num_workers,
        "collate_fn": _Collate(divisor),
        "worker_init_fn": _start_worker,
    }


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(
        0
    )  # workers are the parallelism; OpenCV's own threads would fight over the cores
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group: the run decides when to stop
