"""Generated scenes of people with exact truth: every pixel, joint, age and identity is known because it was drawn.

Everything about scene i follows from (seed, i), so a generated data set is a few numbers and never leaves the machine.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Int, UInt8

from humanquery.core.affine import Size
from humanquery.core.batch import Meta, Sample
from humanquery.core.errors import ConfigError, nearest
from humanquery.core.rows import Labelled
from humanquery.core.skeleton import COCO17
from humanquery.core.target import Target, empty_target
from humanquery.data.figures import Figure, Look, Pose, draw_figure


@dataclass(frozen=True)
class GeneratedScenes:
    """Scenes to train and test on. Different seeds never share a scene: use one for training, another for evaluation."""

    count: int = 1_000_000
    seed: int = 0
    height: int = 256
    width: int = 256
    min_people: int = 0
    max_people: int = 5
    min_height: float = 0.3
    """of a standing person, as a share of the picture's height"""
    max_height: float = 0.9
    max_overlap: float = 0.5
    """largest IoU of two people's boxes"""
    truncation: float = 0.15
    """share of people that may reach over the border"""
    occluders: float = 0.3
    """chance of each of two objects in front of people"""
    clutter: int = 6
    """shapes in the background"""
    lively: bool = True
    """raised arms, sitting people"""
    noise: float = 6.0
    """standard deviation of the pixel noise, 0..255"""
    min_visible: float = 0.3
    """people of whom a smaller share can be seen are left out of the picture"""

    def __post_init__(self):
        if not 0 <= self.min_people <= self.max_people:
            raise ConfigError(f"generated scenes: {self.min_people}..{self.max_people} people; expected 0 <= min_people <= max_people")
        if not 0 < self.min_height <= self.max_height:
            raise ConfigError(f"generated scenes: heights {self.min_height}..{self.max_height}; expected 0 < min_height <= max_height")
        if self.height < 32 or self.width < 32 or self.count < 1:
            raise ConfigError(
                f"generated scenes: {self.count} pictures of {self.height} x {self.width}; expected at least one, of at least 32 x 32"
            )


def easy_scenes(seed: int = 0, count: int = 1_000_000, size: int = 160) -> GeneratedScenes:
    """One to three large people, apart from each other: what a small model learns in minutes on a CPU."""
    return GeneratedScenes(
        count, seed, size, size, 1, 3, 0.55, 0.9, max_overlap=0.12, truncation=0.0, occluders=0.0, clutter=4, lively=False, noise=4.0
    )


def street_scenes(seed: int = 0, count: int = 1_000_000, height: int = 384, width: int = 512) -> GeneratedScenes:
    """Crowds of six to sixteen with occlusion and truncation."""
    return GeneratedScenes(count, seed, height, width, 6, 16, 0.25, 0.75, max_overlap=0.45, truncation=0.3, occluders=0.6, clutter=10)


class Scenes:
    """The source of a `GeneratedScenes`."""

    def __init__(self, config: GeneratedScenes):
        self.config = config

    def __len__(self) -> int:
        return self.config.count

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"scene {i} of {len(self)}")
        rng = np.random.default_rng([self.config.seed, i])
        people = [(Look.drawn_by(rng), Pose.drawn_by(rng, lively=self.config.lively)) for _ in range(self._how_many(rng))]
        placed = place(people, self.config, rng)
        return compose(placed, self.config, rng, image_id=i + 1)

    def _how_many(self, rng: np.random.Generator) -> int:
        return int(rng.integers(self.config.min_people, self.config.max_people + 1))


@dataclass(frozen=True, eq=False)
class Placed:
    """A figure with its patch's top left corner in the picture; `depth` orders painting, larger is nearer."""

    figure: Figure
    corner: tuple[int, int]
    look: Look
    depth: float
    identity: int

    def box(self) -> np.ndarray:
        return _hull(self.figure.alpha > 127) + np.tile(np.array(self.corner, float), 2)


def place(people: list[tuple[Look, Pose]], config: GeneratedScenes, rng: np.random.Generator) -> list[Placed]:
    """Each person where a few tries find room; who finds none stays away."""
    placed: list[Placed] = []
    for identity, (look, pose) in enumerate(people):
        for _ in range(12):
            share = rng.uniform(config.min_height, config.max_height)
            height = share * config.height * (0.62 + 0.38 * min(look.age, 18) / 18)
            figure = draw_figure(look, pose, max(height, 20.0))
            corner = _corner(figure, config, rng)
            candidate = Placed(figure, corner, look, corner[1] + figure.alpha.shape[0] + rng.uniform(0, 4), identity)
            if all(_iou(candidate.box(), other.box()) <= config.max_overlap for other in placed):
                placed.append(candidate)
                break
    return sorted(placed, key=lambda p: p.depth)


