"""Backgrounds of generated scenes and things in them that are not people."""

import colorsys
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import UInt8

from humanquery.core.affine import Size
from humanquery.data.scenes.people_paint import Cutout, tint
from humanquery.data.scenes.people_shapes import Color

Rng = np.random.Generator


def paint_background(rng: Rng, size: Size, clutter: float = 1.0) -> UInt8[np.ndarray, "h w 3"]:
    """A room, a street, a park or an abstract pattern without people; `clutter` scales the
    number of things in it."""
    kind = (_room, _street, _park, _abstract)[int(rng.choice(4, p=(0.32, 0.28, 0.28, 0.12)))]
    return kind(rng, np.empty((*size, 3), np.uint8), clutter)


def _room(rng: Rng, image: np.ndarray, clutter: float) -> np.ndarray:
    h, w = image.shape[:2]
    floor = int(h * rng.uniform(0.5, 0.8))
    wall, ground = _color(rng, 0.25, (0.55, 0.92)), _color(rng, 0.35, (0.35, 0.75))
    _gradient(image[:floor], wall, tint(wall, 0.85))
    _gradient(image[floor:], tint(ground, 0.8), tint(ground, 1.1))
    if rng.random() < 0.5:
        _bands(rng, image[:floor], 0.94, vertical=True)
    _bands(rng, image[floor:], 0.92, vertical=rng.random() < 0.5)
    for _ in range(int(rng.integers(1, 4) * clutter)):
        _frame(rng, image, floor)
    for _ in range(int(rng.integers(1, 4) * clutter)):
        _furniture(rng, image, floor)
    cv2.line(image, (0, floor), (w, floor), tint(wall, 0.6), max(1, h // 90))
    return image


def _street(rng: Rng, image: np.ndarray, clutter: float) -> np.ndarray:
    h, w = image.shape[:2]
    horizon = int(h * rng.uniform(0.4, 0.7))
    _gradient(image[:horizon], _color(rng, 0.45, (0.75, 0.95), (0.52, 0.64)), (232, 232, 228))
    ground = _color(rng, 0.12, (0.45, 0.7))
    _gradient(image[horizon:], tint(ground, 0.85), tint(ground, 1.12))
    x = -int(rng.integers(0, max(w // 6, 1)))
    while x < w:
        width = int(w * rng.uniform(0.15, 0.35)) + 2
        _building(rng, image, x, width, int(horizon * rng.uniform(0.0, 0.55)), horizon)
        x += width
    vanish = (int(w * rng.uniform(0.2, 0.8)), horizon)
    for end in range(-w, 2 * w, max(w // 3, 1)):
        cv2.line(image, vanish, (end, h), tint(ground, 0.8), 1, cv2.LINE_AA)
    for _ in range(int(rng.integers(0, 3) * clutter)):
        x = int(rng.integers(w))
        cv2.line(image, (x, horizon + h // 20), (x, int(h * 0.1)), (70, 74, 80), max(1, w // 70))
        cv2.circle(image, (x, int(h * 0.1)), max(2, w // 40), (250, 240, 200), -1, cv2.LINE_AA)
    return image


def _park(rng: Rng, image: np.ndarray, clutter: float) -> np.ndarray:
    h, w = image.shape[:2]
    horizon = int(h * rng.uniform(0.35, 0.65))
    _gradient(image[:horizon], _color(rng, 0.5, (0.8, 0.98), (0.53, 0.6)), (236, 240, 240))
    for step in range(2):
        xs = np.linspace(0, w, 12)
        ys = horizon - h * (0.12 - 0.07 * step) * (
            1 + np.sin(xs / w * rng.uniform(3, 9) + rng.uniform(0, 6))
        )
        hill = np.concatenate([np.stack([xs, ys], 1), [[w, horizon + 2], [0, horizon + 2]]]).astype(
            np.int32
        )
        cv2.fillPoly(
            image[: horizon + 1], [hill], _color(rng, 0.3, (0.45, 0.7), (0.25, 0.4)), cv2.LINE_AA
        )
    grass = _color(rng, 0.45, (0.45, 0.72), (0.2, 0.34))
    _gradient(image[horizon:], grass, tint(grass, 0.8))
    for _ in range(int(rng.integers(1, 5) * clutter)):
        x, top = int(rng.integers(w)), int(horizon - h * rng.uniform(0.1, 0.35))
        cv2.line(image, (x, horizon + h // 30), (x, top), (104, 78, 54), max(2, w // 40))
        for _ in range(4):
            at = (x + int(w * rng.uniform(-0.07, 0.07)), top + int(h * rng.uniform(-0.08, 0.06)))
            cv2.circle(
                image,
                at,
                int(w * rng.uniform(0.05, 0.09)) + 1,
                tint(grass, rng.uniform(0.6, 0.95)),
                -1,
                cv2.LINE_AA,
            )
    return image


def _abstract(rng: Rng, image: np.ndarray, clutter: float) -> np.ndarray:
    h, w = image.shape[:2]
    coarse = rng.integers(60, 220, (int(rng.integers(2, 7)), int(rng.integers(2, 7)), 3), np.uint8)
    image[:] = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(3, 12) * clutter)):
        a, b = rng.integers(0, (w, h)).tolist(), rng.integers(0, (w, h)).tolist()
        color = _color(rng, 0.6, (0.2, 0.95))
        if rng.random() < 0.5:
            cv2.line(image, a, b, color, int(rng.integers(1, max(w // 30, 2))), cv2.LINE_AA)
        else:
            cv2.ellipse(image, a, (b[0] // 5 + 1, b[1] // 5 + 1), 0, 0, 360, color, -1, cv2.LINE_AA)
    return image


def _frame(rng: Rng, image: np.ndarray, floor: int) -> None:
    h, w = image.shape[:2]
    x, y = int(rng.integers(w)), int(floor * rng.uniform(0.05, 0.5))
    right, bottom = x + int(w * rng.uniform(0.08, 0.25)), y + int(floor * rng.uniform(0.15, 0.4))
    cv2.rectangle(image, (x, y), (right, bottom), _color(rng, 0.3, (0.2, 0.5)), -1)
    pad = max(1, w // 90)
    cv2.rectangle(
        image, (x + pad, y + pad), (right - pad, bottom - pad), _color(rng, 0.4, (0.6, 0.95)), -1
    )
    cv2.line(image, ((x + right) // 2, y), ((x + right) // 2, bottom), (90, 80, 70), pad)


def _furniture(rng: Rng, image: np.ndarray, floor: int) -> None:
    h, w = image.shape[:2]
    x, width = int(rng.integers(-w // 10, w)), int(w * rng.uniform(0.12, 0.35))
    top, base = int(floor - h * rng.uniform(0.08, 0.4)), floor + int(h * rng.uniform(0.0, 0.06))
    color = _color(rng, 0.45, (0.3, 0.7))
    cv2.rectangle(image, (x, top), (x + width, base), color, -1)
    cv2.rectangle(image, (x, top), (x + width, base), tint(color, 0.65), max(1, w // 120))
    for row in range(1, int(rng.integers(1, 5))):
        y = top + (base - top) * row // 5
        cv2.line(image, (x, y), (x + width, y), tint(color, 0.7), max(1, w // 150))
        for spine in range(x + 3, x + width - 3, max(w // 30, 4)):
            cv2.line(
                image,
                (spine, y - h // 30),
                (spine, y - 1),
                _color(rng, 0.6, (0.3, 0.9)),
                max(1, w // 90),
            )


def _building(rng: Rng, image: np.ndarray, x: int, width: int, top: int, base: int) -> None:
    h, w = image.shape[:2]
    wall = _color(rng, 0.3, (0.45, 0.85))
    cv2.rectangle(image, (x, top), (x + width, base), wall, -1)
    glass = tint(wall, rng.uniform(0.5, 1.3))
    step, pane = max(w // 14, 5), max(w // 30, 2)
    for wy in range(top + step // 2, base - step, step):
        for wx in range(x + step // 2, x + width - pane, step):
            cv2.rectangle(image, (wx, wy), (wx + pane, wy + int(pane * 1.4)), glass, -1)


def _gradient(area: np.ndarray, top: Color, bottom: Color) -> None:
    if len(area):
        ramp = np.linspace(0, 1, len(area), dtype=np.float32)[:, None]
        area[:] = (
            np.array(top, np.float32) * (1 - ramp) + np.array(bottom, np.float32) * ramp
        ).astype(np.uint8)[:, None]


def _bands(rng: Rng, area: np.ndarray, factor: float, *, vertical: bool) -> None:
    if not area.size:
        return
    step = int(rng.integers(4, 14)) * 2 * max(area.shape[1] // 256, 1)
    lines = np.arange(area.shape[1] if vertical else area.shape[0]) % step < step // 2
    part = area[:, lines] if vertical else area[lines]
    dark = (part * np.float32(factor)).astype(np.uint8)
    if vertical:
        area[:, lines] = dark
    else:
        area[lines] = dark


def _color(
    rng: Rng, saturation: float, values: tuple[float, float], hues: tuple[float, float] = (0.0, 1.0)
) -> Color:
    hue, strength = float(rng.uniform(*hues)), float(saturation * rng.uniform(0.5, 1.2))
    return tuple(
        int(255 * c)
        for c in colorsys.hsv_to_rgb(hue, min(strength, 1.0), float(rng.uniform(*values)))
    )


def paint_thing(rng: Rng, height: float) -> Cutout:
    """A bush, tree, post, crate, bottle, ball or table about `height` px tall, standing on its
    foot point."""
    h = max(int(height), 6)
    draw, ratio = _THINGS[int(rng.integers(len(_THINGS)))]
    w = max(int(h * ratio * rng.uniform(0.85, 1.2)), 4)
    canvas = np.zeros((h * 2, w * 2, 4), np.uint8)
    draw(rng, canvas, _color(rng, 0.6, (0.3, 0.85)))
    return _shrink(canvas, (w / 2, h * 0.98))


def paint_seat(rng: Rng, width: float, height: float) -> Cutout:
    """A stool for a sitting person: `height` px from the ground to the seat; foot in the middle
    of its base."""
    w, h = max(int(width), 6), max(int(height), 4)
    canvas = np.zeros((h * 2, w * 2, 4), np.uint8)
    color = _color(rng, 0.45, (0.35, 0.75))
    leg = max(w // 5, 2)
    for x in (w // 6, 2 * w - w // 6 - leg):
        cv2.rectangle(canvas, (x, 2), (x + leg, 2 * h - 2), (*tint(color, 0.6), 255), -1)
    cv2.rectangle(canvas, (0, 0), (2 * w, max(h // 2, 3)), (*color, 255), -1)
    cv2.rectangle(
        canvas, (0, max(h // 3, 2)), (2 * w, max(h // 2, 3)), (*tint(color, 0.75), 255), -1
    )
    return _shrink(canvas, (w / 2, float(h)))


def _shrink(canvas: np.ndarray, foot: tuple[float, float]) -> Cutout:
    small = cv2.resize(
        canvas, (canvas.shape[1] // 2, canvas.shape[0] // 2), interpolation=cv2.INTER_AREA
    )
    return Cutout(np.ascontiguousarray(small[..., :3]), np.ascontiguousarray(small[..., 3]), foot)


def _bush(rng: Rng, canvas: np.ndarray, color: Color) -> None:
    h, w = canvas.shape[:2]
    green = _color(rng, 0.6, (0.3, 0.6), (0.22, 0.38))
    for _ in range(12):
        at = (int(w * rng.uniform(0.25, 0.75)), int(h * rng.uniform(0.35, 0.8)))
        cv2.circle(
            canvas,
            at,
            int(min(w, h) * rng.uniform(0.15, 0.25)),
            (*tint(green, rng.uniform(0.7, 1.25)), 255),
            -1,
        )


def _tree(rng: Rng, canvas: np.ndarray, color: Color) -> None:
    h, w = canvas.shape[:2]
    cv2.rectangle(canvas, (int(w * 0.42), int(h * 0.4)), (int(w * 0.58), h), (96, 70, 48, 255), -1)
    _bush(rng, canvas[: int(h * 0.7)], color)


def _post(rng: Rng, canvas: np.ndarray, color: Color) -> None:
    h, w = canvas.shape[:2]
    cv2.rectangle(canvas, (int(w * 0.35), int(h * 0.12)), (int(w * 0.65), h), (*color, 255), -1)
    cv2.rectangle(
        canvas, (int(w * 0.35), int(h * 0.12)), (int(w * 0.45), h), (*tint(color, 1.2), 255), -1
    )
    cv2.circle(
        canvas, (w // 2, int(h * 0.12)), int(min(w, h * 0.2) * 0.48), (*tint(color, 0.8), 255), -1
    )


def _crate(rng: Rng, canvas: np.ndarray, color: Color) -> None:
    h, w = canvas.shape[:2]
    cv2.rectangle(canvas, (0, 0), (w, h), (*tint(color, 0.65), 255), -1)
    pad = max(2, w // 16)
    cv2.rectangle(canvas, (pad, pad), (w - pad, h - pad), (*color, 255), -1)
    cv2.line(canvas, (pad, pad), (w - pad, h - pad), (*tint(color, 0.7), 255), pad)


def _bottle(rng: Rng, canvas: np.ndarray, color: Color) -> None:
    h, w = canvas.shape[:2]
    cv2.ellipse(
        canvas,
        (w // 2, int(h * 0.42)),
        (int(w * 0.48), int(h * 0.12)),
        0,
        0,
        360,
        (*color, 255),
        -1,
    )
    cv2.rectangle(canvas, (int(w * 0.02), int(h * 0.42)), (int(w * 0.98), h), (*color, 255), -1)
    cv2.rectangle(
        canvas, (int(w * 0.36), 0), (int(w * 0.64), int(h * 0.4)), (*tint(color, 0.8), 255), -1
    )
    cv2.rectangle(
        canvas,
        (int(w * 0.02), int(h * 0.58)),
        (int(w * 0.98), int(h * 0.82)),
        (236, 232, 220, 255),
        -1,
    )


def _ball(rng: Rng, canvas: np.ndarray, color: Color) -> None:
    h, w = canvas.shape[:2]
    radius = min(h, w) // 2 - 1
    center = (w // 2, h - radius - 1)
    cv2.circle(canvas, center, radius, (*color, 255), -1)
    cv2.circle(
        canvas,
        (center[0] - radius // 3, center[1] - radius // 3),
        radius // 3,
        (*tint(color, 1.35), 255),
        -1,
    )


def _table(rng: Rng, canvas: np.ndarray, color: Color) -> None:
    h, w = canvas.shape[:2]
    for x in (0.06, 0.86):
        cv2.rectangle(
            canvas,
            (int(w * x), int(h * 0.1)),
            (int(w * (x + 0.08)), h),
            (*tint(color, 0.7), 255),
            -1,
        )
    cv2.rectangle(canvas, (0, 0), (w, int(h * 0.2)), (*color, 255), -1)


_THINGS: tuple[tuple[Callable, float], ...] = (
    (_bush, 1.2), (_tree, 0.5), (_post, 0.16), (_crate, 1.1), (_bottle, 0.34), (_ball, 1.0),
    (_table, 1.5),
)  # fmt: skip
