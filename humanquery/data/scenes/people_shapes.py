"""How a generated person looks (gender, age, clothes, proportions) and stands (poses, the body
in space).

Lengths are in statures (standing height = 1). Body axes: x to the person's left, y up, z to the
person's front; seen by the camera: x right, y down, z towards the camera.

Gender and age show in several cues at once, so that a half-hidden person still tells them:
gender in hair, shoulders / waist / hips, skirts and the hue of clothes; age in head size (up to
20), hair colour (blond, dark, grey, white), saturation of clothes, lightness of shoes, lengths
of sleeves and hems, girth and stoop.
"""

import colorsys
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Color = tuple[int, int, int]  # RGB

MALE, FEMALE = 0, 1
YOUNGEST, OLDEST = 1, 84
POSES = ("stand", "walk", "run", "wave", "cheer", "hips", "reach", "sit")
VIEWS = {"front": 0.5, "side": 0.3, "back": 0.2}
"""and how often each is seen"""

_HAIR_BY_AGE = (
    (1, (238, 200, 112)),
    (10, (160, 112, 58)),
    (20, (52, 32, 22)),
    (52, (142, 140, 138)),
    (84, (248, 248, 250)),
)
_SKIN_LIGHT, _SKIN_DARK = (244, 206, 180), (118, 76, 52)
_LONG_HAIR = ("long", "bob", "ponytail", "bun")
_PATTERNS = ("plain", "plain", "hoops", "stripes", "checks")


@dataclass(frozen=True)
class Build:
    """Lengths and half-widths of one body, in statures."""

    head: float
    """half the height of the head"""
    head_width: float
    neck: float
    torso: float
    leg: float
    arm: float
    foot: float
    shoulder: float
    chest: float
    waist: float
    hip: float
    depth: float
    """half the front-to-back depth of the trunk"""
    belly: float
    arm_radius: float
    leg_radius: float
    stoop: float
    """forward bend of the trunk at rest, degrees"""


@dataclass(frozen=True)
class Look:
    """Everything that stays the same about one identity."""

    identity: int
    gender: int
    age: int
    build: Build
    skin: Color
    hair: Color
    hair_style: str
    beard: bool
    glasses: bool
    top: Color
    bottom: Color
    shoes: Color
    pattern: str
    pattern_count: float
    """stripes per length of the trunk"""
    lower: str
    """trousers, skirt or dress"""
    sleeve: float
    """covered part of the arm, 0..1"""
    hem: float
    """covered part of the leg, 0..1"""


@dataclass(frozen=True)
class Pose:
    """Joint angles in degrees; pairs are (left, right). Flexion swings forward, abduction out to
    the side."""

    name: str = "stand"
    yaw: float = 0.0
    """0 faces the camera, 90 the right edge of the picture, 180 away from it, 270 the left edge
    """
    roll: float = 0.0
    """turn in the picture plane"""
    bend: float = 0.0
    lean: float = 0.0
    head_yaw: float = 0.0
    nod: float = 0.0
    arm_flex: tuple[float, float] = (0.0, 0.0)
    arm_out: tuple[float, float] = (10.0, 10.0)
    elbow: tuple[float, float] = (10.0, 10.0)
    elbow_in: tuple[float, float] = (0.0, 0.0)
    """bend of the elbow in the plane of the chest (hands on hips, waving)"""
    leg_flex: tuple[float, float] = (0.0, 0.0)
    leg_out: tuple[float, float] = (4.0, 4.0)
    knee: tuple[float, float] = (0.0, 0.0)


