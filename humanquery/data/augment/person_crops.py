"""Person regions: one labelled person at a time, large on a small canvas, to learn apparent gender
and age."""

from collections import OrderedDict
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from humanquery.core.affine import Affine2D, Size
from humanquery.core.batch import Meta, Sample
from humanquery.core.boxes import clip, cxcywh_to_xyxy, xyxy_to_cxcywh
from humanquery.core.errors import ConfigError
from humanquery.core.rows import Labelled
from humanquery.core.target import Target
from humanquery.data.augment.photometric import PhotometricConfig, distort_colours
from humanquery.data.readers.coco import CocoSource, CocoSourceConfig
from humanquery.data.readers.crops import FacesConfig, PetaConfig
from humanquery.media.letterbox import GREY


@dataclass(frozen=True)
class RegionsConfig:
    """Every person of `people` with a gender or age label, whose box is at least `smallest` px high
    or wide."""

    people: CocoSourceConfig | PetaConfig | FacesConfig
    smallest: float = 24.0
    longest_picture: int = 512
    """decoded pictures are kept in memory, scaled down to this long side"""
    cache_mb: float | int = 2048
    """most megabytes of decoded pictures in memory, in each loader process; the picture that was
    not used for the longest time goes first"""

    def __post_init__(self):
        if self.cache_mb < 0:
            raise ConfigError(
                f"RegionsConfig.cache_mb: got {self.cache_mb}, expected 0 (keep nothing) or more"
            )

    def build(self) -> "RegionSource":
        return RegionSource(self)


class RegionSource:
    """One sample per labelled person: its whole picture, with that person in row 0 of the target.

    Only boxes, ignore flags, the two labels and `head_squares` (as `face_boxes`) are kept. Decoded
    pictures stay in memory, up to `RegionsConfig.cache_mb` in each worker.
    """

    def __init__(self, config: RegionsConfig):
        self.config = config
        people = config.people
        only = (
            {"fields": ("gender", "age", "keypoints")}
            if isinstance(people, CocoSourceConfig)
            else {}
        )
        self.pictures = replace(people, **only).build()
        self._decoded: OrderedDict[int, Sample] = OrderedDict()  # least recently used first
        self._decoded_bytes = 0
        self.persons: list[tuple[int, int]] = []
        """(picture, row of the person in it)"""
        for picture in range(len(self.pictures)):
            target = self._target(picture)
            sides = (target.boxes[:, 2:] - target.boxes[:, :2]).amax(-1)
            meant = labelled(target) & (sides >= config.smallest)
            self.persons += [(picture, row) for row in meant.nonzero().flatten().tolist()]

    def __len__(self) -> int:
        return len(self.persons)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        picture, row = self.persons[i]
        sample = self._sample(picture)
        order = [row, *(k for k in range(len(sample.target)) if k != row)]
        return replace(sample, target=sample.target[order])

    def _sample(self, picture: int) -> Sample:
        known = self._decoded.get(picture)
        if known is not None:
            self._decoded.move_to_end(picture)
            return known
        sample = _shrunk(self.pictures[picture], self.config.longest_picture)
        self._decoded[picture] = sample
        self._decoded_bytes += sample.image.nbytes
        # targets are a few hundred bytes beside pictures of some hundred thousand: not counted
        while self._decoded_bytes > self.config.cache_mb * 1_000_000 and self._decoded:
            _, oldest = self._decoded.popitem(last=False)
            self._decoded_bytes -= oldest.image.nbytes
        return sample

    def _target(self, picture: int) -> Target:
        if isinstance(self.pictures, CocoSource):
            return self.pictures.target(picture)
        return self._sample(picture).target  # crops are small, and their boxes are their pictures


def labelled(target: Target) -> Bool[Tensor, " n"]:
    """People with a gender or an age label."""
    known = torch.zeros_like(target.ignore)
    for label in (target.gender, target.age):
        if label is not None:
            known = known | label.valid
    return known & ~target.ignore


