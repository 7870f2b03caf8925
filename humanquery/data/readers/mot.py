"""MOT text (MOTChallenge): truth and results of box tracking, and a clip's folder as a source.

This is the only place where MOT's counting from one (frames, and pixels: the first pixel lies at 1)
meets ours.
"""

import configparser
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humanquery.core.affine import Size
from humanquery.core.batch import Meta, Sample
from humanquery.core.boxes import BODY_SHARE, areas, xywh_to_xyxy, xyxy_to_xywh
from humanquery.core.errors import AnnotationError
from humanquery.core.foreign import LARGEST_NUMBER, is_number, read_text
from humanquery.core.persons import Persons
from humanquery.core.target import Target
from humanquery.media.images import read_image, read_size

PERSON = 1
LIKE_PEOPLE = (2, 7, 8, 12, 13)
"""classes of MOT16 and later where finding somebody is no mistake: on a vehicle, static,
distractor, reflection, crowd"""
CLASSES = range(1, 14)
CLASS_COLUMNS = 9
"""MOT16 and later write frame, id, x, y, w, h, confidence, class, visibility; MOT15 and results end
in world x, y, z"""
NO_IDENTITY = -1
_PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


@dataclass(frozen=True, eq=False)
class MotFrame:
    """The rows of one frame. Boxes are xyxy px in double precision, continuous (first pixel's left
    edge 0.0)."""

    boxes: Float[Tensor, "n 4"]
    ids: Int[Tensor, " n"]
    """-1: no identity (raw detections)"""
    scores: Float[Tensor, " n"]
    """0..1 in most files; 1 where the file says -1"""
    ignore: Bool[Tensor, " n"]
    """truth only: confidence 0, or a class that looks like a person"""

    def __len__(self) -> int:
        return len(self.boxes)

    def target(self, image_size: Size) -> Target:
        """As truth; the segment's area is estimated from the box."""
        boxes = self.boxes.float()
        return Target(
            image_size=image_size,
            boxes=boxes,
            ignore=self.ignore,
            areas=areas(boxes) * BODY_SHARE,
            track_ids=self.ids,
        )

    def persons(self, image_size: Size) -> Persons:
        """As people found, best score first."""
        order = self.scores.argsort(descending=True, stable=True)
        return Persons(
            image_size=image_size,
            boxes=self.boxes[order].float(),
            scores=self.scores[order].float(),
            track_ids=self.ids[order],
        )


@dataclass(frozen=True)
class _Row:
    frame: int
    identity: int
    box_xywh: tuple[float, float, float, float]
    confidence: float
    category: int


def read_mot(
    path: str | Path, *, num_frames: int | None = None, truth: bool = False
) -> list[MotFrame]:
    """One `MotFrame` per frame of the clip, frame 1 first; frames without rows are empty.

    Without `num_frames` the clip ends with the last row. Confidence -1 (PETS, most results) is read
    as valid. With `truth`, confidence 0 becomes an ignore row, and of files with nine columns
    (MOT16 and later) other classes than people are left out, those that look like people become
    ignore rows. Malformed lines, frames below 1 or beyond `num_frames` and an id that comes twice
    in one frame raise AnnotationError with file and line.
    """
    path = Path(path)
    rows: dict[int, list[_Row]] = {}
    first_line: dict[tuple[int, int], int] = {}
    for number, line in enumerate(read_text(path, "MOT text").splitlines(), 1):
        if not line.strip():
            continue
        row = _row(line, truth, f"{path}, line {number}")
        if row.frame < 1 or (num_frames is not None and row.frame > num_frames):
            end = "" if num_frames is None else f" to {num_frames}"
            raise AnnotationError(
                f"{path}, line {number}: frame {row.frame}, expected 1{end}; MOT counts frames "
                f"from 1. "
                "Is this file for another clip?"
            )
        if truth and row.category != PERSON and row.category not in LIKE_PEOPLE:
            continue
        key = row.frame, row.identity
        if row.identity != NO_IDENTITY and key in first_line:
            raise AnnotationError(
                f"{path}, line {number}: id {row.identity} comes twice in frame {row.frame} (first "
                f"in line "
                f"{first_line[key]}); a person is at one place, give each its own id"
            )
        first_line[key] = number
        rows.setdefault(row.frame, []).append(row)
    count = max(rows, default=0) if num_frames is None else num_frames
    return [_frame(rows.get(number, []), truth) for number in range(1, count + 1)]