def sample_look(rng: np.random.Generator, identity: int = 0) -> Look:
    """A random identity; gender even, age uniform over `YOUNGEST`..`OLDEST`."""
    gender = int(rng.integers(2))
    age = int(rng.integers(YOUNGEST, OLDEST + 1))
    years = (age - YOUNGEST) / (OLDEST - YOUNGEST)
    woman = gender == FEMALE
    saturation = 0.95 - 0.68 * years
    lower = (
        ("skirt", "dress", "trousers")[int(rng.choice(3, p=(0.4, 0.35, 0.25)))]
        if woman
        else "trousers"
    )
    hem = 0.55 + 0.42 * years if lower == "trousers" else 0.36 + 0.4 * years
    return Look(
        identity=identity,
        gender=gender,
        age=age,
        build=_build(gender, age, float(rng.normal(1.0, 0.04))),
        skin=_mix(_SKIN_LIGHT, _SKIN_DARK, float(rng.random()) ** 1.6),
        hair=_jitter(rng, _hair_color(age), 4.0),
        hair_style=_LONG_HAIR[int(rng.integers(4))]
        if woman
        else ("short", "crew", "quiff")[int(rng.integers(3))],
        beard=not woman and age > 22 and rng.random() < 0.4,
        glasses=bool(rng.random() < 0.15),
        top=_cloth(rng, woman, saturation, (0.62, 0.95)),
        bottom=_cloth(rng, woman, saturation, (0.35, 0.7)),
        shoes=_hsv(float(rng.random()), 0.15, 0.12 + 0.8 * years),
        pattern=_PATTERNS[int(rng.integers(len(_PATTERNS)))],
        pattern_count=float(rng.uniform(3, 6)),
        lower=lower,
        sleeve=float(np.clip(0.2 + 0.75 * years + rng.normal(0, 0.02), 0.15, 1.0)),
        hem=float(np.clip(hem + rng.normal(0, 0.02), 0.3, 1.0)),
    )


def _build(gender: int, age: int, girth: float) -> Build:
    grown = min((age - 1) / 19, 1.0) ** 0.9
    senior = max(age - 20, 0) / 64
    heads = 3.3 + 3.1 * grown - 0.35 * senior
    head = 0.5 / heads
    rest = 1 - 2 * head - 0.065
    leg = rest * (0.5 + 0.06 * grown)
    shape = 0.45 + 0.55 * grown  # how far the two genders have parted
    man = 1.0 if gender == MALE else -1.0
    girth = girth * (1 + 0.18 * senior)
    return Build(
        head=head,
        head_width=head * (0.94 - 0.12 * grown),
        neck=0.02 + 0.015 * grown,
        torso=rest - leg,
        leg=leg,
        arm=0.46 * rest,
        foot=0.085,
        shoulder=0.118 + 0.020 * man * shape,
        chest=(0.112 + 0.016 * man * shape) * girth,
        waist=(0.092 + 0.014 * man * shape) * girth + 0.03 * senior,
        hip=(0.104 - 0.016 * man * shape) * girth + 0.012 * senior,
        depth=0.078 * girth,
        belly=0.01 + 0.035 * senior + 0.012 * (1 - grown),
        arm_radius=0.034 * girth,
        leg_radius=0.054 * girth,
        stoop=max(age - 45, 0) * 0.6,
    )


def _hair_color(age: int) -> Color:
    ages = [a for a, _ in _HAIR_BY_AGE]
    return tuple(int(np.interp(age, ages, [c[i] for _, c in _HAIR_BY_AGE])) for i in range(3))


def _cloth(
    rng: np.random.Generator, woman: bool, saturation: float, values: tuple[float, float]
) -> Color:
    """Warm hues on women and cool ones on men, with rare exceptions."""
    warm = woman == (rng.random() < 0.97)
    hue = rng.uniform(0.80, 1.10) if warm else rng.uniform(0.30, 0.68)
    return _hsv(
        float(hue) % 1,
        float(np.clip(saturation + rng.normal(0, 0.015), 0.15, 0.97)),
        float(rng.uniform(*values)),
    )


