"""From painted people and things to a picture with exact truth: who hides whom, what is left to
see of everybody."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from humanquery.core.affine import Size
from humanquery.core.masks import mask_boxes
from humanquery.core.rows import Labelled
from humanquery.core.skeleton import COCO17
from humanquery.core.target import Target
from humanquery.data.scenes.people_paint import Cutout, Figure

_MIN_FACE_SEEN = 0.5  # of the pixels of a face that must be in view for its box to be valid


@dataclass(frozen=True, eq=False)
class Layer:
    """A cutout and where its patch lies in the picture (px, may be partly or wholly outside)."""

    cutout: Cutout
    left: int
    top: int

    @property
    def ground(self) -> float:
        """y of the point where it stands: what stands lower in the picture is nearer."""
        return self.top + self.cutout.foot[1]

    def window(self, size: Size) -> tuple[slice, slice, slice, slice]:
        """Rows and columns of the picture, rows and columns of the patch; empty slices when
        outside."""
        h, w = self.cutout.alpha.shape
        y1, x1 = min(max(self.top, 0), size[0]), min(max(self.left, 0), size[1])
        y2, x2 = max(min(self.top + h, size[0]), y1), max(min(self.left + w, size[1]), x1)
        patch = slice(y1 - self.top, y2 - self.top), slice(x1 - self.left, x2 - self.left)
        return slice(y1, y2), slice(x1, x2), *patch


class Sight:
    """What is already taken by nearer layers; layers are offered from the nearest to the
    farthest."""

    def __init__(self, size: Size, min_visible: float, min_pixels: int):
        self.taken = np.zeros(size, bool)
        self.size = size
        self.min_visible, self.min_pixels = min_visible, min_pixels

    def visible(self, layer: Layer) -> np.ndarray:
        """Mask, in the layer's window, of what neither the frame nor a nearer layer hides."""
        ys, xs, py, px = layer.window(self.size)
        return (layer.cutout.alpha[py, px] >= 128) & ~self.taken[ys, xs]

    def sees_enough(self, layer: Layer) -> bool:
        area = int(np.count_nonzero(self.visible(layer)))
        whole = int(np.count_nonzero(layer.cutout.alpha >= 128))
        return area >= max(self.min_pixels, self.min_visible * whole)

    def take(self, layer: Layer) -> None:
        ys, xs, py, px = layer.window(self.size)
        self.taken[ys, xs] |= layer.cutout.alpha[py, px] >= 128


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, its truth, and two maps that `Target` does not hold."""

    image: UInt8[np.ndarray, "h w 3"]
    target: Target
    parts: UInt8[np.ndarray, "h w"]
    """index into `people_paint.PARTS` of whoever is on top"""
    owners: UInt8[np.ndarray, "h w"]
    """row of the target + 1, 0 where nobody is"""


def compose(background: UInt8[np.ndarray, "h w 3"], layers: list[Layer]) -> Scene:
    """Paints the layers over the background, the first one farthest away. Every `Figure` becomes
    a row of the target, in the same order."""
    image = background.copy()
    size = image.shape[0], image.shape[1]
    parts, owners = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    people: list[Layer] = []
    for layer in layers:
        _shadow(image, layer)
    for layer in layers:
        ys, xs, py, px = layer.window(size)
        alpha = layer.cutout.alpha[py, px]
        if not alpha.size:
            if isinstance(layer.cutout, Figure):
                raise ValueError(
                    f"a person at left {layer.left}, top {layer.top} lies outside the picture of "
                    f"{size}"
                )
            continue
        under = cv2.multiply(image[ys, xs], cv2.merge([255 - alpha] * 3), scale=1 / 255)
        image[ys, xs] = cv2.add(under, np.ascontiguousarray(layer.cutout.color[py, px]))
        solid = alpha >= 128
        owners[ys, xs][solid], parts[ys, xs][solid] = 0, 0
        if isinstance(layer.cutout, Figure):
            people.append(layer)
            owners[ys, xs][solid] = len(people)
            parts[ys, xs][solid] = layer.cutout.parts[py, px][solid]
    return Scene(image, _truth(size, people, owners, parts), parts, owners)


def _shadow(image: np.ndarray, layer: Layer) -> None:
    """Darkens the ground under a layer a little."""
    w = layer.cutout.alpha.shape[1] * 0.36
    x, y, rx, ry = layer.left + layer.cutout.foot[0], layer.ground, w, max(w * 0.16, 1.0)
    x1, x2 = max(math.floor(x - rx), 0), min(math.ceil(x + rx) + 1, image.shape[1])
    y1, y2 = max(math.floor(y - ry), 0), min(math.ceil(y + ry) + 1, image.shape[0])
    if x1 >= x2 or y1 >= y2:
        return
    far = ((np.arange(x1, x2) + 0.5 - x) / rx)[None] ** 2 + ((np.arange(y1, y2) + 0.5 - y) / ry)[
        :, None
    ] ** 2
    shade = (1 - 0.4 * np.clip(1 - far, 0, 1)).astype(np.float32)[..., None]
    image[y1:y2, x1:x2] = (image[y1:y2, x1:x2] * shade).astype(np.uint8)


def _truth(size: Size, people: list[Layer], owners: np.ndarray, parts: np.ndarray) -> Target:
    n = len(people)
    figures: list[Figure] = [layer.cutout for layer in people]
    masks = torch.from_numpy(owners[None] == np.arange(1, n + 1, dtype=np.uint8)[:, None, None])
    known = torch.ones(n, dtype=torch.bool)
    joints, visibility = np.zeros((n, 17, 2), np.float32), np.zeros((n, 17), np.int64)
    faces, face_valid = np.zeros((n, 4), np.float32), np.zeros(n, bool)
    for i, layer in enumerate(people):
        joints[i], visibility[i] = _seen_joints(layer, i + 1, owners)
        face = _seen_face(layer, i + 1, owners, parts)
        if face is not None:
            faces[i], face_valid[i] = face, True
    ages = torch.tensor([float(f.look.age) for f in figures])
    return Target(
        image_size=size,
        skeleton=COCO17,
        boxes=mask_boxes(masks),
        ignore=~known,
        areas=torch.from_numpy(np.bincount(owners.ravel(), minlength=n + 1)[1:].astype(np.float32)),
        keypoints=Labelled(torch.from_numpy(joints), known),
        visibility=torch.from_numpy(visibility),
        masks=Labelled(masks, known),
        gender=Labelled(torch.tensor([float(f.look.gender) for f in figures]), known),
        age=Labelled(torch.stack([ages, ages], 1), known),
        face_boxes=Labelled(torch.from_numpy(faces), torch.from_numpy(face_valid)),
        track_ids=torch.tensor([f.look.identity for f in figures], dtype=torch.long),
    )


def _seen_joints(
    layer: Layer, owner: int, owners: np.ndarray
) -> tuple[Float[np.ndarray, "17 2"], Int[np.ndarray, "17"]]:
    """Joints in picture px and their visibility: 2 seen, 1 hidden inside the frame, 0 (and at 0,
    0) outside it."""
    figure: Figure = layer.cutout
    height, width = owners.shape
    at = figure.joints + (layer.left, layer.top)
    inside = (at >= 0).all(1) & (at[:, 0] < width) & (at[:, 1] < height)
    x = np.clip(at[:, 0].astype(int)[:, None] + [-1, 0, 1, 0, 0], 0, width - 1)
    y = np.clip(at[:, 1].astype(int)[:, None] + [0, 0, 0, -1, 1], 0, height - 1)
    uncovered = (owners[y, x] == owner).any(1)
    visibility = np.where(inside, np.where(uncovered & figure.shows, 2, 1), 0)
    return np.where(inside[:, None], at, 0), visibility


def _seen_face(layer: Layer, owner: int, owners: np.ndarray, parts: np.ndarray) -> Tensor | None:
    figure: Figure = layer.cutout
    if figure.face_box is None:
        return None
    height, width = owners.shape
    ys, xs, _, _ = layer.window((height, width))
    whole = np.count_nonzero(figure.parts == 1)
    seen = np.count_nonzero((parts[ys, xs] == 1) & (owners[ys, xs] == owner))
    x1, y1, x2, y2 = figure.face_box
    box = torch.tensor([x1 + layer.left, y1 + layer.top, x2 + layer.left, y2 + layer.top])
    box = box.clamp(min=0).minimum(
        torch.tensor([width, height, width, height], dtype=torch.float32)
    )
    worth = whole and seen >= _MIN_FACE_SEEN * whole and (box[2:] - box[:2]).min() >= 1
    return box if worth else None


@dataclass(frozen=True)
class Exposure:
    """How a camera saw it: brightness (gain, offset in grey levels), blur (sigma px), sensor
    noise (grey levels)."""

    gain: float
    offset: float
    sigma: float
    noise: float


def sample_exposure(rng: np.random.Generator, blur: float, noise: float) -> Exposure:
    """Random light, sigma up to `blur`, noise up to `noise`."""
    gain, offset, sigma, level = rng.uniform([0.86, -8, 0, 0], [1.1, 8, blur, noise]).tolist()
    return Exposure(gain, offset, sigma, level)


def develop(
    rng: np.random.Generator, image: UInt8[np.ndarray, "h w 3"], exposure: Exposure
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture as taken with `exposure`; `rng` gives the grain."""
    if exposure.sigma > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), exposure.sigma)
    image = cv2.add(cv2.convertScaleAbs(image, alpha=exposure.gain), (exposure.offset,) * 3)
    if exposure.noise < 0.5:
        return image
    grain = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    up = cv2.convertScaleAbs(grain, alpha=2 * exposure.noise / 255)
    return cv2.subtract(cv2.add(image, up), (exposure.noise,) * 3)
