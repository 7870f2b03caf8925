"""Paints one generated person on a small patch: premultiplied colour, alpha, body parts, joints
and face box."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from humanquery.data.scenes.people_shapes import FEMALE, Body, Color, Look, Pose, pose_body

PARTS = (
    "background", "face", "hair", "neck", "torso", "skirt", "left_upper_arm", "right_upper_arm",
    "left_forearm", "right_forearm", "left_thigh", "right_thigh", "left_shin", "right_shin",
)  # fmt: skip
"""Values of the part map; shins include feet, forearms hands, `neck` the ears"""

_FACE, _HAIR, _NECK, _TORSO, _SKIRT = 1, 2, 3, 4, 5
_UPPER_ARM, _FOREARM, _THIGH, _SHIN = (
    6,
    8,
    10,
    12,
)  # of the left side; the right one is the next number
_SHOWS_ON = (
    ((_FACE,),) * 3
    + ((_FACE, _HAIR, _NECK),) * 2
    + tuple((_TORSO, _UPPER_ARM + s, _HAIR, _NECK) for s in (0, 1))
    + tuple((_UPPER_ARM + s, _FOREARM + s) for s in (0, 1))
    + tuple((_FOREARM + s,) for s in (0, 1))
    + tuple((_TORSO, _SKIRT, _THIGH + s) for s in (0, 1))
    + tuple((_SKIRT, _THIGH + s, _SHIN + s) for s in (0, 1))
    + tuple((_SHIN + s, _SKIRT) for s in (0, 1))
)
_SHOWS = np.zeros((17, len(PARTS)), bool)
for _joint, _parts in enumerate(_SHOWS_ON):
    _SHOWS[_joint, list(_parts)] = True

_HALF_CIRCLE = np.stack(
    [np.cos(np.linspace(-np.pi / 2, np.pi / 2, 8)), np.sin(np.linspace(-np.pi / 2, np.pi / 2, 8))],
    1,
)
_CIRCLE = np.stack([np.cos(np.arange(20) * np.pi / 10), np.sin(np.arange(20) * np.pi / 10)], 1)
_FALLS = {
    "long": 1.9,
    "bob": 1.05,
    "ponytail": 2.0,
}  # how far long hair reaches, in halves of the head
_LIT = np.array([-0.3, -0.1])  # where the light comes from
_FINE = 2  # drawn this much larger, then shrunk by area: smooth edges


@dataclass(frozen=True, eq=False)
class Cutout:
    """Something painted on a transparent patch. `color` is premultiplied by `alpha` / 255."""

    color: UInt8[np.ndarray, "h w 3"]
    alpha: UInt8[np.ndarray, "h w"]
    foot: tuple[float, float]
    """the point that stands on the ground, px of the patch"""


@dataclass(frozen=True, eq=False)
class Figure(Cutout):
    """A painted person; everything in px of the patch."""

    look: Look
    parts: UInt8[np.ndarray, "h w"]
    """index into `PARTS`, zero exactly where alpha < 128"""
    joints: Float[np.ndarray, "17 2"]
    shows: Bool[np.ndarray, "17"]
    """joints that the body itself does not hide"""
    face_box: tuple[float, float, float, float] | None
    """xyxy, None when the face is turned away"""


class _Brush:
    """Draws shapes given in statures onto an enlarged RGB + part canvas."""

    def __init__(
        self, size: tuple[int, int], scale: float | int, origin: tuple[float | int, float | int]
    ):
        self.canvas = np.zeros((*size, 4), np.uint8)
        self.scale = scale
        self.origin = np.array(origin)
        self.edge = max(0.7, 0.006 * scale) / scale

    def fill(
        self, points: Float[np.ndarray, "n 2"], color: Color, part: int, convex: bool = True
    ) -> None:
        at = np.rint(((points * self.scale + self.origin) - 0.5) * 16).astype(np.int32)
        if convex:
            cv2.fillConvexPoly(self.canvas, at, (*color, part), cv2.LINE_8, 4)
        else:
            cv2.fillPoly(self.canvas, [at], (*color, part), cv2.LINE_8, 4)

    def outlined(
        self, points: np.ndarray, inner: np.ndarray, color: Color, part: int, convex: bool = True
    ) -> None:
        self.fill(points, tint(color, 0.68), part, convex)
        self.fill(inner, color, part, convex)

    def ball(
        self, center, rx: float, ry: float, color: Color, part: int, edge: bool = True
    ) -> None:
        points = center[:2] + _CIRCLE * (rx, ry)
        if not edge:
            return self.fill(points, color, part)
        self.outlined(points, center[:2] + _CIRCLE * (rx - self.edge, ry - self.edge), color, part)

    def limb(self, a, b, ra: float, rb: float, color: Color, part: int) -> None:
        """A tapered capsule with a dark edge and a lit side."""
        turned = _turned(a, b)
        self.fill(_capsule(a, b, ra, rb, turned), tint(color, 0.68), part)
        self.fill(_capsule(a, b, ra - self.edge, rb - self.edge, turned), color, part)
        self.fill(
            _capsule(a[:2] + _LIT * ra, b[:2] + _LIT * rb, ra * 0.45, rb * 0.45, turned),
            tint(color, 1.1),
            part,
        )


def capsule(a: np.ndarray, b: np.ndarray, ra: float, rb: float) -> Float[np.ndarray, "16 2"]:
    """Outline of two half circles of radii `ra` and `rb` about `a` and `b`, joined."""
    return _capsule(a, b, ra, rb, _turned(a, b))


def _turned(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, "8 2"]:
    """The half circle that looks from `a` to `b`."""
    x, y = float(b[0] - a[0]), float(b[1] - a[1])
    length = math.hypot(x, y)
    c, s = (x / length, y / length) if length > 1e-9 else (1.0, 0.0)
    return _HALF_CIRCLE @ np.array([[c, s], [-s, c]])


def _capsule(
    a: np.ndarray, b: np.ndarray, ra: float, rb: float, turned: np.ndarray
) -> Float[np.ndarray, "16 2"]:
    return np.concatenate([b[:2] + rb * turned, a[:2] - ra * turned])


def tint(color: Color, factor: float) -> Color:
    """Darker (below 1) or lighter by the same factor in all channels, so that hue and saturation
    stay."""
    factor = min(factor, 255 / max(*color, 1))
    return int(color[0] * factor), int(color[1] * factor), int(color[2] * factor)


def extent(body: Body, look: Look) -> tuple[float, float, float, float]:
    """xyxy in statures that surely holds the painted body."""
    at = np.stack(list(body.points.values()))[:, :2]
    b = look.build
    head = body.points["head"]
    x1, y1 = np.minimum(at.min(0) - 0.1, head[:2] - b.head * 1.6)
    x2, y2 = np.maximum(at.max(0) + 0.1, head[:2] + b.head * 1.6)
    return float(x1), float(y1), float(x2), float(max(y2, 0.04))


def paint(
    look: Look, pose: Pose, stature: float | int, shift: tuple[float, float] = (0.0, 0.0)
) -> Figure:
    """The person on its own patch, `stature` px tall when upright; `shift` (0..1 px) moves it
    inside the patch."""
    body = pose_body(look, pose)
    x1, y1, x2, y2 = extent(body, look)
    left, top = math.ceil(-x1 * stature), math.ceil(-y1 * stature)
    width, height = left + math.ceil(x2 * stature) + 1, top + math.ceil(y2 * stature) + 1
    origin = (left + shift[0], top + shift[1])
    brush = _Brush(
        (height * _FINE, width * _FINE), stature * _FINE, (origin[0] * _FINE, origin[1] * _FINE)
    )
    face = _paint_body(brush, look, body)
    return _finish(brush, look, body, stature, origin, face)


def _finish(
    brush: _Brush,
    look: Look,
    body: Body,
    stature: float | int,
    origin: tuple[float | int, float | int],
    face,
) -> Figure:
    fine = brush.canvas
    size = (fine.shape[1] // _FINE, fine.shape[0] // _FINE)
    covered = cv2.threshold(fine[..., 3], 0, 255, cv2.THRESH_BINARY)[1]
    alpha = cv2.resize(covered, size, interpolation=cv2.INTER_AREA)
    color = cv2.resize(fine, size, interpolation=cv2.INTER_AREA)[..., :3]
    blocks = np.maximum(fine[0::2, :, 3], fine[1::2, :, 3])
    parts = np.maximum(blocks[:, 0::2], blocks[:, 1::2]) * (alpha >= 128)
    joints = body.joints[:, :2] * stature + np.array(origin)
    box = None
    if face is not None:
        low, high = face.min(0) * stature + origin, face.max(0) * stature + origin
        box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    shows = _shows(parts, joints, body, look)
    return Figure(color, alpha, origin, look, parts, joints, shows, box)


def _shows(parts: np.ndarray, joints: np.ndarray, body: Body, look: Look) -> Bool[np.ndarray, "17"]:
    """A joint shows when it is not on the far side and the part on top there (or a pixel aside)
    is its own."""
    height, width = parts.shape
    x = np.clip(joints[:, 0].astype(int)[:, None] + [-1, 0, 1, -1, 0, 1, -1, 0, 1], 0, width - 1)
    y = np.clip(joints[:, 1].astype(int)[:, None] + [-1, -1, -1, 0, 0, 0, 1, 1, 1], 0, height - 1)
    on_top = _SHOWS[np.arange(17)[:, None], parts[y, x]].any(1)
    depth = body.joints[:, 2] - body.points["head"][2]
    near = np.ones(17, bool)
    near[:3] = depth[:3] > 0.12 * look.build.head
    near[3:5] = depth[3:5] > -0.5 * look.build.head
    for a in (5, 11):  # the far shoulder or hip of a person seen from the side
        apart = body.joints[a, 2] - body.joints[a + 1, 2]
        limit = 1.5 * (look.build.shoulder if a == 5 else look.build.hip * 0.6)
        near[a], near[a + 1] = apart > -limit, apart < limit
    return on_top & near


def _paint_body(brush: _Brush, look: Look, body: Body):
    p = body.points
    arm_depth = [
        (p[f"{s}_elbow"][2] + p[f"{s}_wrist"][2]) / 2 - p["chest"][2] for s in ("left", "right")
    ]
    knee_depth = [p[f"{s}_knee"][2] + 0.5 * p[f"{s}_ankle"][2] for s in ("left", "right")]
    for side in (0, 1):
        if arm_depth[side] <= 0:
            _arm(brush, look, body, side)
    sits_towards = max(knee_depth) > 0.12 and min(p["left_knee"][2], p["right_knee"][2]) > 0.08
    legs = sorted((0, 1), key=lambda side: knee_depth[side])
    if not sits_towards:
        _legs(brush, look, body, legs)
    _torso(brush, look, body)
    if sits_towards:
        _legs(brush, look, body, legs)
    face = _head(brush, look, body)
    for side in (0, 1):
        if arm_depth[side] > 0:
            _arm(brush, look, body, side)
    return face


def _arm(brush: _Brush, look: Look, body: Body, side: int) -> None:
    p, b, name = body.points, look.build, ("left", "right")[side]
    shoulder, elbow, wrist, hand = (
        p[f"{name}_{j}"] for j in ("shoulder", "elbow", "wrist", "hand")
    )
    r, upper, fore = b.arm_radius, _UPPER_ARM + side, _FOREARM + side
    brush.limb(elbow, wrist, r * 0.86, r * 0.72, look.skin, fore)
    brush.ball(hand, r * 0.9, r * 0.9, look.skin, fore)
    if look.sleeve < 0.5:
        brush.limb(shoulder, elbow, r, r * 0.86, look.skin, upper)
        brush.limb(
            shoulder,
            shoulder + (elbow - shoulder) * look.sleeve * 2,
            r * 1.15,
            r * 1.1,
            look.top,
            upper,
        )
        return
    if look.sleeve > 0.55:
        brush.limb(
            elbow,
            elbow + (wrist - elbow) * (look.sleeve * 2 - 1),
            r * 1.02,
            r * 0.95,
            look.top,
            fore,
        )
    brush.limb(shoulder, elbow, r * 1.15, r * 1.05, look.top, upper)


def _legs(brush: _Brush, look: Look, body: Body, order: list[int]) -> None:
    for side in order:
        _leg(brush, look, body, side)
    if look.lower != "trousers":
        _skirt(brush, look, body)


def _leg(brush: _Brush, look: Look, body: Body, side: int) -> None:
    p, b, name = body.points, look.build, ("left", "right")[side]
    hip, knee, ankle, toe = (p[f"{name}_{j}"] for j in ("hip", "knee", "ankle", "toe"))
    r, thigh, shin = b.leg_radius, _THIGH + side, _SHIN + side
    brush.limb(ankle, toe, r * 0.55, r * 0.5, look.shoes, shin)
    brush.limb(knee, ankle, r * 0.76, r * 0.52, look.skin, shin)
    if look.lower != "trousers":
        return brush.limb(hip, knee, r, r * 0.76, look.skin, thigh)
    if look.hem > 0.52:
        end = knee + (ankle - knee) * (look.hem * 2 - 1)
        brush.limb(knee, end, r * 0.86, r * 0.74, look.bottom, shin)
        brush.limb(hip, knee, r * 1.1, r * 0.88, look.bottom, thigh)
        return
    brush.limb(hip, knee, r, r * 0.76, look.skin, thigh)
    brush.limb(hip, hip + (knee - hip) * look.hem * 2, r * 1.1, r * 0.95, look.bottom, thigh)


def _skirt(brush: _Brush, look: Look, body: Body) -> None:
    p, b = body.points, look.build
    around = [p[f"{s}_hip"][:2] + _CIRCLE * (b.leg_radius * 0.95) for s in ("left", "right")]
    waist = p["pelvis"] + 0.3 * (p["chest"] - p["pelvis"])
    around.append(waist[:2] + _CIRCLE * (_half_width(body, b.waist, b.depth * 0.8), 0.02))
    for side in ("left", "right"):
        hip, knee, ankle = (p[f"{side}_{j}"] for j in ("hip", "knee", "ankle"))
        end = hip + (knee - hip) * min(look.hem * 2, 1) + (ankle - knee) * max(look.hem * 2 - 1, 0)
        out = np.sign(end[0] - waist[0]) * 0.03
        around.append(
            end[:2] + np.array([out, 0]) + _CIRCLE * (b.leg_radius * 1.05, b.leg_radius * 0.6)
        )
    hull = cv2.convexHull(np.concatenate(around).astype(np.float32))[:, 0]
    center = hull.mean(0)
    color = look.top if look.lower == "dress" else look.bottom
    brush.outlined(hull, center + (hull - center) * (1 - 1.5 * brush.edge / 0.1), color, _SKIRT)
    for fold in (-0.35, 0.3):
        low = (p["left_knee"][:2] + p["right_knee"][:2]) / 2 * 0.8 + waist[:2] * 0.2
        top = waist[:2] + np.array([fold * b.waist, 0])
        brush.fill(
            capsule(top, top + 0.55 * (low - waist[:2]) + (fold * 0.1, 0), 0.002, 0.008),
            tint(color, 0.86),
            _SKIRT,
        )


def _half_width(body: Body, width: float, depth: float) -> float:
    """What the camera sees of an oval slab `width` to the sides and `depth` to the front."""
    across, front = body.points["left_shoulder"] - body.points["right_shoulder"], 0.0
    front = abs(across[2]) / (np.linalg.norm(across) + 1e-9)
    return math.hypot(width * math.sqrt(max(1 - front**2, 0)), depth * front)


def _torso(brush: _Brush, look: Look, body: Body) -> None:
    p, b = body.points, look.build
    pelvis, chest = p["pelvis"][:2], p["chest"][:2]
    spine = chest - pelvis
    length = max(math.hypot(*spine), 1e-6)
    across = np.array([-spine[1], spine[0]]) / length
    side = math.sin(math.radians(body.yaw))
    levels = (
        (1.0, b.shoulder * 0.82, 0.75),
        (0.78, b.chest, 1.0),
        (0.36, b.waist, 1.0),
        (0.1, b.hip, 1.05),
        (-0.1, b.hip * 0.9, 0.9),
    )
    left, right, inner_left, inner_right = [], [], [], []
    for t, width, deep in levels:
        half = _half_width(body, width, b.depth * deep)
        belly = b.belly * side * (1.0 if 0.2 < t < 0.5 else 0.3)
        center = pelvis + spine * t + np.array([belly, 0])
        left.append(center - across * half)
        right.append(center + across * half)
        inner_left.append(center - across * (half - brush.edge))
        inner_right.append(center + across * (half - brush.edge))
    if look.lower == "trousers":  # the seat of the trousers, under the shirt
        half = _half_width(body, b.hip, b.depth)
        brush.limb(
            pelvis - across * (half - 0.05),
            pelvis + across * (half - 0.05),
            0.055,
            0.055,
            look.bottom,
            _TORSO,
        )
    r = b.arm_radius
    shoulders = (p["left_shoulder"], p["right_shoulder"])
    brush.limb(*shoulders, r * 1.15, r * 1.15, look.top, _TORSO)
    outline, inner = np.array(left + right[::-1]), np.array(inner_left + inner_right[::-1])
    brush.outlined(outline, inner, look.top, _TORSO, convex=False)
    lit = (
        (chest * 0.75 + pelvis * 0.25) - across * b.chest * 0.35,
        (chest * 0.3 + pelvis * 0.7) - across * b.waist * 0.35,
    )
    brush.fill(capsule(*lit, b.chest * 0.25, b.waist * 0.25), tint(look.top, 1.08), _TORSO)
    if look.pattern != "plain":
        _pattern(brush, look, outline, pelvis, spine / length, across, length)


def _pattern(brush: _Brush, look: Look, outline, pelvis, up, across, length: float) -> None:
    """Darkens stripes that follow the trunk; hue and saturation stay, since they tell gender and
    age."""
    at = outline * brush.scale + brush.origin
    (x1, y1), (x2, y2) = np.maximum(at.min(0).astype(int), 0), at.max(0).astype(int) + 1
    area = brush.canvas[y1:y2, x1:x2]
    origin = (brush.origin + pelvis * brush.scale).astype(np.float32)
    x = np.arange(x1, x1 + area.shape[1], dtype=np.float32)[None] - origin[0]
    y = np.arange(y1, y1 + area.shape[0], dtype=np.float32)[:, None] - origin[1]
    rate = np.float32(look.pattern_count / (length * brush.scale))
    along = ((x * np.float32(up[0]) + y * np.float32(up[1])) * rate) % 1 < 0.45
    aside = ((x * np.float32(across[0]) + y * np.float32(across[1])) * rate * 1.3) % 1 < 0.4
    dark = {"hoops": along, "stripes": aside, "checks": along ^ aside}[look.pattern] & (
        area[..., 3] == _TORSO
    )
    area[..., :3][dark] = (area[..., :3][dark] * 0.76).astype(np.uint8)


def _head(brush: _Brush, look: Look, body: Body):
    """Neck, hair and face; returns the outline of the face or None where it is turned away."""
    p, b, axes = body.points, look.build, body.head_axes
    head, r, w = p["head"], b.head, b.head_width
    front = axes[:, 2]
    away = front[2] < -0.25
    long_hair = look.hair_style in _FALLS
    if long_hair and not away:
        _curtain(brush, look, body)
    brush.limb(p["chest"], head, 0.3 * r + 0.012, 0.3 * r + 0.012, tint(look.skin, 0.86), _NECK)
    if look.hair_style == "bun":
        bun = head + axes @ np.array([0, 1.05 * r, -0.55 * w])
        brush.ball(bun, r * 0.42, r * 0.42, look.hair, _HAIR)
    brush.ball(head, w * 1.08, r * 1.06, look.hair, _HAIR)
    if look.hair_style == "quiff" and front[2] > 0:  # from behind it would pass for a bun
        brush.ball(
            head + axes @ np.array([0, 0.82 * r, 0.45 * w]), w * 0.6, r * 0.36, look.hair, _HAIR
        )
    face = _face_outline(look, head, axes, r, w)
    if face is not None:
        brush.outlined(face, head[:2] + (face - head[:2]) * 0.985, look.skin, _FACE)
        _features(brush, look, body)
    if not long_hair:
        for side in ("left", "right"):
            ear = p[f"{side}_ear"]
            if ear[2] - head[2] > -0.3 * w:
                brush.ball(ear, r * 0.14, r * 0.2, tint(look.skin, 0.93), _NECK)
    if long_hair and away:
        _curtain(brush, look, body)
    return face if face is not None and front[2] > 0.1 else None


def _curtain(brush: _Brush, look: Look, body: Body) -> None:
    """Hair that falls to the neck or the shoulders, on the far side of the face."""
    b, axes, head = look.build, body.head_axes, body.points["head"]
    r, w = b.head, b.head_width
    back = -axes[:2, 2] * 0.5 * w
    fall = _FALLS[look.hair_style]
    width = w * (0.4 if look.hair_style == "ponytail" else 1.02)
    if look.hair_style == "ponytail":
        back = -axes[:2, 2] * 1.1 * w
    start = head[:2] + back * 0.8
    end = start + np.array([back[0] * 0.3, r * fall])
    brush.limb(start, end, width, width * 0.85, look.hair, _HAIR)


def _face_outline(look: Look, head, axes, r: float, w: float) -> np.ndarray | None:
    """The part of the head's ball around the face direction that the camera sees."""
    opening = 68.0 if look.gender == FEMALE else 76.0
    angle = np.arange(24) * np.pi / 12
    c, s = math.cos(math.radians(opening)), math.sin(math.radians(opening))
    rim = np.stack([s * np.cos(angle), s * np.sin(angle), np.full(24, c)])
    tilt = math.radians(24)
    down = np.array(
        [[1, 0, 0], [0, math.cos(tilt), -math.sin(tilt)], [0, math.sin(tilt), math.cos(tilt)]]
    )
    seen = axes @ down @ rim  # on the unit ball
    if (axes @ down)[2, 2] < -0.3:
        return None
    flat = seen[:2].T
    behind = seen[2] < 0
    flat[behind] /= np.linalg.norm(flat[behind], axis=1, keepdims=True) + 1e-9
    outline = head[:2] + cv2.convexHull(flat.astype(np.float32))[:, 0] * (w, r)
    return outline if np.ptp(outline[:, 0]) > 0.25 * w else None


