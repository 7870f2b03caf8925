"""What a `System` eats: padded pictures with their truth and the way back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from humanquery.core.affine import Affine2D, Size
from humanquery.core.target import Target
from humanquery.core.transfer import to_device


@dataclass(frozen=True)
class Meta:
    """Where a canvas came from. `canvas_size` is the valid (unpadded) part; `to_canvas` maps
    picture px to canvas px."""

    image_size: Size
    canvas_size: Size
    to_canvas: Affine2D = Affine2D()
    image_id: int = 0
    path: str = ""


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture on its canvas, before batching."""

    image: UInt8[np.ndarray, "h w 3"]
    meta: Meta
    target: Target | None = None
    finer: UInt8[np.ndarray, "H W 3"] | None = None
    """the same canvas at a whole multiple of its size, for whatever looks closer"""


@dataclass(frozen=True, eq=False)
class Batch:
    """images: RGB 0..1 (the model normalises), zero where padded; padding: True outside the valid
    canvas."""

    images: Float[Tensor, "b 3 h w"]
    padding: Bool[Tensor, "b h w"]
    metas: list[Meta]
    targets: list[Target] | None = None
    finer: Float[Tensor, "b 3 H W"] | None = None
    """the same pictures at a whole multiple of this size, for whatever looks closer at people; the
    rest is as `images`"""

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device) -> "Batch":
        """Pictures and padding on `device`. Targets stay on the host, where a system may ask how
        many people there are and who has which label without waiting for the device; it sends on
        what it needs."""
        finer = None if self.finer is None else to_device(self.finer, device)
        return replace(
            self,
            images=to_device(self.images, device),
            padding=to_device(self.padding, device),
            finer=finer,
        )

    @staticmethod
    def collate(samples: Sequence[Sample], divisor: int = 1) -> "Batch":
        """Pads right and bottom with zeros to the largest canvas, sides rounded up to a multiple of
        `divisor`.

        No samples, truth or a finer picture for only some of them, or finer pictures of different
        multiples raise ValueError.
        """
        if not samples:
            raise ValueError("Batch.collate needs at least one sample")
        height = _round_up(max(s.image.shape[0] for s in samples), divisor)
        width = _round_up(max(s.image.shape[1] for s in samples), divisor)
        images = torch.zeros(len(samples), 3, height, width)
        padding = torch.ones(len(samples), height, width, dtype=torch.bool)
        for i, sample in enumerate(samples):
            h, w = sample.image.shape[:2]
            images[i, :, :h, :w] = torch.from_numpy(
                np.require(sample.image, requirements="CW")
            ).permute(2, 0, 1)
            padding[i, :h, :w] = False
        targets = [s.target for s in samples if s.target is not None]
        if len(targets) not in (0, len(samples)):
            raise ValueError(
                f"Batch.collate: {len(targets)} of {len(samples)} samples have a target; all or "
                f"none must"
            )
        finer = _finer(samples, (height, width))
        return Batch(images / 255, padding, [s.meta for s in samples], targets or None, finer)


def _finer(samples: Sequence[Sample], size: Size) -> Float[Tensor, "b 3 H W"] | None:
    if all(sample.finer is None for sample in samples):
        return None
    times = {_multiple(sample) for sample in samples}
    if len(times) != 1 or None in times:
        told = [None if s.finer is None else s.finer.shape[:2] for s in samples]
        raise ValueError(
            f"Batch.collate: finer pictures of sizes {told} for canvases "
            f"{[s.image.shape[:2] for s in samples]}; expected "
            "the same whole multiple of the canvas for all"
        )
    (n,) = times
    images = torch.zeros(len(samples), 3, size[0] * n, size[1] * n)
    for image, sample in zip(images, samples, strict=True):
        pixels = torch.from_numpy(np.require(sample.finer, requirements="CW")).permute(2, 0, 1)
        image[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return images / 255


def _multiple(sample: Sample) -> int | None:
    """How many times as large as the canvas the finer picture is; None if it is no whole number."""
    if sample.finer is None:
        return None
    (height, width), (tall, wide) = sample.image.shape[:2], sample.finer.shape[:2]
    times = tall // height
    return times if (height * times, width * times) == (tall, wide) else None


def _round_up(value: int, divisor: int) -> int:
    return -(-value // divisor) * divisor