def head_squares(target: Target) -> Labelled | None:
    """Squares about the heads, xyxy px, with some air, from the joints; None without joints.

    Each stands about the middle of the nose, eyes and ears that are labelled, at least two of them;
    twice as wide as the ears are apart, 3.6 times the eyes, or 1.3 times as wide as it is from
    there to between the shoulders, whichever is most, for whoever turns away has ears and eyes
    close together. Not valid where none of the three is known.
    """
    if target.keypoints is None or target.skeleton is None:
        return None
    pairs = [
        (target.skeleton.index(f"left_{part}"), target.skeleton.index(f"right_{part}"), factor)
        for part, factor in (("ear", 2.0), ("eye", 3.6), ("shoulder", 1.3))
    ]
    points, seen = target.keypoints.value, target.counted_joints
    face = [
        target.skeleton.index("nose"),
        *(i for left, right, _ in pairs[:2] for i in (left, right)),
    ]
    weights = seen[:, face].float()[..., None]
    middle = (points[:, face] * weights).sum(1) / weights.sum(1).clamp(min=1)
    sides = torch.zeros(len(points))
    for left, right, factor in pairs:
        both = seen[:, left] & seen[:, right]
        ends = (
            ((points[:, left] + points[:, right]) / 2, middle)
            if factor < 2
            else (points[:, left], points[:, right])
        )
        sides = torch.maximum(
            sides, torch.where(both, (ends[0] - ends[1]).norm(dim=-1) * factor, 0.0)
        )
    half = sides[:, None] / 2
    return Labelled(
        torch.cat([middle - half, middle + half], 1), (weights.sum((1, 2)) >= 2) & (sides > 2)
    )


def _shrunk(sample: Sample, longest: int) -> Sample:
    plain = Target(
        image_size=sample.target.image_size,
        boxes=sample.target.boxes,
        ignore=sample.target.ignore,
        areas=sample.target.areas,
        gender=sample.target.gender,
        age=sample.target.age,
        face_boxes=head_squares(sample.target),
    )
    size = sample.image.shape[:2]
    scale = longest / max(size)
    if scale >= 1:
        return replace(sample, target=plain)
    small = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    matrix = Affine2D.resize(size, small)
    meta = Meta(sample.meta.image_size, small, matrix, sample.meta.image_id, sample.meta.path)
    return Sample(matrix.image(sample.image, small), meta, plain.warp(matrix, small))


@dataclass(frozen=True)
class RegionAugmentConfig:
    """How the meant person is laid on a canvas of fixed size; of its neighbours only the pixels
    come along."""

    canvas: tuple[int, int] = (224, 160)
    """(height, width)"""
    scale: tuple[float, float] = (0.4, 1.0)
    """size of the person's box relative to the largest that fits on the canvas, drawn evenly in its
    logarithm"""
    close: float = 0.15
    """chance of a close view instead: the box is larger than the canvas, which shows its upper part
    """
    close_scale: tuple[float, float] = (1.0, 1.7)
    mirror: float = 0.5
    rotation: float = 8.0
    """degrees at most, to either side"""
    jitter: float = 0.08
    """of a box's sides, by which each of its edges is moved at most: detected boxes are not exact
    """
    colours: PhotometricConfig = PhotometricConfig(swap_channels=0.0)
    grey: float = 0.05
    """chance of a picture without colours"""
    blur: float = 0.15
    """chance of a blurred, or coarsely sampled, picture"""
    compress: float = 0.15
    """chance of JPEG's artefacts"""
    noise: float = 0.1
    erase: float = 0.12
    """chance that a part of the person's box is painted over"""

    def __post_init__(self):
        if min(self.canvas) < 1 or not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(
                f"RegionAugmentConfig: canvas {self.canvas}, scale {self.scale}; expected a "
                f"(height, width) of at least "
                "1 px and (smallest, largest) scale above 0"
            )


def augment_region(sample: Sample, config: RegionAugmentConfig, rng: np.random.Generator) -> Sample:
    """A training canvas about the person of row 0; its `Meta.to_canvas` is the one matrix. Same
    `rng` state, same result."""
    if sample.target is None or not len(sample.target):
        raise ValueError(
            "augment_region: the sample has no person; expected the meant one in row 0 of its "
            "target"
        )
    matrix = draw_place(sample.target.boxes[0], config, rng)
    fill = GREY if rng.random() < 0.5 else tuple(int(v) for v in rng.integers(0, 256, 3))
    target = place_person(sample.target[:1], matrix, config, rng)
    image = matrix.image(sample.image, config.canvas, fill)
    image = _degraded(distort_colours(image, config.colours, rng), config, rng)
    if len(target) and rng.random() < config.erase:
        _erase(image, target.boxes[0], rng)
    meta = replace(sample.meta, canvas_size=config.canvas, to_canvas=matrix @ sample.meta.to_canvas)
    return Sample(image, meta, target)


