"""Generated scenes: seeded pictures of people with exact truth, fast enough to train from
directly."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from humanquery.core.affine import Affine2D, Size
from humanquery.core.batch import Meta, Sample
from humanquery.core.errors import ConfigError, nearest
from humanquery.data.scenes.backdrops import paint_background, paint_seat, paint_thing
from humanquery.data.scenes.layers import Layer, Scene, Sight, compose, develop, sample_exposure
from humanquery.data.scenes.people_paint import Cutout, Figure, paint
from humanquery.data.scenes.people_shapes import (
    POSES,
    VIEWS,
    Look,
    Pose,
    pose_body,
    sample_look,
    sample_pose,
)

SPLITS = {"train": 0, "val": 1, "test": 2}
_TRIES = 24  # places tried for a person before it is left out


@dataclass(frozen=True)
class GeneratedScenes:
    """Scenes with people whose truth is known to the pixel. Everything about scene i follows
    from (seed, split, i)."""

    seed: int = 0
    count: int = 1_000_000
    size: Size = (256, 256)
    """(height, width) px"""
    split: str = "train"
    """train, val or test: scenes of different splits are unrelated, whatever the seed"""
    people: tuple[int, int] = (1, 4)
    """least and most people; a person for whom no place is found is left out"""
    height_fraction: tuple[float, float] = (0.3, 0.9)
    """height of a whole person over the height of the picture"""
    overlap: float = 0.3
    """largest IoU of two people's boxes; 1.0 is a crowd"""
    truncation: float = 0.1
    """chance that a person may stand across the border of the picture"""
    occluders: tuple[int, int] = (0, 1)
    """least and most things that stand among the people"""
    clutter: float = 1.0
    """scales the number of things in the background"""
    poses: tuple[str, ...] = POSES
    views: tuple[str, ...] = tuple(VIEWS)
    """front, side, back"""
    blur: float = 0.8
    """largest Gaussian sigma, px"""
    noise: float = 12.0
    """largest sensor noise, grey levels"""
    min_visible: float = 0.15
    """nobody is painted of whom less than this part of the whole silhouette can be seen"""
    min_pixels: int = 24

    def __post_init__(self):
        _check(self)


def easy_scenes(
    seed: int = 0, count: int = 1_000_000, size: int | Size = 160, split: str = "train"
) -> GeneratedScenes:
    """One to four stout people of at least 45 % of the height, hardly hidden: what a tiny model
    learns in minutes. `size` in px, one number for a square."""
    size = (size, size) if isinstance(size, int) else size
    return GeneratedScenes(
        seed=seed, count=count, size=size, split=split, people=(1, 4), height_fraction=(0.45, 0.9),
        overlap=0.15, truncation=0.0, occluders=(0, 0), clutter=0.7,
        poses=("stand", "walk", "wave", "cheer", "hips"), blur=0.5, noise=8.0,
    )  # fmt: skip


def street_scenes(
    seed: int = 0, count: int = 1_000_000, size: Size = (384, 512), split: str = "train"
) -> GeneratedScenes:
    """Crowds of up to sixteen people of all sizes that hide each other, cut by the border and by
    things."""
    return GeneratedScenes(
        seed=seed, count=count, size=size, split=split, people=(5, 16), height_fraction=(0.2, 0.85),
        overlap=0.6, truncation=0.3, occluders=(0, 3), clutter=1.5, blur=1.0, noise=16.0,
    )  # fmt: skip


def preset(kind: str, *, seed: int = 0, count: int = 100, split: str = "train") -> GeneratedScenes:
    """`easy`, `mixed` or `street`; another name raises ConfigError."""
    kinds = {"easy": easy_scenes, "mixed": GeneratedScenes, "street": street_scenes}
    if kind not in kinds:
        raise ConfigError(f"unknown kind of scenes {kind!r}.{nearest(kind, kinds)}")
    return kinds[kind](seed=seed, count=count, split=split)


def open(config: GeneratedScenes) -> "Scenes":
    """The scenes of `config` as a source of samples."""
    return Scenes(config)


