"""What all backbones share: freezing and reading local weight files."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from humanquery.core.errors import CheckpointError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """b×3×h×w normalised pictures to four maps C2..C5 of strides 4, 8, 16, 32 (sides rounded up).

    `channels` are the maps' widths; `mean` and `std` the normalisation (RGB, 0..1) that the model
    applies before. With `frozen_norm`, batch norms stay in eval mode with fixed weights, also after
    `train()`.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...] = (4, 8, 16, 32)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    frozen_norm: bool = False

    def freeze_norms(self) -> None:
        self.frozen_norm = True
        for module in self.batch_norms():
            for parameter in module.parameters():
                parameter.requires_grad_(False)
        self.train(self.training)

    def batch_norms(self) -> list[nn.Module]:
        return [m for m in self.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        if self.frozen_norm:
            for module in self.batch_norms():
                module.eval()
        return self


def freeze(modules: list[nn.Module]) -> None:
    for module in modules:
        for parameter in module.parameters():
            parameter.requires_grad_(False)


def read_tensors(path: str) -> dict[str, Tensor]:
    """Tensors of a local .safetensors in float32; a file that cannot be read raises
    CheckpointError."""
    if not Path(path).is_file():
        raise CheckpointError(
            f"backbone weights {path}: no such file; expected a local .safetensors"
        )
    try:
        tensors = load_file(path)
    except SafetensorError as problem:
        raise CheckpointError(
            f"backbone weights {path}: not a readable .safetensors file ({problem})"
        ) from None
    return {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}


def fill(module: nn.Module, tensors: dict[str, Tensor], path: str) -> None:
    """Loads strictly; names and shapes that do not fit raise CheckpointError. Counters of batch
    norms may be absent."""
    own = {n: t for n, t in module.state_dict().items() if not n.endswith("num_batches_tracked")}
    tensors = {n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked")}
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    misshapen = sorted(n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape)
    if missing or extra or misshapen:
        raise CheckpointError(
            f"backbone weights {path} do not fit {type(module).__name__}: {len(missing)} missing "
            f"{missing[:3]}, "
            f"{len(extra)} unexpected {extra[:3]}, {len(misshapen)} of another shape "
            f"{misshapen[:3]}"
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])
