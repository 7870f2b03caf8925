"""A tiny system and a tiny loader to train, here and in processes of their own (`python -m
tests.engine.toy`)."""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from humanquery.core.batch import Batch, Meta
from humanquery.core.persons import Persons
from humanquery.core.ranks import sum_over_ranks
from humanquery.core.target import Target
from humanquery.engine.loop import train
from humanquery.engine.optim import OptimConfig
from humanquery.engine.train_config import EngineConfig

SIZE = (4, 4)


@dataclass(frozen=True)
class ToyConfig:
    width: int = 8
    dropout: float = 0.0
    norm: bool = False


class Toy(nn.Module):
    """Says one number per picture; should be its brightness and the mean of its people's boxes."""

    def __init__(self, config: ToyConfig | None = None):
        super().__init__()
        self.config = config or ToyConfig()
        torch.manual_seed(5)
        norm = nn.BatchNorm2d(3) if self.config.norm else nn.Identity()
        self.backbone = nn.Sequential(
            norm, nn.Conv2d(3, self.config.width, 3, padding=1), nn.ReLU()
        )
        self.layers = nn.ModuleList(
            nn.Linear(self.config.width, self.config.width) for _ in range(2)
        )
        self.dropout = nn.Dropout(self.config.dropout)
        self.head = nn.Linear(self.config.width, 1)

    def answer(self, images: Tensor) -> Tensor:
        features = self.backbone(images).mean((2, 3))
        for layer in self.layers:
            features = self.dropout(layer(features).tanh())
        return self.head(features)[:, 0]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        answers = self.answer(batch.images)
        brightness = (answers - batch.images.mean((1, 2, 3))).square().sum()
        people = [
            (a - t.boxes.mean(1)).abs().sum() for a, t in zip(answers, batch.targets, strict=True)
        ]
        pictures, persons = sum_over_ranks(
            torch.tensor([len(batch), sum(len(t) for t in batch.targets)], device=answers.device)
        )
        return {
            "brightness": brightness / pictures,
            "people": torch.stack(people).sum() / persons.clamp(min=1),
        }

    def predict(self, batch: Batch) -> list[Persons]:
        return [Persons.empty(meta.image_size) for meta in batch.metas]


@dataclass
class ToyLoader:
    """Batch i is the part of this rank of a joint batch that depends on i alone; `act(i)` is
    called before each."""

    batch_size: int = 2
    rank: int = 0
    world: int = 1
    same_people: bool = False
    delay: float = 0.0
    act: Callable[[int], None] | None = None
    poison: int = -1

    def batches(self, start: int) -> Iterator[Batch]:
        torch.rand(1)  # as torch's DataLoader: draws where its iterator begins
        i = start
        while True:
            if self.act:
                self.act(i)
            time.sleep(self.delay)
            yield self.batch(i)
            i += 1

    def batch(self, i: int) -> Batch:
        random = torch.Generator().manual_seed(i)
        joint = self.batch_size * self.world
        images = torch.rand(joint, 3, *SIZE, generator=random)
        counts = torch.randint(0, 4, (joint,), generator=random).tolist()
        targets = [target(2 if self.same_people else n, random) for n in counts]
        if i == self.poison:
            images[-1] = float("nan")
        mine = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        metas = [
            Meta(SIZE, SIZE, image_id=i * joint + k, path=f"photo-{i}-{k}.jpg")
            for k in range(joint)
        ]
        return Batch(
            images[mine],
            torch.zeros(self.batch_size, *SIZE, dtype=torch.bool),
            metas[mine],
            targets[mine],
        )


def target(people: int, random: torch.Generator) -> Target:
    return Target(
        image_size=SIZE,
        boxes=torch.rand(people, 4, generator=random),
        ignore=torch.zeros(people, dtype=torch.bool),
        areas=torch.ones(people),
    )


def toy_config(**fields) -> EngineConfig:
    optim = OptimConfig(lr=1e-2, ema=0.9, schedule="cosine", warmup_steps=3)
    return EngineConfig(
        **(
            {"steps": 12, "log_every": 2, "optim": optim, "tensorboard": False, "device": "cpu"}
            | fields
        )
    )


STEADY = OptimConfig(lr=1e-2, ema=0.9, schedule="constant", warmup_steps=3)
"""a schedule that does not depend on the number of steps, so that a run can be made longer"""
LONG = {"steps": 60, "accumulate": 2, "checkpoint_steps": 3, "log_every": 2}
LONG_TOY = ToyConfig(dropout=0.3, norm=True)


def main() -> None:
    """`python -m tests.engine.toy OUT`: a run slow enough to be killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--threads", type=int, default=1, help="sums depend on it in their last bits"
    )
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    train(Toy(LONG_TOY), ToyLoader(delay=0.03), toy_config(**LONG), given.out)


if __name__ == "__main__":
    main()
