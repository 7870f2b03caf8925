"""One generated person: stout, articulated, drawn with exact joints, parts and face.

Gender and age are there to be seen, redundantly, so that they can be learned from a part of the body alone: women have
longer hair, narrower shoulders, wider hips, warm clothes and often a skirt; men have short hair, wide shoulders, cool
clothes. Children have large heads; with age hair turns white, shirts lose their colour, trousers grow lighter, backs bend.
"""

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

PARTS = ("background", "hair", "head", "torso", "left_arm", "right_arm", "legs", "skirt", "shoes")
SKINS = ((241, 207, 180), (224, 182, 148), (198, 148, 112), (150, 102, 72), (98, 66, 48))
OVERSAMPLE = 2


@dataclass(frozen=True)
class Look:
    """Who somebody is: stays the same through a clip."""

    female: bool
    age: float
    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    shirt: tuple[int, int, int]
    trousers: tuple[int, int, int]
    skirt: bool
    pattern: int
    build: float

    @staticmethod
    def drawn_by(rng: np.random.Generator) -> "Look":
        female, age = bool(rng.integers(2)), float(rng.integers(1, 85))
        grey = np.clip((age - 18) / 60, 0, 1)
        hair = np.array(_hsv(rng.uniform(0.03, 0.1), rng.uniform(0.5, 0.8), rng.uniform(0.15, 0.4)), float)
        warm = rng.uniform(0.86, 1.1) % 1.0
        cool = rng.uniform(0.3, 0.68)
        hue = warm if female else cool
        return Look(
            female=female,
            age=age,
            skin=SKINS[rng.integers(len(SKINS))],
            hair=tuple(int(c) for c in hair * (1 - grey) + 238 * grey),
            shirt=_hsv(hue, 1.0 - 0.9 * age / 84, 0.85),
            trousers=_hsv(hue + rng.uniform(-0.06, 0.06), 0.3, 0.2 + 0.65 * age / 84),
            skirt=female and rng.random() < 0.6,
            pattern=int(rng.integers(4)),
            build=float(rng.uniform(0.93, 1.12)),
        )


@dataclass(frozen=True)
class Pose:
    """Angles in degrees from hanging straight down, outwards positive; 0/1 pairs are the person's left and right."""

    back_view: bool
    upper_arms: tuple[float, float]
    forearms: tuple[float, float]
    thighs: tuple[float, float]
    shins: tuple[float, float]
    leg_length: float
    lean: float
    yaw: float

    @staticmethod
    def drawn_by(rng: np.random.Generator, *, lively: bool = True) -> "Pose":
        raised = rng.random(2) < (0.25 if lively else 0.0)
        upper = np.where(raised, rng.uniform(80, 165, 2), rng.uniform(8, 45, 2))
        bend = np.where(raised, rng.uniform(-20, 40, 2), rng.uniform(-60, 10, 2))
        sitting = lively and rng.random() < 0.15
        thighs = rng.uniform(25, 50, 2) if sitting else rng.uniform(-2, 16, 2)
        return Pose(
            back_view=bool(rng.random() < 0.25),
            upper_arms=tuple(upper.tolist()),
            forearms=tuple((upper + bend).tolist()),
            thighs=tuple(thighs.tolist()),
            shins=tuple((thighs * (0.1 if sitting else 0.6) + rng.uniform(-6, 6, 2)).tolist()),
            leg_length=float(rng.uniform(0.55, 0.75)) if sitting else 1.0,
            lean=float(rng.normal(0, 4)),
            yaw=float(rng.uniform(-1, 1)),
        )

    def walking(self, phase: float) -> "Pose":
        """The same person mid-stride; `phase` in turns."""
        swing = float(np.sin(2 * np.pi * phase))
        thighs, arms = (18 * swing + 4, -18 * swing + 4), (-16 * swing + 14, 16 * swing + 14)
        shins = tuple(t * 0.5 - (10 if t < 0 else 0) for t in thighs)
        return Pose(self.back_view, arms, arms, thighs, shins, 1.0, self.lean, self.yaw)