class Scenes:
    """`len(source)` scenes; `source[i]` paints scene i."""

    def __init__(self, config: GeneratedScenes):
        self.config = config

    def __len__(self) -> int:
        return self.config.count

    def __getitem__(self, index: int) -> Sample:
        scene = self.scene(index)
        size = self.config.size
        where = f"generated/{self.config.split}/{self.config.seed}/{index}"
        return Sample(
            scene.image, Meta(size, size, Affine2D(), image_id=index + 1, path=where), scene.target
        )

    def parts(self, index: int) -> UInt8[np.ndarray, "h w"]:
        """Body part of every pixel of scene `index`, see `people_paint.PARTS`."""
        return self.scene(index).parts

    def scene(self, index: int) -> Scene:
        """Scene `index` with part and owner maps; IndexError outside 0..len - 1."""
        if not 0 <= index < len(self):
            raise IndexError(
                f"scene {index} asked for, there are {len(self)} (0 to {len(self) - 1})"
            )
        config = self.config
        rng = np.random.default_rng([config.seed, SPLITS[config.split], index])
        background = paint_background(rng, config.size, config.clutter)
        scene = compose(background, _place(rng, config, index))
        image = develop(rng, scene.image, sample_exposure(rng, config.blur, config.noise))
        return Scene(image, scene.target, scene.parts, scene.owners)


def write_scenes(config: GeneratedScenes, out: Path) -> Path:
    """The scenes as PNG pictures under `out/images` and their truth in `out/annotations.json`,
    whose path comes back."""
    from humanquery.data.readers.coco_writer import write_coco

    source = Scenes(config)
    path = Path(out) / "annotations.json"
    write_coco(path, (source[i] for i in range(len(source))), Path(out) / "images")
    return path


def _place(rng: np.random.Generator, config: GeneratedScenes, index: int) -> list[Layer]:
    """Everything that stands in the scene, farthest first. Places are given from the nearest to
    the farthest, so that whoever is accepted keeps what can be seen of him."""
    number = int(rng.integers(config.people[0], config.people[1] + 1))
    waiting = [_person(rng, config, index, k) for k in range(number)]
    things = int(rng.integers(config.occluders[0], config.occluders[1] + 1))
    height = config.size[0]
    layers = [
        _anywhere(rng, paint_thing(rng, height * rng.uniform(0.12, 0.4)), config.size)
        for _ in range(things)
    ]
    boxes: list[np.ndarray] = []
    placed: list[Layer] = []
    waiting.sort(key=lambda person: -person[0].alpha.shape[0])  # the tall ones are near
    for figure, seat in waiting:
        for _ in range(_TRIES):
            layer = _spot(rng, figure, config)
            box = _silhouette_box(layer, config.size)
            if any(_iou(box, other) > config.overlap for other in boxes):
                continue
            group = [layer] if seat is None else [layer, _under(layer, seat)]
            if _all_seen([*placed, *group, *layers], config):
                placed += group
                boxes.append(box)
                break
    return _far_to_near([*placed, *layers])


def _person(
    rng: np.random.Generator, config: GeneratedScenes, index: int, k: int
) -> tuple[Figure, Cutout | None]:
    look = sample_look(rng, index * 64 + k + 1)
    pose = sample_pose(rng, look, config.poses, config.views)
    low, high = config.height_fraction
    child = min(0.55 + look.age / 40, 1.0)
    fraction = low + (high - low) * float(rng.random()) * child
    if pose.name == "sit":
        fraction *= 0.75  # so that those who sit are of the size of those who stand
    stature = stature_for(look, pose, fraction * config.size[0])
    figure = paint(look, pose, stature)
    return figure, _seat(rng, look, pose, stature)


def stature_for(look: Look, pose: Pose, height: float) -> float:
    """The stature in px at which the painted person is about `height` px tall in this pose."""
    body = pose_body(look, pose)
    top = min(
        body.points["head"][1] - 1.08 * look.build.head,
        body.points["left_hand"][1],
        body.points["right_hand"][1],
    )
    return height / max(0.02 - top, 0.3)


def _seat(rng: np.random.Generator, look: Look, pose: Pose, stature: float) -> Cutout | None:
    if pose.name != "sit":
        return None
    body = pose_body(look, pose)
    return paint_seat(
        rng, stature * 3.0 * look.build.hip, stature * (-body.points["pelvis"][1] - 0.02)
    )


