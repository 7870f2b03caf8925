"""Feet, face and hands of people whose body joints are labelled, guessed by MediaPipe's networks:
labels to learn `wholebody-small` from where nobody drew any.

python -m benchmarks.whole_body_teachers people/train.json --models MODELS --out train.jsonl

`MODELS` holds pose_landmark_full, face_landmark and hand_landmark_full (.tflite, Apache-2.0; in
the PyPI wheel `mediapipe`); they run by `ai-edge-litert`. One line per person, largest first; a run
goes on where it was stopped. A guess is kept only where the network is sure and agrees with the
labelled body; `--least-size` px of the longer side of a box. `--join out.json lines.jsonl ...`
writes them as a COCO-WholeBody file beside the labelled body joints.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from jaxtyping import Float

from humanquery.core.affine import Affine2D
from humanquery.core.crops import crop_matrix
from humanquery.media.images import read_image

LEAST_FACE, LEAST_HAND, LEAST_FOOT = 0.8, 0.8, 0.6
"""probabilities below which a guess is thrown away"""
FACE_68 = (
    "162 234 93 58 172 136 149 148 152 377 378 365 397 288 323 454 389 71 63 105 66 107 336 296 "
    "334 293 301 168 197 5 4 75 97 2 326 305 33 160 158 133 153 144 362 385 387 263 373 380 61 39 "
    "37 0 267 269 291 405 314 17 84 181 78 82 13 312 308 317 14 87"
)
"""point of the face mesh at each of the 68 places"""
NOSE, EYES, EARS, SHOULDERS, HIPS, ANKLES = 0, (1, 2), (3, 4), (5, 6), (11, 12), (15, 16)
ARMS = {"lefthand": (7, 9), "righthand": (8, 10)}
"""elbow, wrist"""
FEET = ((27, 31, 29), (28, 32, 30))
"""of BlazePose, left and right: ankle, foot index, heel"""

Joints = Float[np.ndarray, "17 3"]


class Network:
    """A .tflite file that looks at square crops."""

    def __init__(self, path: Path):
        from ai_edge_litert.interpreter import Interpreter

        self._run = Interpreter(str(path), num_threads=1)
        self._run.allocate_tensors()
        self._input = self._run.get_input_details()[0]
        self._outputs = [o["index"] for o in self._run.get_output_details()]
        self.side = int(self._input["shape"][1])

    def look(self, picture: np.ndarray, middle, side: float, turn: float):
        """Outputs for the square of `side` px about `middle`, turned by `turn` degrees, and the
        way back to the picture."""
        half, size = side / 2, (self.side, self.side)
        x, y = middle
        matrix = crop_matrix((x - half, y - half, x + half, y + half), size, 1.0, turn)
        crop = matrix.image(picture, size).astype(np.float32)[None] / 255
        self._run.set_tensor(self._input["index"], crop)
        self._run.invoke()
        return [self._run.get_tensor(i).ravel() for i in self._outputs], matrix.inverse()


def _points(back: Affine2D, flat: np.ndarray, numbers: int) -> np.ndarray:
    import torch

    # counts of pixels to edges: half a pixel more
    places = flat.reshape(-1, numbers)[:, :2].astype(np.float64) + 0.5
    return back.points(torch.from_numpy(places)).numpy()


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-float(np.clip(value, -50, 50))))


def _upright(direction: np.ndarray) -> float:
    """Degrees by which a picture is turned so that `direction` points up."""
    return -math.degrees(math.atan2(direction[0], -direction[1]))


def find_face(network: Network, picture: np.ndarray, body: Joints):
    """68 points and a probability, or the reason why there are none."""
    if not (body[NOSE, 2] and body[list(EYES), 2].all()):
        return "face: not labelled"
    nose, left, right = (body[i, :2] for i in (NOSE, *EYES))
    apart = max(np.linalg.norm(left - right), 1.2 * np.linalg.norm((left + right) / 2 - nose))
    ears = [np.linalg.norm(body[e, :2] - nose) for e in EARS if body[e, 2]]
    side = max([4.2 * apart, *(2.2 * e for e in ears)])
    middle, across = nose + 0.1 * ((left + right) / 2 - nose), left - right
    if side < 28:
        return "face: small"
    for _ in range(2):
        turn = -math.degrees(math.atan2(across[1], across[0]))
        (mesh, flag), back = network.look(picture, middle, side, turn)
        points = _points(back, mesh, 3)
        side = 1.5 * float(np.ptp(points, axis=0).max())
        middle = (points.min(0) + points.max(0)) / 2
        across = points[263] - points[33]
        if side < 20:
            return "face: collapsed"
    score = _sigmoid(flag[0])
    if score < LEAST_FACE:
        return "face: unsure"
    eyes = (points[[362, 263]].mean(0), points[[33, 133]].mean(0))
    off = max(np.linalg.norm(eyes[0] - left), np.linalg.norm(eyes[1] - right))
    if off > 0.12 * side:
        return "face: elsewhere"
    return points[[int(i) for i in FACE_68.split()]], score


def find_hand(network: Network, picture: np.ndarray, body: Joints, which: str, scale: float):
    """21 points and a probability, or the reason why there are none."""
    elbow, wrist = ARMS[which]
    if not (body[elbow, 2] and body[wrist, 2]):
        return "hand: not labelled"
    along = body[wrist, :2] - body[elbow, :2]
    forearm = max(float(np.linalg.norm(along)), 0.6 * scale)
    unit = along / max(float(np.linalg.norm(along)), 1e-6)
    middle, side, turn = body[wrist, :2] + 0.3 * forearm * unit, 1.35 * forearm, _upright(unit)
    if side < 26:
        return "hand: small"
    for _ in range(2):
        (marks, presence, *_), back = network.look(picture, middle, side, turn)
        points = _points(back, marks, 3)
        up = points[9] - points[0]
        length = max(float(np.linalg.norm(up)), 1e-6)
        turn = _upright(up)
        low, high = points.min(0), points.max(0)
        side = max(2.0 * float((high - low).max()), 2.2 * length)
        middle = (low + high) / 2 + 0.1 * (high - low).max() * up / length * 0.5
        if side < 14 or not np.isfinite(side):
            return "hand: collapsed"
    if float(presence[0]) < LEAST_HAND:
        return "hand: unsure"
    if np.linalg.norm(points[0] - body[wrist, :2]) > 0.4 * forearm:
        return "hand: elsewhere"
    if not 0.25 < float((high - low).max()) / forearm < 1.3:
        return "hand: wrong size"
    return points, float(presence[0])


def find_feet(network: Network, picture: np.ndarray, body: Joints):
    """COCO-WholeBody's six points as x, y, score (0: none), or the reason why there are none."""
    if not (body[list(HIPS), 2].all() and body[list(SHOULDERS), 2].all()):
        return "feet: no trunk"
    if not body[list(ANKLES), 2].any():
        return "feet: not labelled"
    hips, shoulders = body[list(HIPS), :2].mean(0), body[list(SHOULDERS), :2].mean(0)
    seen = body[body[:, 2] > 0, :2]
    radius = 1.1 * max(float(np.linalg.norm(p - hips)) for p in seen)
    turn = _upright(shoulders - hips)
    outputs, back = network.look(picture, hips, 2.5 * radius, turn)
    marks, flag = outputs[0].reshape(39, 5), float(outputs[1][0])
    if flag < LEAST_FOOT:
        return "feet: unsure"
    points, sure = _points(back, marks, 5), [_sigmoid(v) for v in marks[:, 3]]
    feet = np.zeros((6, 3))
    for side, (ankle, toe, heel) in enumerate(FEET):
        true = body[ANKLES[side]]
        shift = true[:2] - points[ankle]
        if not true[2] or np.linalg.norm(shift) > 0.12 * radius:
            continue
        for place, mark in ((0, toe), (2, heel)):
            if sure[mark] >= LEAST_FOOT:
                feet[3 * side + place] = (*(points[mark] + shift), sure[mark])
    return (feet, flag) if feet[:, 2].any() else "feet: elsewhere"