def _corner(figure: Figure, config: GeneratedScenes, rng: np.random.Generator) -> tuple[int, int]:
    low, high = np.split(_hull(figure.alpha > 127), 2)
    over = 0.35 * (high - low) if rng.random() < config.truncation else np.array([0.0, 0.0])
    first = -low - over
    last = np.array([config.width, config.height]) - high + over
    at = [rng.uniform(min(a, b), max(a, b)) for a, b in zip(first, last, strict=True)]
    return int(at[0]), int(at[1])


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    inner = sides.prod()
    return float(inner / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inner))


def compose(placed: list[Placed], config: GeneratedScenes, rng: np.random.Generator, image_id: int) -> Sample:
    """Paints background, people from far to near, objects in front, and reads the truth off what can be seen."""
    size = (config.height, config.width)
    back = background(size, config.clutter, rng)
    objects = [_occluder(size, rng) for _ in range(2) if rng.random() < config.occluders]
    image, owner = _paint(back, placed, objects)
    hidden = [i for i, p in enumerate(placed) if (owner == i + 1).sum() < config.min_visible * (p.figure.alpha > 127).sum()]
    if hidden:  # nobody may be in the picture without being in the truth
        placed = [p for i, p in enumerate(placed) if i not in hidden]
        image, owner = _paint(back, placed, objects)
    image = _light(image, config.noise, rng)
    target = _truth(placed, owner, size)
    return Sample(image, Meta(size, size, image_id=image_id, path=f"generated:{config.seed}:{image_id - 1}"), target)


def _paint(back: np.ndarray, placed: list[Placed], objects: list) -> tuple[UInt8[np.ndarray, "h w 3"], Int[np.ndarray, "h w"]]:
    """The picture, and for each pixel 1 + the person who owns it, 0 for none."""
    image, owner = back.copy(), np.zeros(back.shape[:2], np.int32)
    for i, person in enumerate(placed):
        at, cut = _overlap(person.corner, person.figure.alpha.shape, owner.shape)
        if at is None:
            continue
        share = person.figure.alpha[cut].astype(np.uint16)[..., None]
        image[at] = ((person.figure.colors[cut] * share + image[at] * (255 - share)) // 255).astype(np.uint8)
        owner[at][person.figure.alpha[cut] > 127] = i + 1
    for mask, color in objects:
        image[mask] = color
        owner[mask] = 0
    return image, owner


def _overlap(corner: tuple[int, int], patch: Size, size: Size) -> tuple:
    x, y = corner
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + patch[1], size[1]), min(y + patch[0], size[0])
    if x1 >= x2 or y1 >= y2:
        return None, None
    return (slice(y1, y2), slice(x1, x2)), (slice(y1 - y, y2 - y), slice(x1 - x, x2 - x))


def _truth(placed: list[Placed], owner: np.ndarray, size: Size) -> Target:
    if not placed:
        empty = empty_target(size, COCO17)
        nobody = torch.zeros(0, dtype=torch.bool)
        return empty.replace(track_ids=torch.zeros(0, dtype=torch.long), face_boxes=Labelled(torch.zeros(0, 4), nobody))
    n = len(placed)
    masks = np.stack([owner == i + 1 for i in range(n)])
    boxes = np.stack([_hull(mask) for mask in masks]).astype(np.float32)
    joints, visibility, faces, has_face = [], [], [], []
    for i, person in enumerate(placed):
        where, seen = _joints(person, owner, i)
        joints.append(where)
        visibility.append(seen)
        face, shown = _face(person, masks[i])
        faces.append(face)
        has_face.append(shown)
    yes = torch.ones(n, dtype=torch.bool)
    age = torch.tensor([[p.look.age] * 2 for p in placed])
    return Target(
        image_size=size,
        boxes=torch.from_numpy(boxes),
        ignore=~yes,
        areas=torch.from_numpy(masks.sum((1, 2)).astype(np.float32)),
        keypoints=Labelled(torch.from_numpy(np.stack(joints).astype(np.float32)), yes),
        visibility=torch.from_numpy(np.stack(visibility)).long(),
        masks=Labelled(torch.from_numpy(masks), yes),
        gender=Labelled(torch.tensor([float(p.look.female) for p in placed]), yes),
        age=Labelled(age, yes),
        face_boxes=Labelled(torch.from_numpy(np.stack(faces).astype(np.float32)), torch.tensor(has_face)),
        track_ids=torch.tensor([p.identity for p in placed]),
        skeleton=COCO17,
    )


def _hull(mask: np.ndarray) -> np.ndarray:
    """Tight xyxy box of a mask that is not empty."""
    xs, ys = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return np.array([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1])


def _joints(person: Placed, owner: np.ndarray, i: int) -> tuple[np.ndarray, np.ndarray]:
    """2 where the person owns a pixel next to the joint, 1 where something is in front, 0 (and zeros) outside the picture."""
    height, width = owner.shape
    at = person.figure.joints + np.array(person.corner)
    inside = (at >= 0).all(1) & (at[:, 0] < width) & (at[:, 1] < height)
    cells = np.clip(at.astype(int), 0, [width - 1, height - 1])
    mine = owner[cells[:, 1], cells[:, 0]] == i + 1
    seen = np.where(inside, np.where(mine & ~person.figure.hidden, 2, 1), 0)
    return np.where(inside[:, None], at, 0.0), seen