def sample_pose(
    rng: np.random.Generator,
    look: Look,
    names: tuple[str, ...] = POSES,
    views: tuple[str, ...] = tuple(VIEWS),
) -> Pose:
    """A random posture among `names` (see `POSES`) in one of `views`; elderly people do not run."""
    name = names[int(rng.integers(len(names)))]
    if name == "run" and look.age > 65:
        name = "walk"
    u = rng.uniform(-1, 1, 12)
    angles = _posture(name, u, float(rng.uniform(0, 2 * math.pi)))
    yaws = {
        "front": 40 * u[0],
        "side": math.copysign(75 + 25 * u[1], u[0]),
        "back": 180 + 40 * u[0],
    }
    bounds = np.cumsum([VIEWS[view] for view in views])
    yaw = yaws[views[int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right"))]]
    return Pose(
        name=name,
        yaw=yaw % 360,
        roll=5 * u[2],
        lean=5 * u[3],
        head_yaw=25 * u[4],
        nod=8 * u[5],
        **with_stoop(angles, look),
    )


def walking_pose(look: Look, phase: float, yaw: float) -> Pose:
    """The pose at `phase` (radians, two steps a turn) of a walk heading to `yaw`."""
    return Pose(
        name="walk", yaw=yaw % 360, **with_stoop(_posture("walk", np.zeros(12), phase), look)
    )


def with_stoop(angles: dict, look: Look) -> dict:
    return angles | {"bend": angles.get("bend", 0.0) + look.build.stoop}


def _posture(name: str, u: np.ndarray, phase: float) -> dict:
    """Angles of a posture; `u` are twelve numbers in -1..1 that vary it, `phase` the moment of a
    gait."""
    swing = math.sin(phase)
    lift = max(math.cos(phase), 0.0), max(-math.cos(phase), 0.0)
    if name in ("walk", "run"):
        wide, knee, elbow = (28, 45, 25) if name == "walk" else (45, 85, 80)
        return {
            "leg_flex": (wide * swing + 8 * lift[0], -wide * swing + 8 * lift[1]),
            "knee": (8 + knee * lift[0], 8 + knee * lift[1]),
            "arm_flex": (-wide * 0.9 * swing, wide * 0.9 * swing),
            "arm_out": (12.0, 12.0),
            "elbow": (elbow + 10 * u[6], elbow + 10 * u[7]),
            "bend": 4.0 if name == "walk" else 12.0,
        }
    legs = {"leg_out": (6 + 4 * u[6], 6 + 4 * u[7]), "leg_flex": (5 * u[8], 5 * u[9])}
    if name == "wave":
        raised = (150 + 20 * u[8], 12.0) if u[9] > 0 else (12.0, 150 + 20 * u[8])
        return legs | {"arm_out": raised, "elbow_in": (18 * u[10], 18 * u[10])}
    if name == "cheer":
        return legs | {
            "arm_out": (145 + 25 * u[8], 145 + 25 * u[10]),
            "elbow_in": (15 * u[9], 15 * u[11]),
            "leg_out": (10.0, 10.0),
        }
    if name == "hips":
        return legs | {
            "arm_out": (45 + 5 * u[8], 45 + 5 * u[9]),
            "elbow_in": (-95.0, -95.0),
            "elbow": (5.0, 5.0),
        }
    if name == "reach":
        return legs | {
            "arm_flex": (55 + 30 * u[8], 55 + 30 * u[10]),
            "elbow": (25 + 25 * u[9], 25 + 25 * u[11]),
        }
    if name == "sit":
        return {
            "leg_flex": (80 + 6 * u[6], 80 + 6 * u[7]),
            "knee": (80 + 12 * u[8], 80 + 12 * u[9]),
            "leg_out": (9.0, 9.0),
            "arm_flex": (25 + 10 * u[10], 25 + 10 * u[11]),
            "elbow": (45.0, 45.0),
            "bend": 4.0,
        }
    return legs | {
        "arm_out": (14 + 8 * u[10], 14 + 8 * u[11]),
        "elbow": (12 + 10 * u[8], 12 + 10 * u[9]),
    }


_PITCH = 0.16  # the camera looks down a little: what is nearer stands lower in the picture
_POINTS = (
    "nose left_eye right_eye left_ear right_ear "
    "left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist "
    "left_hip right_hip left_knee right_knee left_ankle right_ankle left_hand right_hand left_toe "
    "right_toe "
    "pelvis chest head"
).split()


@dataclass(frozen=True, eq=False)
class Body:
    """A posed body as the camera sees it. `points`: x, y (down), z (towards the camera) by name;
    feet at y 0."""

    points: dict[str, Float[np.ndarray, "3"]]
    joints: Float[np.ndarray, "17 3"]
    head_axes: Float[np.ndarray, "3 3"]
    """columns: the head's left, up and front as the camera sees them"""
    yaw: float


def pose_body(look: Look, pose: Pose) -> Body:
    """The body of `look` in `pose`, projected in parallel by a camera that looks down a little."""
    b = look.build
    spine = _direction(pose.bend, pose.lean)
    chest = b.torso * spine
    neck = _direction(min(pose.bend * 1.2, 45) + pose.nod * 0.3, pose.lean)
    head = chest + (b.neck + b.head * 0.96) * neck
    turn = _yaw_matrix(pose.head_yaw) @ _nod_matrix(pose.nod + 0.25 * pose.bend)
    size = np.array([b.head_width, b.head, b.head_width])
    face = np.array(
        [
            [0, -0.1, 1.0],
            [0.37, 0.12, 0.88],
            [-0.37, 0.12, 0.88],
            [0.98, 0, -0.05],
            [-0.98, 0, -0.05],
        ]
    )
    at = [head + turn @ (f * size) for f in face]
    limbs = [_limb_points(b, pose, side, chest) for side in (0, 1)]
    for joint in range(3):  # shoulder, elbow, wrist
        at += [limbs[0][joint], limbs[1][joint]]
    for joint in range(4, 7):  # hip, knee, ankle
        at += [limbs[0][joint], limbs[1][joint]]
    at += [limbs[0][3], limbs[1][3], limbs[0][7], limbs[1][7], np.zeros(3), chest, head]
    camera = _camera(pose.yaw, pose.roll)
    seen = np.stack(at) @ camera.T
    seen[:, 1] -= max(seen[15:17, 1].max() + 0.03, seen[19:21, 1].max())
    return Body(
        dict(zip(_POINTS, seen, strict=True)), seen[:17], camera @ turn, pose.yaw + pose.head_yaw
    )


def _limb_points(b: Build, pose: Pose, i: int, chest: np.ndarray) -> list[np.ndarray]:
    """Shoulder, elbow, wrist, hand, hip, knee, ankle, toe of the left (0) or right (1) side."""
    side = 1 - 2 * i
    mirror = np.array([side, 1, 1])
    shoulder = chest + np.array([side * (b.shoulder - 0.3 * b.arm_radius), -0.3 * b.arm_radius, 0])
    elbow = shoulder + 0.5 * b.arm * mirror * _hang(pose.arm_flex[i], pose.arm_out[i])
    fore = mirror * _hang(pose.arm_flex[i] + pose.elbow[i], pose.arm_out[i] + pose.elbow_in[i])
    wrist = elbow + 0.46 * b.arm * fore
    hip = np.array([side * max(b.hip - 0.95 * b.leg_radius, 0.03), -0.01, 0])
    knee = hip + 0.5 * b.leg * mirror * _hang(pose.leg_flex[i], pose.leg_out[i])
    shin = mirror * _hang(pose.leg_flex[i] - pose.knee[i], pose.leg_out[i] * 0.5)
    ankle = knee + 0.5 * b.leg * shin
    toe_down = math.radians(pose.leg_flex[i] - pose.knee[i])
    toe = ankle + b.foot * np.array(
        [side * 0.25, -0.25 + math.sin(toe_down) * 0.6, max(math.cos(toe_down), 0.3)]
    )
    return [shoulder, elbow, wrist, wrist + 0.06 * b.arm * fore, hip, knee, ankle, toe]


def _hang(flex: float, out: float) -> np.ndarray:
    """Unit vector of a hanging limb (left side) swung forward by `flex` and out by `out`
    degrees."""
    f, o = math.radians(flex), math.radians(out)
    return np.array([math.sin(o), -math.cos(o) * math.cos(f), math.cos(o) * math.sin(f)])


def _direction(bend: float, lean: float) -> np.ndarray:
    f, o = math.radians(bend), math.radians(lean)
    return np.array([math.sin(o), math.cos(o) * math.cos(f), math.cos(o) * math.sin(f)])


def _yaw_matrix(degrees: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _nod_matrix(degrees: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _camera(yaw: float, roll: float) -> np.ndarray:
    c, s = math.cos(math.radians(roll)), math.sin(math.radians(roll))
    flat = np.array([[1, 0, 0], [0, -1, _PITCH], [0, 0, 1]])
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ flat @ _yaw_matrix(yaw)


def _mix(a: Color, b: Color, t: float) -> Color:
    return tuple(int(x + (y - x) * t) for x, y in zip(a, b, strict=True))


def _jitter(rng: np.random.Generator, color: Color, sigma: float) -> Color:
    return tuple(int(c) for c in np.clip(np.array(color) + rng.normal(0, sigma), 0, 255))


def _hsv(hue: float, saturation: float, value: float) -> Color:
    return tuple(int(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value))
