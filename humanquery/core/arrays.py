"""What people are made of: PyTorch's tensors, or numpy's arrays where PyTorch is not installed.

Exported models look at pictures without PyTorch, so `core` and what draws and writes people take
both kinds. Modules that say `from humanquery.core.arrays import Tensor, torch` can be imported
without PyTorch; only what they compute with it cannot.
"""

import importlib.util
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from humanquery.core.errors import HumanQueryError


def _find_torch() -> ModuleType | None:
    try:
        if importlib.util.find_spec("torch") is None:
            return None
    except (ImportError, ValueError):  # somebody blocked it
        return None
    return importlib.import_module("torch")


class _NoTorch:
    """Stands for the module; everything asked of it is a message."""

    def __getattr__(self, name: str) -> Any:
        raise HumanQueryError(
            f"this needs PyTorch (torch.{name}), which is not installed; pip install torch. "
            f"Without it, exported models "
            "(.onnx) find people in pictures, and nothing else works"
        )


if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = _find_torch()
    Tensor = np.ndarray if torch is None else torch.Tensor

HAS_TORCH = torch is not None
if not HAS_TORCH:
    torch = _NoTorch()


def as_numpy(values: Tensor | np.ndarray) -> np.ndarray:
    """The same numbers on the CPU as numpy's array."""
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()


def as_house(values: np.ndarray) -> Tensor:
    """A numpy array as what `Persons` hold here: a tensor, where PyTorch is installed."""
    return torch.from_numpy(values) if HAS_TORCH else values


def stack(parts: Sequence[Tensor | np.ndarray], axis: int) -> Tensor | np.ndarray:
    return (
        np.stack(parts, axis)
        if isinstance(parts[0], np.ndarray)
        else torch.stack(list(parts), axis)
    )


def concatenate(parts: Sequence[Tensor | np.ndarray], axis: int = 0) -> Tensor | np.ndarray:
    return (
        np.concatenate(parts, axis)
        if isinstance(parts[0], np.ndarray)
        else torch.cat(list(parts), axis)
    )