def write_mot(path: str | Path, frames: Iterable[MotFrame | Persons | Target]) -> int:
    """Writes the frames as MOT text, the first as frame 1, px to 1e-4, and gives the number of
    rows; makes the folder.

    A `Target` is truth: confidence 1, or 0 for ignore rows. `frames` is taken one at a time, so a
    generator may be longer than memory. People without track ids raise AnnotationError.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for number, people in enumerate(frames, 1):
            lines = mot_lines(people, number)
            file.writelines(line + "\n" for line in lines)
            count += len(lines)
    return count


def mot_lines(people: MotFrame | Persons | Target, frame: int) -> list[str]:
    """The rows of one frame (counted from 1) as `write_mot` writes them, without line ends."""
    if frame < 1:
        raise AnnotationError(
            f"MOT text: frame {frame}, expected 1 or more; MOT counts frames from 1"
        )
    ids = people.ids if isinstance(people, MotFrame) else people.track_ids
    if ids is None:
        raise AnnotationError(
            f"MOT text: the people of frame {frame} have no track ids; pass what a tracker "
            f"returned, or set track_ids"
        )
    confidence = (~people.ignore).double() if isinstance(people, Target) else people.scores.double()
    boxes = xyxy_to_xywh(people.boxes.detach().cpu().double())
    corners = boxes + boxes.new_tensor([1, 1, 0, 0])
    return [
        f"{frame},{identity},{','.join(_short(v) for v in box)},{_short(score)},-1,-1,-1"
        for identity, box, score in zip(
            ids.tolist(), corners.tolist(), confidence.tolist(), strict=True
        )
    ]


@dataclass(frozen=True)
class MotConfig:
    """A clip in MOTChallenge's layout: `gt/gt.txt`, pictures (`img1`, or imDir of `seqinfo.ini`),
    `seqinfo.ini` if there."""

    folder: str

    def build(self) -> "MotSource":
        return MotSource(self.folder)


class MotSource:
    """A clip with its truth: item i is frame i + 1, with boxes, ignore rows and track ids.

    Pictures lie in `imDir` of `seqinfo.ini`, in `img1` or in the folder itself, and are ordered by
    the number at the end of their name, which must have no gap. A missing file, a gap, or truth
    beyond the last picture raises AnnotationError.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        info = _sequence_info(self.folder / "seqinfo.ini")
        self.name: str = info.get("name") or self.folder.resolve().name
        self.frame_rate: float | None = _positive(info, "frameRate", self.folder)
        """frames per second, None where nobody says"""
        self.pictures = _pictures(self.folder, info.get("imDir"))
        length = _positive(info, "seqLength", self.folder)
        if length is not None and length != len(self.pictures):
            raise AnnotationError(
                f"{self.folder}: seqinfo.ini says {length:g} frames, {len(self.pictures)} "
                f"pictures lie there; "
                "fetch the clip again, or correct seqLength"
            )
        self.frames: list[MotFrame] = read_mot(
            self.folder / "gt" / "gt.txt", num_frames=len(self.pictures), truth=True
        )
        self.image_size: Size = read_size(self.pictures[0])

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> Sample:
        if not -len(self) <= i < len(self):
            raise IndexError(f"{self.folder}: no frame {i}, there are {len(self)}")
        i %= len(self)
        image = read_image(self.pictures[i])
        size = image.shape[:2]
        meta = Meta(image_size=size, canvas_size=size, image_id=i + 1, path=str(self.pictures[i]))
        return Sample(image, meta, self.frames[i].target(size).replace(source=self.name))