@dataclass(frozen=True, eq=False)
class Figure:
    """A drawn person on its own patch. Joints in patch pixels, COCO order; `hidden` ones stand behind the head."""

    colors: UInt8[np.ndarray, "h w 3"]
    alpha: UInt8[np.ndarray, "h w"]
    parts: UInt8[np.ndarray, "h w"]
    joints: Float[np.ndarray, "17 2"]
    hidden: Bool[np.ndarray, " 17"]
    face: Float[np.ndarray, " 4"] | None


def draw_figure(look: Look, pose: Pose, height: float) -> Figure:
    """The person about `height` px tall when standing straight."""
    body = _Body(look, pose, height * OVERSAMPLE)
    margin = 0.16 * body.height
    origin = body.points.min(0) - margin
    width, tall = (int(side) for side in np.ceil((body.points.max(0) + margin - origin) / OVERSAMPLE))
    canvas = _Canvas((tall * OVERSAMPLE, width * OVERSAMPLE), origin)
    _paint(canvas, body, look, pose)
    small = (width, tall)
    joints = (body.joints - origin) / OVERSAMPLE
    hidden = np.zeros(17, bool)
    if pose.back_view:
        hidden[:3] = True
    face = None
    if not pose.back_view:
        half = body.head_size * np.array([0.36, 0.42])
        center = body.head + np.array([0.0, 0.08 * body.head_size])
        face = (np.concatenate([center - half, center + half]) - np.tile(origin, 2)) / OVERSAMPLE
    return Figure(
        colors=cv2.resize(canvas.colors, small, interpolation=cv2.INTER_AREA),
        alpha=cv2.resize(canvas.alpha, small, interpolation=cv2.INTER_AREA),
        parts=cv2.resize(canvas.parts, small, interpolation=cv2.INTER_NEAREST),
        joints=joints,
        hidden=hidden,
        face=face,
    )


class _Body:
    """Joint positions in oversampled pixels, hips at the origin, y down."""

    def __init__(self, look: Look, pose: Pose, height: float):
        young = min(look.age, 20.0) / 20.0
        self.height = height
        self.head_size = height * (0.31 - 0.13 * young**0.7)
        trunk = height - self.head_size
        self.torso, legs, arms = 0.44 * trunk, 0.52 * trunk * pose.leg_length, 0.46 * trunk
        self.thick = 0.085 * trunk * look.build
        self.shoulder = trunk * (0.135 if look.female else 0.175) * look.build
        self.hip = trunk * (0.105 if look.female else 0.09) * look.build
        self.side = -1.0 if pose.back_view else 1.0  # where the person's left is on the picture
        stoop = pose.lean + max(look.age - 50, 0) * 0.35 * (1 if pose.yaw > 0 else -1)
        up = _direction(180 + stoop)
        across = np.array([-up[1], up[0]])
        neck = up * self.torso
        self.neck = neck
        self.head = neck + up * self.head_size * 0.5
        joints = np.zeros((17, 2))
        face = self.head + across * (pose.yaw * 0.1 * self.head_size) - up * 0.02 * self.head_size
        joints[0] = face - up * 0.1 * self.head_size
        for i, sign in enumerate((self.side, -self.side)):
            outward = np.array([sign, 1.0])
            joints[1 + i] = face + across * sign * 0.16 * self.head_size + up * 0.05 * self.head_size
            joints[3 + i] = self.head + across * sign * 0.37 * self.head_size
            joints[5 + i] = neck + across * sign * self.shoulder - up * 0.08 * self.torso
            joints[7 + i] = joints[5 + i] + _direction(pose.upper_arms[i]) * outward * arms * 0.5
            joints[9 + i] = joints[7 + i] + _direction(pose.forearms[i]) * outward * arms * 0.45
            joints[11 + i] = across * sign * self.hip
            joints[13 + i] = joints[11 + i] + _direction(pose.thighs[i]) * outward * legs * 0.52
            joints[15 + i] = joints[13 + i] + _direction(pose.shins[i]) * outward * legs * 0.45
        self.joints = joints
        self.points = np.concatenate([joints, [self.head + up * 0.7 * self.head_size]])
        self.up, self.across = up, across