def draw_place(
    box: Float[Tensor, "4"], config: RegionAugmentConfig, rng: np.random.Generator
) -> Affine2D:
    """The drawn matrix from picture px to canvas px for the person in `box`."""
    height, width = config.canvas
    cx, cy, w, h = (float(v) for v in xyxy_to_cxcywh(box))
    close = rng.random() < config.close
    low, high = config.close_scale if close else config.scale
    relative = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    scale = relative * min(height / max(h, 1.0), width / max(w, 1.0))
    # where on the canvas the box's centre comes to lie: all of the box inside, or of a close view
    # the top
    room_x, room_y = width - w * scale, height - h * scale
    x = width / 2 + rng.uniform(-0.5, 0.5) * room_x
    y = height / 2 + (
        rng.uniform(-0.5, 0.5) * room_y if room_y > 0 else -0.5 * room_y * rng.uniform(0.5, 1.0)
    )
    turn = (
        Affine2D.rotation(rng.uniform(-config.rotation, config.rotation))
        if config.rotation
        else Affine2D()
    )
    flip = Affine2D.scaling(-1.0, 1.0) if rng.random() < config.mirror else Affine2D()
    return (
        Affine2D.translation(x, y)
        @ turn
        @ flip
        @ Affine2D.scaling(scale)
        @ Affine2D.translation(-cx, -cy)
    )


def place_person(
    target: Target, matrix: Affine2D, config: RegionAugmentConfig, rng: np.random.Generator
) -> Target:
    """The one person of `target` on the canvas, with a jittered box; nobody if the box came to lie
    outside.

    The box keeps its sides under rotation (scaled, about its moved centre): the hull of a turned
    box would be far too wide for a standing person.
    """
    size: Size = config.canvas
    scale = abs(matrix.determinant) ** 0.5
    parts = xyxy_to_cxcywh(target.boxes)
    sides = parts[:, 2:] * scale
    shift = torch.from_numpy(
        rng.uniform(-config.jitter, config.jitter, (len(parts), 4))
    ).float() * sides.repeat(1, 2)
    whole = cxcywh_to_xyxy(torch.cat([matrix.points(parts[:, :2]), sides], 1)) + shift
    boxes = clip(whole, size)
    # not Target.warp: of all fields only boxes, areas and labels are here, and this runs for every
    # sample
    heads = target.face_boxes
    if heads is not None:
        centre_and_sides = xyxy_to_cxcywh(heads.value)
        there = torch.cat(
            [matrix.points(centre_and_sides[:, :2]), centre_and_sides[:, 2:] * scale], 1
        )
        heads = Labelled(cxcywh_to_xyxy(there), heads.valid)
    placed = replace(
        target, image_size=size, boxes=boxes, areas=target.areas * scale**2, face_boxes=heads
    )
    return placed[(boxes[:, 2:] - boxes[:, :2]).amin(-1) > 1]


def _degraded(
    image: UInt8[np.ndarray, "h w 3"], config: RegionAugmentConfig, rng: np.random.Generator
) -> np.ndarray:
    if rng.random() < config.grey:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < config.blur:
        image = (
            cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.5))
            if rng.random() < 0.5
            else _coarse(image, rng)
        )
    if rng.random() < config.noise:
        noise = rng.normal(0, rng.uniform(2, 10), image.shape)
        image = (image + noise + 0.5).clip(0, 255).astype(np.uint8)
    if rng.random() < config.compress:
        _, packed = cv2.imencode(
            ".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90)))
        )
        image = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(image)


def _coarse(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As if enlarged from fewer pixels."""
    height, width = image.shape[:2]
    share = rng.uniform(0.4, 0.9)
    small = cv2.resize(
        image, (round(width * share), round(height * share)), interpolation=cv2.INTER_AREA
    )
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _erase(
    image: UInt8[np.ndarray, "h w 3"], box: Float[Tensor, "4"], rng: np.random.Generator
) -> None:
    """Paints a rectangle of 3 to 20 % of the box in one colour, or grey noise."""
    x1, y1, x2, y2 = box.tolist()
    share, stretch = rng.uniform(0.03, 0.2), np.exp(rng.uniform(-0.7, 0.7))
    w = (x2 - x1) * min(1.0, (share * stretch) ** 0.5)
    h = (y2 - y1) * min(1.0, (share / stretch) ** 0.5)
    x, y = rng.uniform(x1, x2 - w), rng.uniform(y1, y2 - h)
    part = image[int(y) : int(y + h) + 1, int(x) : int(x + w) + 1]
    part[:] = rng.integers(0, 256, 3) if rng.random() < 0.5 else rng.integers(0, 256, part.shape)
