"""People painted onto their picture, legible from a thumbnail to 4K."""

import colorsys
import itertools
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from humanquery.core.persons import Persons
from humanquery.core.skeleton import Skeleton

# side colours that stay apart for colour-blind eyes (Okabe and Ito)
SIDES = {"left": (0, 158, 255), "right": (255, 140, 0), "middle": (245, 245, 245)}
Color = tuple[int, int, int]
PALE, PINK, GREEN, SKY, RED = (
    (255, 240, 170),
    (255, 130, 190),
    (90, 220, 140),
    (120, 200, 255),
    (255, 90, 90),
)
# thumb, index, middle, ring, little finger: neighbours differ for colour-blind eyes too
FINGERS = ((255, 140, 0), (240, 228, 66), (0, 200, 140), (86, 180, 233), (204, 121, 167))
_HAND = tuple((color, (0, *range(1 + 4 * i, 5 + 4 * i))) for i, color in enumerate(FINGERS))
"""colour and joints of each finger, from the root of the hand"""
_FACE = (
    (PALE, tuple(range(17))),
    (GREEN, tuple(range(17, 22))),
    (GREEN, tuple(range(22, 27))),
    (PINK, (*range(27, 31), 33)),
    (PINK, tuple(range(31, 36))),
    (SKY, (*range(36, 42), 36)),
    (SKY, (*range(42, 48), 42)),
    (RED, (*range(48, 60), 48)),
    (RED, (*range(60, 68), 60)),
)
"""jaw, brows, nose, eyes, mouth among the 68 points"""
MIN_PIXELS_FOR_JOINTS = 24
MIN_PIXELS_FOR_RIMS = 64
"""smaller people get bare limbs: dark rims and dots would be all that is seen of them"""
MIN_PIXELS_FOR_LABEL = 14
WIDEST_LABEL = 1.1
"""in longest sides of the box"""
MIN_PIXELS_FOR_PARTS, MIN_PIXELS_FOR_PART_DOTS, MIN_PIXELS_FOR_PART_RIMS = 14, 6, 48
"""extent of a face or hand from which its lines can be told apart, its dots, and lines with dark
rims"""
DARK = (20, 20, 20)
MAX_LABELS = 40


KEYPOINT_THRESHOLD = 0.35
"""joint score up to which joints are not drawn: for hqnet-small the share of the joints that
annotators saw less the share of those that they could not place is largest here (EXPERIMENTS.md,
2026-11-29)"""


def draw(
    image: UInt8[np.ndarray, "h w 3"] | str | Path,
    persons: Persons,
    *,
    masks: bool = True,
    boxes: bool = True,
    keypoints: bool = True,
    labels: bool = True,
    attributes: bool = True,
    keypoint_threshold: float = KEYPOINT_THRESHOLD,
) -> UInt8[np.ndarray, "h w 3"]:
    """A copy of the picture (RGB array or path) with these people painted on.

    Large people are painted first, so that small ones stay visible; lines and letters grow with the
    picture and with each person. Left joints are blue, right ones orange; joints that score up to
    `keypoint_threshold` are left out (they cannot be seen, or nobody knows where they are). Labels
    say apparent gender and age (unless `attributes` is off) and the score; where there is no room
    they are left out.
    """
    if isinstance(image, str | Path):
        from humanquery.media.images import read_image

        image = read_image(image)
    canvas = np.ascontiguousarray(image).copy()
    if not len(persons):
        return canvas
    persons = persons.to("cpu")
    order = _largest_first(persons)
    for i in order:
        color = person_color(_identity(persons, i))
        if masks and persons.masks is not None:
            _paint_mask(canvas, persons.masks[i].cpu().numpy(), color)
    for i in order:
        color = person_color(_identity(persons, i))
        if boxes:
            _paint_box(canvas, persons.boxes[i], color, _line(canvas, persons.boxes[i]))
        if keypoints and persons.keypoints is not None:
            _paint_skeleton(canvas, persons, i, keypoint_threshold)
    return _paint_labels(canvas, persons, order, attributes) if labels else canvas


def person_color(identity: int) -> tuple[int, int, int]:
    """A stable, saturated colour; neighbours in number are far apart in hue."""
    hue = (identity * 0.61803398875 + 0.02) % 1.0
    return tuple(int(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.72, 0.98))


def _identity(persons: Persons, i: int) -> int:
    return int(persons.track_ids[i]) if persons.track_ids is not None else i


def _largest_first(persons: Persons) -> list[int]:
    sides = persons.boxes[:, 2:] - persons.boxes[:, :2]
    return (-(sides[:, 0] * sides[:, 1])).argsort().tolist()


