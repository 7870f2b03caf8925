"""The input of a `System`: padded pictures with their truth, further views and the way back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
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
class Cutout:
    """A picture, or one person's part of it, drawn at another size or place than its canvas."""

    image: UInt8[np.ndarray, "h w 3"]
    to_view: Affine2D
    """picture px to px of `image`"""
    person: int = -1
    """row of the person whose crop it is; -1: the whole picture"""


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture on its canvas, before batching."""

    image: UInt8[np.ndarray, "h w 3"]
    meta: Meta
    target: Target | None = None
    views: Mapping[str, tuple[Cutout, ...]] = field(default_factory=dict)
    """further views of the picture by name, see `Batch.views`"""


@dataclass(frozen=True, eq=False)
class View:
    """Pictures of a batch, or crops out of them, with their owners and the way back."""

    images: Float[Tensor, "v 3 h w"]
    """RGB 0..1, zero where padded"""
    owners: Int[Tensor, "v 2"]
    """(picture of the batch, person of that picture; -1: the whole picture)"""
    to_view: list[Affine2D]
    """picture px to px of each image; its inverse takes points back to the picture"""

    def __len__(self) -> int:
        return len(self.to_view)

    def to(self, device) -> "View":
        return replace(
            self, images=to_device(self.images, device), owners=to_device(self.owners, device)
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """images: RGB 0..1 (the model normalises), zero where padded; padding: True outside the valid
    canvas."""

    images: Float[Tensor, "b 3 h w"]
    padding: Bool[Tensor, "b h w"]
    metas: list[Meta]
    targets: list[Target] | None = None
    views: Mapping[str, View] = field(default_factory=dict)
    """the same pictures drawn again: ZOOM, the whole canvases at a whole multiple of `images`, for
    networks that look closer; or crops of people, one row each with its owner (top-down systems)"""

    def __len__(self) -> int:
        return len(self.images)

    def zoomed(self) -> Float[Tensor, "b 3 H W"] | None:
        """The canvases at a whole multiple of their size, if they were drawn."""
        return self.views[ZOOM].images if ZOOM in self.views else None

    def to(self, device) -> "Batch":
        """Pictures and padding on `device`. Targets stay on the host, where a system may ask how
        many people there are and who has which label without waiting for the device; it sends on
        what it needs."""
        return replace(
            self,
            images=to_device(self.images, device),
            padding=to_device(self.padding, device),
            views={name: view.to(device) for name, view in self.views.items()},
        )

    def contiguous(self, memory_format: torch.memory_format) -> "Batch":
        """The same batch with its pictures laid out so in memory."""
        views = {
            name: replace(view, images=view.images.contiguous(memory_format=memory_format))
            for name, view in self.views.items()
        }
        return replace(
            self, images=self.images.contiguous(memory_format=memory_format), views=views
        )

    @staticmethod
    def collate(samples: Sequence[Sample], divisor: int = 1) -> "Batch":
        """Pads right and bottom with zeros to the largest canvas, sides rounded up to a multiple of
        `divisor`; the views of each name too, in the order of their pictures.

        No samples, truth or a zoomed view for only some of them, or zoomed views of different
        multiples raise ValueError.
        """
        if not samples:
            raise ValueError("Batch.collate needs at least one sample")
        images, padding = _padded([s.image for s in samples], divisor)
        targets = [s.target for s in samples if s.target is not None]
        if len(targets) not in (0, len(samples)):
            raise ValueError(
                f"Batch.collate: {len(targets)} of {len(samples)} samples have a target; all or "
                f"none must"
            )
        names = dict.fromkeys(name for sample in samples for name in sample.views)
        views = {name: _view(name, samples, tuple(images.shape[-2:]), divisor) for name in names}
        return Batch(images, padding, [s.meta for s in samples], targets or None, views)


ZOOM = "zoom"
"""name of the view of whole canvases at a multiple of their size"""


def _padded(
    pictures: Sequence[UInt8[np.ndarray, "_h _w 3"]], divisor: int, size: Size | None = None
) -> tuple[Float[Tensor, "b 3 h w"], Bool[Tensor, "b h w"]]:
    """Pictures 0..1 at the top left of one canvas, and where it is padded."""
    height, width = size or (
        _round_up(max((p.shape[axis] for p in pictures), default=1), divisor) for axis in (0, 1)
    )
    images = torch.zeros(len(pictures), 3, height, width)
    padding = torch.ones(len(pictures), height, width, dtype=torch.bool)
    for i, picture in enumerate(pictures):
        h, w = picture.shape[:2]
        # numpy's own memory may be read-only or strided, which from_numpy warns of
        pixels = torch.from_numpy(np.require(picture, requirements="CW"))
        images[i, :, :h, :w] = pixels.permute(2, 0, 1)
        padding[i, :h, :w] = False
    return images / 255, padding


def _view(name: str, samples: Sequence[Sample], canvas: Size, divisor: int) -> View:
    owned = [(i, cutout) for i, s in enumerate(samples) for cutout in s.views.get(name, ())]
    size = None
    if name == ZOOM:
        times = _multiple(samples)
        size = (canvas[0] * times, canvas[1] * times)
    images, _ = _padded([cutout.image for _, cutout in owned], divisor, size)
    owners = torch.tensor([[i, cutout.person] for i, cutout in owned], dtype=torch.long)
    return View(images, owners.reshape(-1, 2), [cutout.to_view for _, cutout in owned])


def _multiple(samples: Sequence[Sample]) -> int:
    """How many times as large as the canvases the zoomed views are, the same for all."""
    shapes = [[cutout.image.shape[:2] for cutout in s.views.get(ZOOM, ())] for s in samples]
    times = {
        tall // sample.image.shape[0]
        for sample, views in zip(samples, shapes, strict=True)
        for tall, _ in views
    }
    n = min(times, default=0)
    fits = all(
        views == [(n * sample.image.shape[0], n * sample.image.shape[1])]
        for sample, views in zip(samples, shapes, strict=True)
    )
    if not n or not fits:
        raise ValueError(
            f"Batch.collate: zoomed views of sizes {shapes} for canvases "
            f"{[s.image.shape[:2] for s in samples]}; expected one each, the same whole multiple "
            f"of the canvas for all"
        )
    return n


def _round_up(value: int, divisor: int) -> int:
    return -(-value // divisor) * divisor
