"""Generated clips: identities who walk, cross, hide each other, enter and leave, with exact
truth in every frame."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from humanquery.core.affine import Affine2D, Size
from humanquery.core.batch import Meta, Sample
from humanquery.data.scenes.backdrops import paint_background, paint_thing
from humanquery.data.scenes.layers import Layer, Scene, Sight, compose, develop, sample_exposure
from humanquery.data.scenes.people_paint import Figure, paint
from humanquery.data.scenes.people_shapes import Look, sample_look, walking_pose
from humanquery.data.scenes.scenes import SPLITS, require

_CLIPS = 7  # sets the random numbers of clips apart from those of scenes


@dataclass(frozen=True)
class GeneratedClips:
    """Clips of walking people. Everything about frame t of clip i follows from (seed, split, i,
    t)."""

    seed: int = 0
    count: int = 10
    frames: int = 60
    size: Size = (240, 320)
    """(height, width) px"""
    split: str = "train"
    people: tuple[int, int] = (3, 6)
    """least and most identities that appear in a clip; not all are in view all the time"""
    height_fraction: tuple[float, float] = (0.35, 0.75)
    """stature over the height of the picture, from the farthest lane to the nearest"""
    speed: float = 0.03
    """statures walked per frame, on average"""
    occluders: tuple[int, int] = (0, 2)
    """least and most things that stand in the way"""
    clutter: float = 1.0
    blur: float = 0.6
    noise: float = 8.0
    min_visible: float = 0.1
    """a person of whose whole silhouette less can be seen is not in that frame, neither painted
    nor in its truth"""
    min_pixels: int = 24

    def __post_init__(self):
        _check(self)


@dataclass(frozen=True)
class Walk:
    """A smooth path over the ground, in px of the picture and frames."""

    look: Look
    stature: float
    x: float
    """where the feet are at frame 0; may be outside"""
    y: float
    velocity: float
    """px per frame to the right"""
    sway: float
    """how far the lane bends up and down, px"""
    rate: float
    """radians of that bend per frame"""
    start: float
    """its angle at frame 0"""
    phase: float
    """gait at frame 0, radians"""

    def at(self, frame: int) -> tuple[float, float]:
        """x, y of the feet."""
        return self.x + self.velocity * frame, self.y + self.sway * math.sin(
            self.start + self.rate * frame
        )

    def figure(self, frame: int) -> Layer:
        """The walker as painted in `frame`, facing where it goes."""
        x, y = self.at(frame)
        toward = (
            4 * self.sway * self.rate * math.cos(self.start + self.rate * frame)
        )  # depth is foreshortened
        yaw = math.degrees(math.atan2(self.velocity, toward))
        gait = self.phase + 2 * math.pi * abs(self.velocity) * frame / (0.85 * self.stature)
        painted = paint(self.look, walking_pose(self.look, gait, yaw), self.stature, (x % 1, y % 1))
        return Layer(painted, round(x - painted.foot[0]), round(y - painted.foot[1]))


def open(config: GeneratedClips) -> "ClipSource":
    """The clips of `config`."""
    return ClipSource(config)


class ClipSource:
    """`len(source)` clips; `source.clip(i)` paints its frames one after another."""

    def __init__(self, config: GeneratedClips):
        self.config = config

    def __len__(self) -> int:
        return self.config.count

    def clip(self, index: int) -> Iterator[Sample]:
        """The frames of clip `index` in order, painted when asked for; identities are in
        `target.track_ids`.

        IndexError outside 0..len - 1.
        """
        config = self.config
        for frame, scene in enumerate(self.scenes(index)):
            where = f"generated_clip/{config.split}/{config.seed}/{index}/{frame}"
            meta = Meta(
                config.size,
                config.size,
                Affine2D(),
                image_id=index * config.frames + frame + 1,
                path=where,
            )
            yield Sample(scene.image, meta, scene.target)

    def scenes(self, index: int) -> Iterator[Scene]:
        """The same frames with part and owner maps."""
        if not 0 <= index < len(self):
            raise IndexError(
                f"clip {index} asked for, there are {len(self)} (0 to {len(self) - 1})"
            )
        return self._frames(index)

    def _frames(self, index: int) -> Iterator[Scene]:
        config = self.config
        rng = np.random.default_rng([config.seed, SPLITS[config.split], index, _CLIPS])
        background = paint_background(rng, config.size, config.clutter)
        exposure = sample_exposure(rng, config.blur, config.noise)
        things = [
            _thing(rng, config)
            for _ in range(int(rng.integers(config.occluders[0], config.occluders[1] + 1)))
        ]
        number = int(rng.integers(config.people[0], config.people[1] + 1))
        walks = [_walk(rng, config, index * 64 + k + 1) for k in range(number)]
        for frame in range(config.frames):
            scene = compose(background, _in_view([w.figure(frame) for w in walks] + things, config))
            image = develop(
                np.random.default_rng([config.seed, index, frame, _CLIPS]), scene.image, exposure
            )
            yield Scene(image, scene.target, scene.parts, scene.owners)


def _in_view(layers: list[Layer], config: GeneratedClips) -> list[Layer]:
    """Those who can be seen well enough, farthest first."""
    sight = Sight(config.size, config.min_visible, config.min_pixels)
    kept = []
    for layer in sorted(layers, key=lambda layer: -layer.ground):
        if isinstance(layer.cutout, Figure) and not sight.sees_enough(layer):
            continue
        sight.take(layer)
        kept.append(layer)
    return kept[::-1]


def _walk(rng: np.random.Generator, config: GeneratedClips, identity: int) -> Walk:
    height, width = config.size
    look = sample_look(rng, identity)
    lane = float(rng.random())  # 0 far, 1 near
    low, high = config.height_fraction
    stature = height * (low + (high - low) * lane) * min(0.55 + look.age / 40, 1.0)
    heading = 1 if rng.random() < 0.5 else -1
    velocity = heading * config.speed * stature * float(rng.uniform(0.6, 1.4))
    middle = float(rng.uniform(0.1, 0.9)) * width  # where it is halfway through the clip
    return Walk(
        look=look,
        stature=stature,
        x=middle - velocity * config.frames / 2,
        y=height * (0.62 + 0.34 * lane),
        velocity=velocity,
        sway=height * float(rng.uniform(0.0, 0.04)),
        rate=float(rng.uniform(0.03, 0.1)),
        start=float(rng.uniform(0, 2 * math.pi)),
        phase=float(rng.uniform(0, 2 * math.pi)),
    )


def _thing(rng: np.random.Generator, config: GeneratedClips) -> Layer:
    height, width = config.size
    thing = paint_thing(rng, height * float(rng.uniform(0.2, 0.5)))
    ground = height * float(rng.uniform(0.65, 1.0))
    return Layer(
        thing, round(float(rng.uniform(0, width)) - thing.foot[0]), round(ground - thing.foot[1])
    )


def _check(config: GeneratedClips) -> None:
    where = "GeneratedClips"
    for name in ("seed", "count", "min_pixels", "clutter", "blur", "noise"):
        require(
            where, name, getattr(config, name), getattr(config, name) >= 0, "a number of at least 0"
        )
    require(where, "frames", config.frames, config.frames >= 1, "at least 1")
    require(where, "split", config.split, config.split in SPLITS, f"one of {', '.join(SPLITS)}")
    require(where, "size", config.size, min(config.size) >= 32, "(height, width) of at least 32 px")
    low, high = config.people
    require(
        where,
        "people",
        config.people,
        0 <= low <= high <= 60,
        "(least, most) with 0 <= least <= most <= 60",
    )
    low, high = config.height_fraction
    bounds = "(least, most) with 0 < least <= most <= 2"
    require(where, "height_fraction", config.height_fraction, 0 < low <= high <= 2, bounds)
    low, high = config.occluders
    require(
        where,
        "occluders",
        config.occluders,
        0 <= low <= high,
        "(least, most) with 0 <= least <= most",
    )
    require(
        where,
        "speed",
        config.speed,
        0 < config.speed <= 1,
        "more than 0 and at most 1 stature per frame",
    )
    require(
        where,
        "min_visible",
        config.min_visible,
        0 <= config.min_visible <= 1,
        "a number from 0 to 1",
    )