def _line(canvas: np.ndarray, box: Tensor) -> int:
    """Line width in px: grows with the picture, thinner on small people."""
    picture = max(canvas.shape[:2]) / 420
    person = float((box[2:] - box[:2]).max()) / 90
    return max(1, round(min(picture, max(person, 0.5))))


def _points(box: Tensor, canvas: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    height, width = canvas.shape[:2]
    x1, y1, x2, y2 = (float(v) for v in box)
    clip = lambda value, limit: int(min(max(round(value), 0), limit - 1))  # noqa: E731
    return (clip(x1, width), clip(y1, height)), (clip(x2, width), clip(y2, height))


def _paint_mask(canvas: np.ndarray, mask: np.ndarray, color: tuple[int, int, int]) -> None:
    columns, lines = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(columns):
        return
    window = np.s_[lines[0] : lines[-1] + 1, columns[0] : columns[-1] + 1]
    inside, part = mask[window], canvas[window]
    part[inside] = (part[inside] * 0.62 + np.array(color) * 0.38).astype(np.uint8)
    rings, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    part = np.ascontiguousarray(part)
    cv2.drawContours(
        part, rings, -1, color, max(1, round(max(canvas.shape[:2]) / 700)), cv2.LINE_AA
    )
    canvas[window] = part


def _paint_box(canvas: np.ndarray, box: Tensor, color: tuple[int, int, int], width: int) -> None:
    first, last = _points(box, canvas)
    cv2.rectangle(canvas, first, last, color, max(1, width // 2), cv2.LINE_AA)


def _paint_skeleton(canvas: np.ndarray, persons: Persons, i: int, threshold: float) -> None:
    box = persons.boxes[i]
    if float((box[2:] - box[:2]).max()) < MIN_PIXELS_FOR_JOINTS:
        return
    skeleton = persons.skeleton
    if persons.keypoint_scores is None:
        shown = [True] * len(skeleton)
    else:
        shown = (persons.keypoint_scores[i] > threshold).tolist()
    joints = persons.keypoints[i] - 0.5
    points = [(round(x * 16), round(y * 16)) for x, y in joints.tolist()]
    fine = {k for span in _fine_spans(skeleton).values() for k in range(*span)}
    width = _line(canvas, box)
    rim = 0 if float((box[2:] - box[:2]).max()) < MIN_PIXELS_FOR_RIMS else 1
    for a, b in skeleton.limbs:
        if shown[a] and shown[b] and not (a in fine and b in fine):
            sides = {skeleton.side(a), skeleton.side(b)}
            color = SIDES[sides.pop() if len(sides) == 1 else "middle"]
            if rim:
                cv2.line(canvas, points[a], points[b], DARK, width + 2, cv2.LINE_AA, 4)
            cv2.line(canvas, points[a], points[b], color, width, cv2.LINE_AA, 4)
    for part, (first, last) in _fine_spans(skeleton).items():
        lines = _FACE if part == "face" else _HAND
        span = [k for k in range(first, last) if shown[k]]
        if 2 * len(span) >= last - first:  # half of a face or hand is no shape
            _paint_part(canvas, points, first, set(span), lines, width)
    for k, point in enumerate(points):
        if shown[k] and rim and k not in fine:
            radius = round((width * 0.6 + 0.8) * 16)
            cv2.circle(canvas, point, radius + 10, DARK, -1, cv2.LINE_AA, 4)
            cv2.circle(canvas, point, radius, SIDES[skeleton.side(k)], -1, cv2.LINE_AA, 4)


def _fine_spans(skeleton: Skeleton) -> dict[str, tuple[int, int]]:
    """Face and hands, whose points lie too close for a body's lines and dots."""
    names = ("face", "lefthand", "righthand")
    return {name: skeleton.parts[name] for name in names if name in skeleton.parts}


def _paint_part(
    canvas: np.ndarray,
    points: list[tuple[int, int]],
    first: int,
    shown: set[int],
    lines: tuple[tuple[Color, tuple[int, ...]], ...],
    body_width: int,
) -> None:
    """Lines of a face or hand, thinner on small ones; below `MIN_PIXELS_FOR_PARTS` only dots."""
    places = np.array([points[k] for k in shown], float) / 16
    extent = float(np.ptp(places, axis=0).max())
    width = max(1, min(round(extent / 40), body_width))
    for color, run in lines:
        joints = [first + k for k in run]
        for a, b in itertools.pairwise(joints):
            if extent >= MIN_PIXELS_FOR_PARTS and a in shown and b in shown:
                if extent >= MIN_PIXELS_FOR_PART_RIMS:
                    cv2.line(canvas, points[a], points[b], DARK, width + 2, cv2.LINE_AA, 4)
                cv2.line(canvas, points[a], points[b], color, width, cv2.LINE_AA, 4)
        for k in joints:
            if k in shown and extent >= MIN_PIXELS_FOR_PART_DOTS:
                radius = round(16 * max(0.7, min(extent / 70, width * 0.8)))
                cv2.circle(canvas, points[k], radius, color, -1, cv2.LINE_AA, 4)


def label_of(persons: Persons, i: int, *, attributes: bool = True) -> str:
    """What is written beside a person, for instance `#3 woman 34 · 0.92`."""
    words = []
    if persons.track_ids is not None:
        words.append(f"#{int(persons.track_ids[i])}")
    for name, spec in persons.all_specs().items():
        values = persons.get(name)
        if values is not None and spec.label and (attributes or not spec.attribute):
            words.append(spec.text(float(values[i])))
    score = f"{float(persons.scores[i]):.2f}"
    return f"{' '.join(words)} · {score}" if words else score


def _paint_labels(
    canvas: np.ndarray, persons: Persons, order: list[int], attributes: bool
) -> np.ndarray:
    """Best scores first; a label goes above, into or below its box, or nowhere."""
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    taken: list[tuple[float, float, float, float]] = []
    written = 0
    for i in sorted(order, key=lambda k: -float(persons.scores[k])):
        box = persons.boxes[i].tolist()
        if max(box[2] - box[0], box[3] - box[1]) < MIN_PIXELS_FOR_LABEL or written >= MAX_LABELS:
            continue
        size = min(max(9.0, max(canvas.shape[:2]) / 45), max(9.0, (box[2] - box[0]) / 5))
        font = ImageFont.load_default(round(size))
        text = label_of(persons, i, attributes=attributes)
        width, height = pen.textlength(text, font) + 0.5 * size, 1.3 * size
        too_wide = width > WIDEST_LABEL * max(box[2] - box[0], box[3] - box[1])
        place = None if too_wide else _free_place(box, width, height, canvas.shape[:2], taken)
        if place is None:
            continue
        taken.append(place)
        written += 1
        color = person_color(_identity(persons, i))
        pen.rectangle(place, fill=color)
        dark = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
        pen.text(
            (place[0] + 0.25 * size, place[1] + 0.05 * size),
            text,
            (0, 0, 0) if dark else (255, 255, 255),
            font,
        )
    return np.array(picture)


def _free_place(
    box: list[float], width: float, height: float, size: tuple[int, int], taken: list
) -> tuple[float, float, float, float] | None:
    x = min(max(box[0], 0.0), max(size[1] - width, 0.0))
    for y in (box[1] - height, box[1], box[3] - height, box[3]):
        place = (x, y, x + width, y + height)
        inside = y >= 0 and place[3] <= size[0] and place[2] <= size[1]
        if inside and all(_apart(place, other) for other in taken):
            return place
    return None


def _apart(a: tuple, b: tuple) -> bool:
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def draw_attention(
    image: UInt8[np.ndarray, "h w 3"],
    persons: Persons,
    points: Float[Tensor, "n s 2"],
    weights: Float[Tensor, "n s"],
) -> UInt8[np.ndarray, "h w 3"]:
    """Where each person's query samples the picture: red dots with white rims, stronger with more
    weight (Figure A5 of the HQNet paper)."""
    canvas = draw(image, persons, masks=False, keypoints=False, labels=False)
    radius = max(1, round(max(canvas.shape[:2]) / 200))
    for places, shares in zip(points.cpu(), weights.cpu(), strict=True):
        strength = (shares / shares.max().clamp(min=1e-6)).tolist()
        for (x, y), share in sorted(
            zip(places.tolist(), strength, strict=True), key=lambda pair: pair[1]
        ):
            _paint_dot(canvas, x, y, radius, 0.25 + 0.75 * share)
    return canvas


def _paint_dot(canvas: np.ndarray, x: float, y: float, radius: int, strength: float) -> None:
    """`strength` 0..1 is how much the dot covers; places outside the picture are left out."""
    column, line, reach = int(x), int(y), 2 * radius + 2
    window = np.s_[
        max(line - reach, 0) : line + reach + 1, max(column - reach, 0) : column + reach + 1
    ]
    part = canvas[window]
    if column < -reach or line < -reach or not part.size:
        return
    layer = part.copy()
    center = round((x - window[1].start) * 16 - 8), round((y - window[0].start) * 16 - 8)
    cv2.circle(layer, center, round(radius * 1.5) * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
    cv2.circle(layer, center, radius * 16, (255, 30, 30), -1, cv2.LINE_AA, 4)
    canvas[window] = cv2.addWeighted(layer, strength, part, 1 - strength, 0)
