"""Training pictures: one matrix per sample out of mirror, scale, crop and scale again, then
colours."""

from dataclasses import dataclass, replace

import numpy as np

from humanquery.core.affine import Affine2D, Size, fit
from humanquery.core.batch import Sample
from humanquery.core.target import Target
from humanquery.data.augment.copy_paste import CopyPasteConfig, paste_people
from humanquery.data.augment.photometric import PhotometricConfig, distort_colours
from humanquery.media.letterbox import GREY, cut_to_canvas, warp_target


@dataclass(frozen=True)
class CropConfig:
    """The second policy of the paper: scale, cut out a window, scale again."""

    chance: float = 0.5
    short_sides: tuple[int, ...] = (400, 500, 600)
    long_side: int = 4200
    sides: tuple[int, int] = (384, 600)
    """height and width of the window are drawn between these, each at most the picture's"""
    tries: int = 10
    """windows drawn until somebody is left; after them the whole picture is taken"""


@dataclass(frozen=True)
class SquareConfig:
    """A square around the middle of the picture, as pixel-wise pose regression trains on (ranges of
    Xiao et al., AAAI 2022; the rest as in DEKR)."""

    side: int = 512
    """px of the canvas; at scale 1 the shorter side of the picture fills it"""
    scale: tuple[float, float] = (0.75, 1.5)
    rotation: float = 30.0
    """degrees to either side"""
    shift: float = 40.0
    """px of the canvas at scale 1, along each axis and to either side"""


@dataclass(frozen=True)
class AugmentConfig:
    """Defaults are those of the paper and its release (specs of HQNet, training recipe)."""

    mirror: float = 0.5
    short_sides: tuple[int, ...] = tuple(range(480, 801, 32))
    long_side: int = 1333
    crop: CropConfig | None = CropConfig()
    canvas: tuple[int, int] | None = None
    """a fixed (height, width) for small models: instead of the policies above, the picture is laid
    on it at a drawn scale and place, the rest is grey"""
    canvas_scale: tuple[float, float] = (0.6, 1.6)
    """size on the fixed canvas, relative to the largest that fits"""
    square: SquareConfig | None = None
    """instead of all policies above but the mirror; what is no picture is grey"""
    colours: PhotometricConfig = PhotometricConfig()
    copy_paste: CopyPasteConfig = CopyPasteConfig()


def augment(
    sample: Sample, config: AugmentConfig, rng: np.random.Generator, donor: Sample | None = None
) -> Sample:
    """A training canvas of the sample; its `Meta.to_canvas` is the one matrix that everything went
    through.

    `donor`, where given, is a second picture from which people are pasted. Same `rng` state, same
    result.
    """
    if donor is not None and sample.target is not None:
        sample = paste_people(sample, donor, config.copy_paste, rng)
    matrix, size = draw_geometry(sample, config, rng)
    image = matrix.image(sample.image, size, GREY)
    if config.colours.chance > 0:
        image = distort_colours(image, config.colours, rng)
    target = (
        None
        if sample.target is None
        else cut_to_canvas(warp_target(sample.target, matrix, size), size)
    )
    meta = replace(sample.meta, canvas_size=size, to_canvas=matrix @ sample.meta.to_canvas)
    return Sample(image, meta, target)


def plain(config: AugmentConfig) -> AugmentConfig:
    """The same scales without mirror, crop, colours and pasting."""
    still = PhotometricConfig(chance=0.0)
    return replace(
        config,
        mirror=0.0,
        crop=None,
        canvas_scale=(1.0, 1.0),
        square=config.square and SquareConfig(config.square.side, (1.0, 1.0), 0.0, 0.0),
        colours=still,
        copy_paste=CopyPasteConfig(),
    )


def draw_geometry(
    sample: Sample, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Affine2D, Size]:
    """The drawn matrix from sample px to canvas px, and the canvas's (height, width)."""
    size = sample.image.shape[:2]
    turn = Affine2D.mirror(size[1]) if rng.random() < config.mirror else Affine2D()
    if config.square is not None:
        return _turned_square(size, config.square, rng) @ turn, (config.square.side,) * 2
    if config.canvas is not None:
        return _on_fixed_canvas(sample.target, turn, size, config, rng)
    if config.crop is not None and rng.random() < config.crop.chance:
        window = _draw_window(sample.target, turn, size, config.crop, rng)
        if window is not None:
            matrix, cut = window
            return _resized(matrix, cut, config, rng)
    return _resized(turn, size, config, rng)


def _turned_square(size: Size, square: SquareConfig, rng: np.random.Generator) -> Affine2D:
    """From a picture of `size` to the canvas: shift, scale, then turn about its middle."""
    scale = square.side / min(size) * float(rng.uniform(*square.scale))
    shift = rng.uniform(-1, 1, 2) * square.shift * min(size) / square.side  # px of the picture
    to_origin = Affine2D.translation(shift[0] - size[1] / 2, shift[1] - size[0] / 2)
    middle = Affine2D.translation(square.side / 2, square.side / 2)
    turn = Affine2D.rotation(float(rng.uniform(-1, 1)) * square.rotation)
    return middle @ turn @ Affine2D.scaling(scale) @ to_origin


def _resized(
    matrix: Affine2D, size: Size, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Affine2D, Size]:
    canvas = fit(size, int(rng.choice(config.short_sides)), config.long_side)
    return Affine2D.resize(size, canvas) @ matrix, canvas


def _draw_window(
    target: Target | None, turn: Affine2D, size: Size, crop: CropConfig, rng: np.random.Generator
) -> tuple[Affine2D, Size] | None:
    """A window on the scaled picture in which somebody stands; None if no try found one."""
    scaled = fit(size, int(rng.choice(crop.short_sides)), crop.long_side)
    matrix = Affine2D.resize(size, scaled) @ turn
    for _ in range(crop.tries):
        height, width = (
            int(rng.integers(min(s, crop.sides[0]), min(s, crop.sides[1]) + 1)) for s in scaled
        )
        y, x = int(rng.integers(scaled[0] - height + 1)), int(rng.integers(scaled[1] - width + 1))
        window = Affine2D.translation(-x, -y) @ matrix
        if (
            target is None
            or not len(target.people())
            or _somebody_left(target, window, (height, width))
        ):
            return window, (height, width)
    return None


def _on_fixed_canvas(
    target: Target | None,
    turn: Affine2D,
    size: Size,
    config: AugmentConfig,
    rng: np.random.Generator,
) -> tuple[Affine2D, Size]:
    canvas = config.canvas
    largest = min(canvas[0] / size[0], canvas[1] / size[1])
    tries = config.crop.tries if config.crop else 10
    for _ in range(tries):
        low, high = config.canvas_scale
        scale = largest * float(np.exp(rng.uniform(np.log(low), np.log(high))))
        # free room, negative where the picture is larger than the canvas: any place between both
        # ends shows most of it
        room_y, room_x = canvas[0] - size[0] * scale, canvas[1] - size[1] * scale
        place = Affine2D.translation(rng.uniform(0, 1) * room_x, rng.uniform(0, 1) * room_y)
        matrix = place @ Affine2D.scaling(scale) @ turn
        if target is None or not len(target.people()) or _somebody_left(target, matrix, canvas):
            return matrix, canvas
    return Affine2D.scaling(largest) @ turn, canvas


def _somebody_left(target: Target, matrix: Affine2D, size: Size) -> bool:
    boxes_only = Target(
        image_size=target.image_size, boxes=target.boxes, ignore=target.ignore, areas=target.areas
    )
    return len(cut_to_canvas(boxes_only.people().warp(matrix, size), size)) > 0