def _features(brush: _Brush, look: Look, body: Body) -> None:
    b, axes, p = look.build, body.head_axes, body.points
    head, r, w = p["head"], b.head, b.head_width

    def on_face(x: float, y: float) -> np.ndarray | None:
        z = math.sqrt(max(1 - x * x - y * y, 0.0))
        at = axes @ np.array([x * w, y * r, z * w])
        return (head + at) if at[2] > 0.1 * w else None

    def dab(x: float, y: float, rx: float, ry: float, color: Color) -> None:
        at = on_face(x, y)
        if at is not None:
            brush.ball(at, rx * r, ry * r, color, _FACE, edge=False)

    young, old = max(0.0, 1 - look.age / 25), max(0.0, (look.age - 40) / 44)
    if look.beard:
        for x in (-0.42, 0.0, 0.42):
            dab(x, -0.66 + abs(x) * 0.3, 0.36, 0.26, look.hair)
    for x in (-0.48, 0.48):
        dab(
            x,
            -0.25,
            0.17,
            0.12,
            (tint(look.skin, 0.97)[0], *tint(look.skin, 0.97 - 0.22 * young)[1:]),
        )
        dab(x * 0.95, -0.04, 0.2, 0.05, tint(look.skin, 1 - 0.3 * old))  # bags under the eyes
        dab(x * 0.77, 0.38, 0.15, 0.035, tint(look.hair, 0.8))
        dab(x * 0.77, 0.12, 0.15, 0.14, (250, 250, 250))
        dab(x * 0.77, 0.11, 0.09, 0.11, (40, 30, 30))
    if old > 0:
        dab(0.0, 0.52, 0.4, 0.035, tint(look.skin, 1 - 0.3 * old))
        dab(0.0, 0.64, 0.34, 0.03, tint(look.skin, 1 - 0.3 * old))
    brush.ball(p["nose"], r * 0.1, r * 0.13, tint(look.skin, 0.84), _FACE, edge=False)
    lips = (200, 50, 70) if look.gender == FEMALE else tint(look.skin, 0.6)
    under = look.hair if look.beard else look.skin
    dab(0.0, -0.44, 0.24, 0.13, lips)  # a smile: the lower half of an oval
    dab(0.0, -0.37, 0.25, 0.09, under)
    if look.glasses:
        _glasses(brush, on_face(-0.37, 0.12), on_face(0.37, 0.12), r)


def _glasses(brush: _Brush, left, right, r: float) -> None:
    at = [
        ((e[:2] * brush.scale + brush.origin - 0.5) * 16).astype(int)
        for e in (left, right)
        if e is not None
    ]
    radius, thick = int(r * 0.26 * brush.scale * 16), max(1, int(r * brush.scale * 0.05))
    for eye in at:
        cv2.circle(brush.canvas, eye.tolist(), radius, (35, 35, 45, _FACE), thick, cv2.LINE_8, 4)
    if len(at) == 2:
        cv2.line(
            brush.canvas, at[0].tolist(), at[1].tolist(), (35, 35, 45, _FACE), thick, cv2.LINE_8, 4
        )
