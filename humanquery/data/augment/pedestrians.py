"""Training crops of whole pedestrians: brought to one size, moved by a few pixels, mirrored, partly
erased."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from humanquery.core.affine import Affine2D
from humanquery.core.batch import Sample


@dataclass(frozen=True)
class PedestrianAugmentConfig:
    """HumanBench's for re-ID; for attributes `size=(256, 192)`, `erase=0`."""

    size: tuple[int, int] = (256, 128)
    """(height, width); the picture is stretched to it"""
    mirror: float = 0.5
    pad: int = 10
    """px; the crop is moved by up to so many in each direction"""
    erase: float = 0.5
    """chance that a part is painted over (random erasing, Zhong et al. 2020)"""
    erased_share: tuple[float, float] = (0.02, 0.4)
    """of the area"""


def augment_pedestrian(
    sample: Sample, config: PedestrianAugmentConfig, rng: np.random.Generator
) -> Sample:
    """The picture on a canvas of `config.size` px; its `Meta.to_canvas` is the one matrix. Same
    `rng` state, same result."""
    matrix = Affine2D.resize(sample.image.shape[:2], config.size)
    if rng.random() < config.mirror:
        matrix = Affine2D.mirror(config.size[1]) @ matrix
    shift = rng.integers(-config.pad, config.pad + 1, 2)
    matrix = Affine2D.translation(float(shift[0]), float(shift[1])) @ matrix
    image = matrix.image(sample.image, config.size)
    if rng.random() < config.erase:
        image = np.ascontiguousarray(image)
        _erase(image, config.erased_share, rng)
    target = None if sample.target is None else sample.target.warp(matrix, config.size)
    meta = replace(sample.meta, canvas_size=config.size, to_canvas=matrix @ sample.meta.to_canvas)
    return Sample(image, meta, target)


def _erase(
    image: UInt8[np.ndarray, "h w 3"], share: tuple[float, float], rng: np.random.Generator
) -> None:
    """Paints a rectangle with noise, its sides' ratio between 0.3 and 1 / 0.3."""
    height, width = image.shape[:2]
    area = rng.uniform(*share) * height * width
    stretch = np.exp(rng.uniform(np.log(0.3), -np.log(0.3)))
    h = min(height, max(1, round((area * stretch) ** 0.5)))
    w = min(width, max(1, round((area / stretch) ** 0.5)))
    y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
    image[y : y + h, x : x + w] = rng.integers(0, 256, (h, w, 3))
