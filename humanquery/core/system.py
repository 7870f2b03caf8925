"""What the engine trains and predictors run: the interface of every system of this library."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from humanquery.core.batch import Batch
from humanquery.core.fields import FieldSpec
from humanquery.core.persons import Persons
from humanquery.core.skeleton import Skeleton


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

    `forward(batch)` returns named, already weighted losses (their plain sum is what the engine
    minimises), in train and eval mode alike; `predict(batch, ask)` returns one `Picture` per
    picture of the batch, in pixels of the original picture.
    """

    config: Any
    """frozen dataclass from which the system can be rebuilt (`models.build`)"""

    @property
    def outputs(self) -> Mapping[str, FieldSpec]:
        """Names of what can be asked for besides boxes and scores, with their declarations."""

    @property
    def skeleton(self) -> Skeleton | None:
        """Layout of its keypoints; None where it gives none."""

    @property
    def input(self) -> Any:
        """How pictures are laid on their canvas: a `media.letterbox.LetterboxConfig`."""

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Every loss that `forward` may give; one that a batch lacks counts 0."""

    def forward(self, batch: Batch) -> dict[str, Tensor]: ...

    def predict(self, batch: Batch, ask: Ask = Ask()) -> list[Picture]: ...


@runtime_checkable
class Look(Protocol):
    """One picture that was looked at, while more can be asked about its people."""

    persons: Persons
    """with everything that was asked for, but the system's `late` outputs"""

    def more(self, rows: Tensor, outputs: frozenset[str]) -> Persons:
        """The people of these rows (their numbers), with these of the late outputs too."""
        ...


@runtime_checkable
class LooksTwice(Protocol):
    """A system that can answer later, about some of the people only, what costs time for each."""

    @property
    def late(self) -> frozenset[str]:
        """Names out of `System.outputs`."""

    def look(self, batch: Batch, ask: Ask = Ask()) -> Look:
        """`System.predict` of a single picture without the late outputs."""


@runtime_checkable
class Exportable(Protocol):
    """What `export.graph` asks of a system whose network becomes a file: prediction in two parts,
    of which neither depends on values in its sizes but for the number of people."""

    def encode_images(
        self, images: Tensor, padding: Tensor, canvas_sizes: Tensor, zoomed: Tensor | None
    ) -> Any: ...

    def prepare(self, encoded: Any) -> dict[str, Any]: ...

    def read_queries(self, encoded: Any, prepared: dict[str, Any], *, every_stage: bool) -> Any: ...

    def found_people(
        self, encoded: Any, prepared: dict[str, Any], outputs: Any, score: Tensor, most: int
    ) -> dict[str, Tensor]: ...


@runtime_checkable
class ReadsGivenBoxes(Protocol):
    """A system that reads people in the boxes of `Batch.targets` and looks for nobody."""

    def read_boxes(self, batch: Batch) -> Any: ...
