"""Fine-tuning protocols of HumanBench: which modules learn, by name."""

from typing import Literal

from torch import Tensor

from humanquery.core.errors import CheckpointError
from humanquery.models.path.system import Path

Protocol = Literal["full", "partial", "head"]
PROTOCOLS: tuple[str, ...] = ("full", "partial", "head")
PARTIAL_BLOCKS = 2
"""of the backbone that learn in `partial`"""


def trained_modules(system: Path, protocol: Protocol) -> tuple[str, ...]:
    """Prefixes of the names of the parameters that learn (`OptimConfig.only`).

    full: all. partial: the last `PARTIAL_BLOCKS` blocks, the final norm and the heads. head: the
    heads alone. Class tokens, positions and the patch embedding learn in `full` alone.
    """
    heads = tuple(f"heads.{name}." for name in system.heads)
    if protocol == "head":
        return heads
    if protocol == "partial":
        depth = len(system.backbone.blocks)
        blocks = range(max(0, depth - PARTIAL_BLOCKS), depth)
        return (*(f"backbone.blocks.{i}." for i in blocks), "backbone.norm.", *heads)
    projectors = tuple(f"projectors.{name}." for name in system.projectors)
    return ("backbone.", *projectors, *heads)


def downstream_state(state: dict[str, Tensor], system: Path, path: str) -> dict[str, Tensor]:
    """What a downstream `system` takes from a pretrained PATH's tensors: the backbone, and for a
    data set with a class token the token of the same name, else the file's first.

    Projectors and heads stay behind: the features that the heads read are others. A file without a
    backbone raises CheckpointError, which names its `path`.
    """
    taken = {
        name: value
        for name, value in state.items()
        if name.startswith("backbone.") and not name.startswith("backbone.cls_tokens.")
    }
    if not taken:
        raise CheckpointError(f"{path}: holds no backbone; expected the weights of a PATH model")
    tokens = {n: v for n, v in state.items() if n.startswith("backbone.cls_tokens.")}
    for name in system.backbone.cls_tokens:
        own = f"backbone.cls_tokens.{name}"
        if tokens:
            taken[own] = tokens.get(own, tokens[min(tokens)])
    return taken