def _direction(degrees: float) -> np.ndarray:
    radians = np.radians(degrees)
    return np.array([np.sin(radians), np.cos(radians)])


class _Canvas:
    """Colours, coverage and parts painted together."""

    def __init__(self, size: tuple[int, int], origin: np.ndarray):
        self.colors = np.zeros((*size, 3), np.uint8)
        self.alpha = np.zeros(size, np.uint8)
        self.parts = np.zeros(size, np.uint8)
        self.origin = origin

    def limb(self, points: list, width: float, color: tuple, part: str) -> None:
        line = self._fixed(np.array(points))
        width = max(2, round(width))
        for layer, value in self._layers(color, part):
            cv2.polylines(layer, [line], False, value, width, cv2.LINE_8, 4)

    def polygon(self, points: np.ndarray, color: tuple, part: str) -> None:
        for layer, value in self._layers(color, part):
            cv2.fillPoly(layer, [self._fixed(points)], value, cv2.LINE_8, 4)

    def ellipse(self, center: np.ndarray, axes: tuple, angle: float, color: tuple, part: str | None) -> None:
        center = tuple(int(v) for v in np.round((center - self.origin) * 16))
        axes = tuple(max(16, int(v * 16)) for v in axes)
        for layer, value in self._layers(color, part):
            cv2.ellipse(layer, center, axes, angle, 0, 360, value, -1, cv2.LINE_8, 4)

    def _fixed(self, points: np.ndarray) -> np.ndarray:
        return np.round((points - self.origin) * 16).astype(np.int32)

    def _layers(self, color: tuple, part: str | None) -> list:
        color = tuple(int(c) for c in color)
        if part is None:  # a detail on what is painted already
            return [(self.colors, color)]
        return [(self.colors, color), (self.alpha, 255), (self.parts, PARTS.index(part))]


def _paint(canvas: _Canvas, body: _Body, look: Look, pose: Pose) -> None:
    j, thick = body.joints, body.thick
    dark = tuple(int(c * 0.85) for c in look.shirt)
    angle = float(np.degrees(np.arctan2(body.across[1], body.across[0])))
    if look.female:  # long hair behind the shoulders
        _long_hair(canvas, body, look)
    for i in (0, 1):
        leg = [j[11 + i], j[13 + i], j[15 + i]]
        canvas.limb(leg, thick * 1.9, look.skin if look.skirt else look.trousers, "legs")
        foot = j[15 + i] + np.array([(1 if i == 0 else -1) * body.side * 0.4, 0.55]) * thick
        canvas.ellipse(foot, (thick * 1.3, thick * 0.7), 0.0, (45, 40, 42), "shoes")
    for i in (0, 1):
        arm = "left_arm" if i == 0 else "right_arm"
        canvas.limb([j[7 + i], j[9 + i]], thick * 1.35, look.skin, arm)
        canvas.limb([j[5 + i], j[7 + i]], thick * 1.6, dark, arm)
        canvas.ellipse(j[9 + i], (thick * 0.85, thick * 0.85), 0.0, look.skin, arm)
    _torso(canvas, body, look)
    canvas.limb([body.neck - body.up * 0.05 * body.torso, body.head], thick * 1.3, look.skin, "head")
    _head(canvas, body, look, pose, angle)


