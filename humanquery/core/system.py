"""What the engine trains and predictors run: the interface of every system of this library."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from humanquery.core.batch import Batch
from humanquery.core.persons import Persons


@dataclass(frozen=True)
class Ask:
    """What a caller of `System.predict` wants."""

    score: float = 0.0
    """people below this score are left out, 0..1"""
    outputs: frozenset[str] | None = None
    """names out of `System.outputs` to compute besides boxes and scores; None: all of them"""
    max_persons: int | None = None
    """at most so many people per picture, best first; None: the system's own limit"""

    def wants(self, output: str) -> bool:
        """Whether this output is to be computed."""
        return self.outputs is None or output in self.outputs


@dataclass(frozen=True, eq=False)
class Picture:
    """What a system gives for one picture."""

    persons: Persons
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    """per-picture maps by name (parsing, density ...), h w or c h w, in pixels of the picture"""


@runtime_checkable
class System(Protocol):
    """A `torch.nn.Module` that gives losses when called and people when asked.

    `forward(batch)` always returns named, already weighted losses (their plain sum is what the
    engine minimises), in train and eval mode alike; `predict(batch)` always returns one `Persons`
    per picture, in pixels of the picture.
    """

    config: Any
    """frozen dataclass from which the system can be rebuilt"""

    def forward(self, batch: Batch) -> dict[str, Tensor]: ...

    def predict(self, batch: Batch) -> list[Persons]: ...
