"""What the engine trains and predicts with: any of the systems."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from humanquery.core.batch import Batch
from humanquery.core.persons import Persons


@runtime_checkable
class System(Protocol):
    """A `torch.nn.Module` that gives losses when called and people when asked.

    `forward(batch)` always returns named, already weighted losses (their plain sum is what the engine minimises), in
    train and in eval mode alike; `predict(batch)` always returns one `Persons` per picture, in pixels of the picture.
    """

    config: Any
    """frozen dataclass from which the system can be rebuilt"""

    def forward(self, batch: Batch) -> dict[str, Tensor]: ...

    def predict(self, batch: Batch) -> list[Persons]: ...