def _row(line: str, truth: bool, where: str) -> _Row:
    cells = line.replace(",", " ").split()
    expected = "expected frame,id,x,y,width,height[,confidence,...]"
    if len(cells) < 6:
        raise AnnotationError(
            f"{where}: {len(cells)} numbers in {line[:60]!r}, {expected}; is this MOT text?"
        )
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError as problem:
        raise AnnotationError(
            f"{where}: {line[:60]!r} holds something else than numbers, {expected}"
        ) from problem
    frame, identity, *box = numbers[:6]
    if not all(map(is_number, numbers[:7])):
        raise AnnotationError(
            f"{where}: {line[:60]!r} holds NaN or infinity, or a number beyond {LARGEST_NUMBER:g}, "
            f"{expected}"
        )
    if frame != int(frame) or identity != int(identity) or identity < NO_IDENTITY:
        raise AnnotationError(
            f"{where}: frame {cells[0]} and id {cells[1]}, expected a whole frame number and a "
            f"whole id from 0 "
            "(or -1 for no identity)"
        )
    if box[2] < 0 or box[3] < 0:
        raise AnnotationError(
            f"{where}: a box {cells[4]} wide and {cells[5]} high, expected no negative side; MOT "
            f"boxes are x, y, width, "
            "height, not two corners"
        )
    category = numbers[7] if truth and len(cells) == CLASS_COLUMNS else PERSON
    if category not in CLASSES:
        raise AnnotationError(
            f"{where}: class {cells[7]}, expected 1 (person) to {CLASSES[-1]} in the eighth of "
            f"nine columns"
        )
    confidence = numbers[6] if len(cells) > 6 else 1.0
    return _Row(int(frame), int(identity), tuple(box), confidence, int(category))


def _frame(rows: Sequence[_Row], truth: bool) -> MotFrame:
    xywh = torch.tensor([row.box_xywh for row in rows], dtype=torch.float64).reshape(-1, 4)
    confidence = torch.tensor([row.confidence for row in rows], dtype=torch.float64)
    ignore = [truth and (row.confidence == 0 or row.category != PERSON) for row in rows]
    return MotFrame(
        boxes=xywh_to_xyxy(xywh) - 1,
        ids=torch.tensor([row.identity for row in rows], dtype=torch.long),
        scores=torch.where(confidence == -1, 1.0, confidence),
        ignore=torch.tensor(ignore, dtype=torch.bool),
    )


def _short(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _sequence_info(path: Path) -> dict[str, str]:
    """[Sequence] of seqinfo.ini; empty where there is no such file."""
    if not path.is_file():
        return {}
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str
    try:
        parser.read_string(read_text(path, "a seqinfo.ini"), source=str(path))
        return dict(parser["Sequence"])
    except (configparser.Error, KeyError) as problem:
        raise AnnotationError(
            f"{path}: not a seqinfo.ini ({' '.join(str(problem).split())}); expected [Sequence] "
            f"with seqLength=..."
        ) from problem


def _positive(info: dict[str, str], key: str, folder: Path) -> float | None:
    if key not in info:
        return None
    try:
        value = float(info[key])
    except ValueError:
        value = math.nan
    if not value > 0:
        raise AnnotationError(
            f"{folder / 'seqinfo.ini'}: {key} is {info[key]!r}, expected a number above 0"
        )
    return value


def _pictures(folder: Path, named: str | None) -> list[Path]:
    place = next(
        (p for p in (folder / (named or "img1"), folder / "img1", folder) if p.is_dir()), None
    )
    found = [] if place is None else [p for p in place.iterdir() if p.suffix.lower() in _PICTURES]
    if not found:
        raise AnnotationError(
            f"{folder}: no pictures in {place or folder}; expected a MOT clip: pictures in img1 "
            f"and truth in gt/gt.txt"
        )
    numbered = {}
    for picture in found:
        digits = re.search(r"(\d+)$", picture.stem)
        if digits is None or int(digits[1]) in numbered:
            problem = (
                "has no frame number"
                if digits is None
                else f"has the number of {numbered[int(digits[1])].name}"
            )
            raise AnnotationError(
                f"{picture}: its name {problem}; expected names such as 000001.jpg, one per frame"
            )
        numbered[int(digits[1])] = picture
    first = min(numbered)
    missing = sorted(set(range(first, first + len(numbered))) - set(numbered))
    if missing or first not in (0, 1):
        gap = 1 if first > 1 else missing[0]
        raise AnnotationError(
            f"{place}: the picture of frame {gap} is missing; the pictures of a clip have no gap"
        )
    return [numbered[number] for number in sorted(numbered)]