def _under(layer: Layer, seat: Cutout) -> Layer:
    """The seat, just behind the pelvis of a sitting person."""
    hips = layer.cutout.joints[11:13].mean(0)
    ground = layer.ground - 0.5
    return Layer(seat, round(layer.left + hips[0] - seat.foot[0]), round(ground - seat.foot[1]) - 1)


def _spot(rng: np.random.Generator, figure: Figure, config: GeneratedScenes) -> Layer:
    """A random place; wholly inside the picture unless truncation strikes or the person is too
    large."""
    height, width = config.size
    ys, xs = np.nonzero(figure.alpha.any(1))[0], np.nonzero(figure.alpha.any(0))[0]
    x1, x2, y1, y2 = xs[0], xs[-1] + 1, ys[0], ys[-1] + 1
    cut = rng.random() < config.truncation
    beyond_x, beyond_y = (0.6 * (x2 - x1), 0.6 * (y2 - y1)) if cut else (0.0, 0.0)
    left = rng.uniform(-x1 - beyond_x, max(width - x2 + beyond_x, -x1 - beyond_x + 1e-3))
    highest = (
        min(0.25 * height, max(height - (y2 - y1), 0.0)) - y1
    )  # feet below the horizon where there is room
    top = rng.uniform(highest, max(height - y2 + beyond_y, highest + 1e-3))
    return Layer(figure, int(np.floor(left)), int(np.floor(top)))


def _anywhere(rng: np.random.Generator, thing: Cutout, size: Size) -> Layer:
    height, width = thing.alpha.shape
    ground = size[0] * rng.uniform(0.6, 1.05)
    return Layer(
        thing, int(rng.uniform(-width / 2, size[1] - width / 2)), int(ground - thing.foot[1])
    )


def _far_to_near(layers: list[Layer]) -> list[Layer]:
    return sorted(layers, key=lambda layer: layer.ground)


def _all_seen(layers: list[Layer], config: GeneratedScenes) -> bool:
    """Whether enough of every person can be seen."""
    sight = Sight(config.size, config.min_visible, config.min_pixels)
    for layer in reversed(_far_to_near(layers)):
        if isinstance(layer.cutout, Figure) and not sight.sees_enough(layer):
            return False
        sight.take(layer)
    return True


def _silhouette_box(layer: Layer, size: Size) -> np.ndarray:
    ys, xs = np.nonzero(layer.cutout.alpha.any(1))[0], np.nonzero(layer.cutout.alpha.any(0))[0]
    box = np.array(
        [xs[0] + layer.left, ys[0] + layer.top, xs[-1] + 1 + layer.left, ys[-1] + 1 + layer.top]
    )
    return np.clip(box, 0, [size[1], size[0], size[1], size[0]])


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    """Two integer boxes; `core.boxes.iou` costs more than the painting for single pairs."""
    inner = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return float(inner / max(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner, 1))


def _check(config: GeneratedScenes) -> None:
    where = "GeneratedScenes"
    require(where, "seed", config.seed, config.seed >= 0, "a whole number of at least 0")
    require(where, "count", config.count, config.count >= 0, "a whole number of at least 0")
    require(where, "split", config.split, config.split in SPLITS, "one of train, val, test")
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
    require(
        where,
        "height_fraction",
        config.height_fraction,
        0 < low <= high <= 2,
        "(least, most) with 0 < least <= most <= 2",
    )
    low, high = config.occluders
    require(
        where,
        "occluders",
        config.occluders,
        0 <= low <= high,
        "(least, most) with 0 <= least <= most",
    )
    for name in ("overlap", "truncation", "min_visible"):
        value = getattr(config, name)
        require(where, name, value, 0 <= value <= 1, "a number from 0 to 1")
    for name in ("clutter", "blur", "noise", "min_pixels"):
        value = getattr(config, name)
        require(where, name, value, value >= 0, "a number of at least 0")
    unknown = [name for name in config.poses if name not in POSES]
    require(
        where, "poses", config.poses, config.poses and not unknown, f"some of {', '.join(POSES)}"
    )
    unknown = [name for name in config.views if name not in VIEWS]
    require(
        where, "views", config.views, config.views and not unknown, f"some of {', '.join(VIEWS)}"
    )


def require(where: str, field: str, value: object, holds: object, expected: str) -> None:
    """Raises ConfigError for a field that cannot be what it is."""
    if not holds:
        raise ConfigError(f"{where}.{field}: got {value!r}, expected {expected}")