def _torso(canvas: _Canvas, body: _Body, look: Look) -> None:
    j, across, up, thick = body.joints, body.across, body.up, body.thick
    left, right = (j[5], j[6]) if body.side > 0 else (j[6], j[5])
    hip_left, hip_right = (j[11], j[12]) if body.side > 0 else (j[12], j[11])
    out = across * thick * 0.75
    shoulders = up * thick * 0.6
    waist = 0.45 * (hip_left + hip_right) / 2 + 0.55 * (left + right) / 2
    narrow = across * body.hip * (0.85 if look.female else 1.25) + out * 0.5
    ring = [left - out * -1 + shoulders, right - out + shoulders, waist - narrow, hip_right - out, hip_left + out, waist + narrow]
    if (left - right) @ across < 0:
        ring = [right + out + shoulders, left - out + shoulders, waist - narrow, hip_left - out, hip_right + out, waist + narrow]
    ring = np.array(ring)
    canvas.polygon(ring, look.shirt, "torso")
    if look.skirt:
        hem = (j[13] + j[14]) / 2
        wide = across * (body.hip + thick * 2.6)
        hips = (j[11] + j[12]) / 2 + up * thick
        skirt = np.array([hips + narrow, hips - narrow, hem - wide, hem + wide])
        canvas.polygon(skirt, look.trousers, "skirt")
    if look.pattern:
        _pattern(canvas, body, look)


def _pattern(canvas: _Canvas, body: _Body, look: Look) -> None:
    """Stripes across, along or both; only where the torso was painted."""
    ink = tuple(int(c * 0.72) for c in look.shirt)
    drawn = canvas.colors.copy()
    step = body.torso / 4.5
    for k in np.arange(-1, 7):
        middle = body.up * step * k
        if look.pattern in (1, 3):
            ends = np.array([middle - body.across * body.height, middle + body.across * body.height])
            cv2.polylines(drawn, [canvas._fixed(ends)], False, ink, max(1, round(step * 0.22)), cv2.LINE_8, 4)
        if look.pattern in (2, 3):
            middle = body.across * step * (k - 2.5)
            ends = np.array([middle - body.up * body.height, middle + body.up * body.height])
            cv2.polylines(drawn, [canvas._fixed(ends)], False, ink, max(1, round(step * 0.22)), cv2.LINE_8, 4)
    on_torso = (canvas.parts == PARTS.index("torso")).astype(np.uint8)
    cv2.copyTo(drawn, on_torso, canvas.colors)


def _long_hair(canvas: _Canvas, body: _Body, look: Look) -> None:
    size, up, across = body.head_size, body.up, body.across
    top, low = body.head + up * 0.1 * size, body.neck - up * 0.32 * size
    ring = np.array([top - across * 0.47 * size, top + across * 0.47 * size, low + across * 0.6 * size, low - across * 0.6 * size])
    canvas.polygon(ring, look.hair, "hair")


def _head(canvas: _Canvas, body: _Body, look: Look, pose: Pose, angle: float) -> None:
    j, size, up = body.joints, body.head_size, body.up
    canvas.ellipse(body.head + up * 0.09 * size, (0.47 * size, 0.5 * size), angle, look.hair, "hair")
    if pose.back_view:
        canvas.ellipse(body.head - up * 0.02 * size, (0.43 * size, 0.5 * size), angle, look.hair, "hair")
        return
    canvas.ellipse(body.head - up * 0.08 * size, (0.38 * size, 0.44 * size), angle, look.skin, "head")
    for i in (0, 1):
        canvas.ellipse(j[3 + i], (0.07 * size, 0.1 * size), angle, look.skin, "head")
        canvas.ellipse(j[1 + i], (0.075 * size, 0.055 * size), angle, (250, 250, 248), None)
        canvas.ellipse(j[1 + i], (0.04 * size, 0.05 * size), angle, (40, 32, 30), None)
    shade = tuple(int(c * 0.78) for c in look.skin)
    canvas.ellipse(j[0], (0.045 * size, 0.07 * size), angle, shade, None)
    lips = (190, 60, 70) if look.female else (150, 85, 75)
    canvas.ellipse(j[0] - up * 0.17 * size, (0.11 * size, 0.035 * size), angle, lips, None)


def _hsv(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    return tuple(int(255 * c) for c in colorsys.hsv_to_rgb(hue % 1.0, saturation, value))