def _face(person: Placed, mask: np.ndarray) -> tuple[np.ndarray, bool]:
    if person.figure.face is None:
        return np.zeros(4), False
    height, width = mask.shape
    face = person.figure.face + np.tile(np.array(person.corner), 2)
    face = np.clip(face, 0, [width, height, width, height])
    x1, y1, x2, y2 = face.astype(int)
    inside = mask[y1:y2, x1:x2]
    shown = inside.size > 0 and inside.mean() > 0.5
    return (face if shown else np.zeros(4)), bool(shown)


# -- everything that is not a person -----------------------------------------------------------------------------------


def background(size: Size, clutter: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Cloudy texture over a gradient, with dull shapes."""
    height, width = size
    base = rng.uniform(70, 200, (2, 3))
    slope = np.linspace(0, 1, height)[:, None, None]
    image = base[0] * (1 - slope) + base[1] * slope
    for cells, strength in ((4, 18.0), (12, 20.0), (40, 12.0)):
        grain = rng.normal(0, strength, (cells, cells, 1 if cells > 4 else 3)).astype(np.float32)
        layer = cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)
        image = image + (layer if layer.ndim == 3 else layer[..., None])
    image = np.clip(np.broadcast_to(image, (height, width, 3)), 0, 255).astype(np.uint8).copy()
    for _ in range(clutter):
        _clutter(image, rng)
    return image


def _clutter(image: np.ndarray, rng: np.random.Generator) -> None:
    """A box, bottle, tree or pole: things of which none is a person."""
    height, width = image.shape[:2]
    x, y = int(rng.integers(width)), int(rng.integers(height))
    w, h = (int(rng.uniform(0.04, 0.3) * side) + 2 for side in (width, height))
    gray = rng.uniform(40, 215)
    color = tuple(int(np.clip(gray + rng.normal(0, 22), 0, 255)) for _ in range(3))
    kind = rng.integers(4)
    if kind == 0:
        cv2.rectangle(image, (x, y), (x + w, y + h), color, -1)
    elif kind == 1:
        cv2.rectangle(image, (x, y), (x + w // 3, y + h), color, -1)
        cv2.rectangle(image, (x + w // 9, y - h // 3), (x + 2 * w // 9, y), color, -1)
    elif kind == 2:
        cv2.rectangle(image, (x - w // 10, y), (x + w // 10, y + h), (84, 62, 46), -1)
        cv2.circle(image, (x, y), max(2, w // 2), (60, int(rng.uniform(85, 140)), 58), -1, cv2.LINE_AA)
    else:
        end = (x + int(rng.normal(0, w)), y + h)
        cv2.line(image, (x, y), end, color, max(1, w // 12), cv2.LINE_AA)


def _occluder(size: Size, rng: np.random.Generator) -> tuple[np.ndarray, tuple]:
    """A thing in front of people: its pixels and colour."""
    height, width = size
    mask = np.zeros(size, np.uint8)
    x, y = int(rng.uniform(0, width)), int(rng.uniform(0.45, 1.0) * height)
    w, h = int(rng.uniform(0.06, 0.22) * width) + 2, int(rng.uniform(0.15, 0.5) * height) + 2
    if rng.random() < 0.5:
        cv2.rectangle(mask, (x, y), (x + w, y + h), 1, -1)
    else:
        cv2.ellipse(mask, (x, y + h // 2), (w // 2 + 1, h // 2 + 1), 0, 0, 360, 1, -1)
    gray = rng.uniform(40, 200)
    return mask.astype(bool), tuple(int(np.clip(gray + rng.normal(0, 20), 0, 255)) for _ in range(3))


def _light(image: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    gain = rng.uniform(0.92, 1.06)
    grain = np.empty(image.shape, np.int16)
    cv2.randn(cv2.setRNGSeed(int(rng.integers(2**31))) or grain, 0, noise)
    return np.clip(image * gain + grain, 0, 255).astype(np.uint8)


# -- as files ----------------------------------------------------------------------------------------------------------


def preset(kind: str, *, seed: int = 0, count: int = 100) -> GeneratedScenes:
    """`easy`, `mixed` or `street`; another name raises ConfigError."""
    kinds = {"easy": easy_scenes(seed, count), "mixed": GeneratedScenes(count, seed), "street": street_scenes(seed, count)}
    if kind not in kinds:
        raise ConfigError(f"unknown kind of scenes {kind!r}.{nearest(kind, kinds)}")
    return kinds[kind]


def write_scenes(config: GeneratedScenes, out: Path) -> Path:
    """The scenes as PNG pictures under `out/images` and their truth in `out/annotations.json`."""
    from humanquery.data.coco_write import write_coco

    scenes = Scenes(config)
    path = Path(out) / "annotations.json"
    write_coco(path, (scenes[i] for i in range(len(scenes))), Path(out) / "images")
    return path