def look(networks: dict[str, Network], picture: np.ndarray, annotation: dict) -> dict:
    """Fields of COCO-WholeBody with what was found, and why the rest was not."""
    body = np.array(annotation["keypoints"], float).reshape(17, 3)
    body[:, :2] += 0.5  # COCO's joints are indices of pixels
    scale = 0.5 * max(annotation["bbox"][2:]) / 3.5
    line, lost = {"id": annotation["id"]}, []
    face = find_face(networks["face"], picture, body)
    if isinstance(face, str):
        lost.append(face)
    else:
        line["face_kpts"] = _flat(face[0], face[1])
    for which in ARMS:
        hand = find_hand(networks["hand"], picture, body, which, scale)
        if isinstance(hand, str):
            lost.append(hand)
        else:
            line[f"{which}_kpts"] = _flat(hand[0], hand[1])
    feet = find_feet(networks["pose"], picture, body)
    if isinstance(feet, str):
        lost.append(feet)
    else:
        line["foot_kpts"] = _flat(feet[0][:, :2], feet[0][:, 2])
    return line | {"lost": lost}


def _flat(points: np.ndarray, score: float | np.ndarray) -> list[float]:
    """x, y, score in COCO's way: indices of pixels, zeros for a point that was not found."""
    scores = np.broadcast_to(np.asarray(score, float), len(points))
    rows = np.concatenate([points - 0.5, scores[:, None]], 1)
    rows[scores <= 0] = 0
    return np.round(rows, 2).ravel().tolist()


def run(source: Path, models: Path, out: Path, least: float) -> None:
    """Every person of `source` that is large enough and not yet in `out`."""
    content = json.loads(source.read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    done = {json.loads(text)["id"] for text in out.read_text().splitlines()} if out.exists() else {}
    people = [
        person
        for person in content["annotations"]
        if person.get("num_keypoints", 0) >= 8
        and not person.get("iscrowd")
        and max(person["bbox"][2:]) >= least
        and person["id"] not in done
    ]
    people.sort(key=lambda person: -max(person["bbox"][2:]))
    files = {"face": "face_landmark", "hand": "hand_landmark_full", "pose": "pose_landmark_full"}
    networks = {name: Network(models / f"{file}.tflite") for name, file in files.items()}
    with out.open("a") as lines:
        for person in people:
            picture = read_image(source.parent / "images" / names[person["image_id"]])
            lines.write(json.dumps(look(networks, picture, person)) + "\n")
            lines.flush()


def join(source: Path, lines: list[Path], out: Path) -> None:
    """`source` as a COCO-WholeBody file: everybody with labelled joints, and what was found."""
    content = json.loads(source.read_text())
    found: dict[int, dict] = {}
    for path in lines:
        for text in path.read_text().splitlines():
            line = json.loads(text)
            line.pop("lost")
            found[line.pop("id")] = line
    content["annotations"] = [
        person | found.get(person["id"], {})
        for person in content["annotations"]
        if person.get("num_keypoints", 0) > 0
    ]
    out.write_text(json.dumps(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--least-size", type=float, default=130)
    parser.add_argument("--join", type=Path, nargs="*", help="lines to join into --out")
    options = parser.parse_args()
    if options.join:
        join(options.source, options.join, options.out)
    else:
        run(options.source, options.models, options.out, options.least_size)


if __name__ == "__main__":
    main()
