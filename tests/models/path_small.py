"""A tiny PATH model and batches of every task."""

from pathlib import Path as FilePath

import torch

from humanquery.core.batch import Batch, Meta
from humanquery.core.ranks import rank, world_size
from humanquery.core.rows import Extra, Labelled
from humanquery.core.skeleton import COCO17
from humanquery.core.target import Target
from humanquery.core.truth_maps import TruthMap
from humanquery.data.readers.identities import PERSON_CLASS
from humanquery.data.readers.parsing import IGNORED, PARSING
from humanquery.data.readers.pedestrian_attributes import ATTRIBUTES
from humanquery.engine.distributed import joined_ranks
from humanquery.engine.loop import train
from humanquery.engine.optim import OptimConfig
from humanquery.engine.train_config import EngineConfig
from humanquery.models.path.config import (
    AttributeHeadConfig,
    CountingHeadConfig,
    DataSetConfig,
    DetectionHeadConfig,
    IdentityHeadConfig,
    LadderConfig,
    ParsingHeadConfig,
    PathBackbone,
    PathConfig,
    PoseHeadConfig,
)
from humanquery.models.path.system import Path

SIZE = (32, 32)
DATA_SETS = (
    DataSetConfig("pose", PoseHeadConfig(width=16), weight=3.0),
    DataSetConfig("parsing", ParsingHeadConfig(("background", "hair", "shoe"), width=16)),
    DataSetConfig("attributes", AttributeHeadConfig(("hat", "bag"), (0.3, 0.5))),
    DataSetConfig("market", IdentityHeadConfig(4), task="reid"),
    DataSetConfig("msmt", IdentityHeadConfig(6), task="reid", weight=2.0),
    DataSetConfig("people", DetectionHeadConfig(2, 4, 2, 16, 2, 32)),
    DataSetConfig("crowd", CountingHeadConfig(16)),
)
NAMES = tuple(one.name for one in DATA_SETS)


def small_config(**changes) -> PathConfig:
    backbone = PathBackbone("test_vit", grid=(10, 10))
    fields = {"backbone": backbone, "projector": LadderConfig(reduction=4, heads=2)}
    return PathConfig(DATA_SETS, **(fields | changes))


def small_path(**changes) -> Path:
    torch.manual_seed(3)
    return Path(small_config(**changes))


def target(name: str, random: torch.Generator) -> Target:
    """The truth of one picture of a data set."""
    boxes = torch.tensor([[4.0, 2.0, 20.0, 30.0]])
    fields = {}
    if name == "pose":
        places = torch.rand(1, 17, 2, generator=random) * 30
        fields = {
            "keypoints": Labelled(places, torch.ones(1, dtype=torch.bool)),
            "visibility": torch.full((1, 17), 2),
            "skeleton": COCO17,
        }
    if name == "parsing":
        values = (torch.arange(SIZE[0]) // 11)[:, None].expand(SIZE).clone()
        values[:4] = IGNORED
        fields = {"maps": {PARSING: TruthMap(values)}}
    if name == "attributes":
        labels = torch.randint(-1, 2, (1, 2), generator=random)
        fields = {"extra": {"attributes": Extra(ATTRIBUTES, labels)}}
    if name in ("market", "msmt"):
        who = torch.randint(0, 3, (1,), generator=random)
        fields = {"extra": {"person_class": Extra(PERSON_CLASS, who)}}
    n = len(boxes)
    return Target(
        image_size=SIZE,
        boxes=boxes,
        ignore=torch.zeros(n, dtype=torch.bool),
        areas=torch.full((n,), 448.0),
        source=name,
        **fields,
    )


def small_batch(name: str, seed: int = 0, size: int = 4, part: slice = slice(None)) -> Batch:
    """The same for the same seed; `part` of it for a rank."""
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 3, *SIZE, generator=random)
    targets = [target(name, random) for _ in range(size)]
    metas = [Meta(SIZE, SIZE, image_id=i, path=f"{name}-{i}.jpg") for i in range(size)]
    padding = torch.zeros(size, *SIZE, dtype=torch.bool)
    return Batch(images[part], padding[part], metas[part], targets[part])


class SmallLoader:
    """Micro-batch i is of data set i modulo their number."""

    def batches(self, start: int):
        each = 4 // world_size()
        mine = slice(rank() * each, (rank() + 1) * each)
        i = start
        while True:
            name = NAMES[i % len(NAMES)]
            yield name, small_batch(name, i, part=mine)
            i += 1


def run(out: FilePath, steps: int = 2, resume: bool = False, **optim) -> None:
    """A training over all data sets."""
    options = {"lr": 1e-3, "schedule": "constant", "clip": 0.0, "layer_decay": 0.75} | optim
    train(
        small_path(),
        SmallLoader(),
        EngineConfig(
            steps=steps,
            accumulate=len(NAMES),
            optim=OptimConfig(**options),
            device="cpu",
            log_every=1,
            tensorboard=False,
            find_unused_parameters=True,
        ),
        out,
        resume=resume,
    )


def in_two_ranks(out: FilePath) -> None:
    """One of two processes that train together."""
    with joined_ranks("cpu"):
        run(out, lr=1e-5)
