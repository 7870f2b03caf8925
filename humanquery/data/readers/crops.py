"""Pictures of one person each (pedestrian crops of PETA, aligned faces), alone or composed into
pictures of many."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch

from humanquery.core.affine import Affine2D, Size
from humanquery.core.batch import Meta, Sample
from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.core.foreign import located, mapping, number, numbers, read_json, shown, text
from humanquery.core.rows import Labelled
from humanquery.core.target import Target
from humanquery.media.images import read_image


@dataclass(frozen=True)
class PetaConfig:
    """Pedestrian crops with gender and age groups: a folder with `peta.json` and `images`."""

    folder: str
    split: Literal["train", "val", "all"] = "train"

    def build(self) -> "CropSource":
        return CropSource(Path(self.folder), "peta.json", self.split)


@dataclass(frozen=True)
class FacesConfig:
    """Aligned faces with gender and age in years: a folder with `faces.json` and `images`."""

    folder: str
    split: Literal["train", "val", "all"] = "train"

    def build(self) -> "CropSource":
        return CropSource(Path(self.folder), "faces.json", self.split)


class CropSource:
    """One person per picture: the box is the picture, gender and age are labelled, joints and masks
    are not (None).

    The list file holds objects with `file`, `split`, `gender` (0 male, 1 female, or null) and `age`
    or `age_range`.
    """

    def __init__(self, folder: Path, list_name: str, split: str):
        self.path, self.images = folder / list_name, folder / "images"
        self.name = Path(list_name).stem
        rows = [row for row in _load_rows(self.path) if split in ("all", row.get("split"))]
        self._files = [row["file"] for row in rows]
        gender = [row.get("gender") for row in rows]
        ages = [_age_span(row) for row in rows]
        self._gender = torch.tensor([float(g or 0) for g in gender])
        self._has_gender = torch.tensor([g is not None for g in gender], dtype=torch.bool)
        self._ages = torch.tensor([span or (0.0, 0.0) for span in ages]).reshape(-1, 2)
        self._has_age = torch.tensor([span is not None for span in ages], dtype=torch.bool)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        path = self.images / self._files[i]
        image = read_image(path)
        size = image.shape[:2]
        row = slice(i, i + 1)
        target = Target(
            image_size=size,
            boxes=torch.tensor([[0.0, 0.0, size[1], size[0]]]),
            ignore=torch.zeros(1, dtype=torch.bool),
            areas=torch.tensor([float(size[0] * size[1])]),
            gender=Labelled(self._gender[row], self._has_gender[row]),
            age=Labelled(self._ages[row], self._has_age[row]),
            source=self.name,
        )
        return Sample(image, Meta(size, size, image_id=i, path=str(path)), target)


def _load_rows(path: Path) -> list[dict[str, Any]]:
    rows = read_json(path, "a list of crops, objects with 'file' and 'gender'", list)
    for i, row in enumerate(rows):
        with located(f"{path}: crop {i}"):
            text(mapping(row, "crop", "an object with 'file' and 'gender'").get("file"), "file")
            gender = row.get("gender")
            if gender is not None and (type(gender) is not int or gender not in (0, 1)):
                raise AnnotationError(
                    f"'gender' is {shown(gender)}, expected 0 (male), 1 (female) or null"
                )
            _age_span(row)
    return rows


def _age_span(row: dict[str, Any]) -> tuple[float, float] | None:
    if row.get("age") is not None:
        age = float(number(row["age"], "age"))
        return age, age
    if row.get("age_range"):
        low, high = numbers(row["age_range"], "age_range", "[lowest, highest] in years", count=2)
        return float(low), float(high)
    return None


@dataclass(frozen=True)
class MosaicConfig:
    """Pictures composed of crops, so that labels of crops train a model that looks for people."""

    crops: tuple[PetaConfig | FacesConfig, ...]
    length: int = 10_000
    """how many pictures"""
    canvas: tuple[int, int] = (384, 512)
    people: tuple[int, int] = (1, 8)
    """fewest and most on one picture"""
    background: Literal["plain", "noise", "mixed"] = "mixed"
    largest_scale: float = 3.0
    """crops are enlarged this much at most"""
    seed: int = 0

    def build(self) -> "MosaicSource":
        return MosaicSource(self)


class MosaicSource:
    """Crops in the cells of a grid on a plain or blurred-noise background; picture i depends on
    (seed, i) alone.

    The box of a person is its crop (a face crop's box is the face, for no body is seen).
    """

    def __init__(self, config: MosaicConfig):
        self.config = config
        self.crops = [crops.build() for crops in config.crops]
        if not sum(map(len, self.crops)):
            raise ConfigError(
                "MosaicConfig: crops: no crop in any of the folders; check folder and split"
            )
        if not 1 <= config.people[0] <= config.people[1]:
            raise ConfigError(
                f"MosaicConfig: people: got {config.people}, expected (fewest, most) with 1 <= "
                f"fewest <= most"
            )

    def __len__(self) -> int:
        return self.config.length

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        rng = np.random.default_rng((self.config.seed, i))
        size = self.config.canvas
        canvas = _background(size, self.config.background, rng)
        count = int(rng.integers(self.config.people[0], self.config.people[1] + 1))
        placed = [self._place(canvas, cell, rng) for cell in _draw_cells(size, count, rng)]
        target = Target.cat(placed).replace(annotation_ids=torch.arange(count))
        return Sample(canvas, Meta(size, size, image_id=i), target)

    def _place(
        self, canvas: np.ndarray, cell: tuple[int, int, int, int], rng: np.random.Generator
    ) -> Target:
        """Paints one drawn crop into the cell (y, x, height, width) and gives its truth on the
        canvas."""
        able = [crops for crops in self.crops if len(crops)]
        crops = able[int(rng.integers(len(able)))]
        crop = crops[int(rng.integers(len(crops)))]
        y, x, height, width = cell
        h, w = crop.image.shape[:2]
        largest = min(height / h, width / w, self.config.largest_scale)
        scale = largest * float(rng.uniform(0.6, 1.0))
        new = (max(1, int(h * scale)), max(1, int(w * scale)))
        y, x = y + int(rng.integers(height - new[0] + 1)), x + int(rng.integers(width - new[1] + 1))
        resize = Affine2D.resize((h, w), new)
        canvas[y : y + new[0], x : x + new[1]] = resize.image(crop.image, new)
        return crop.target.warp(Affine2D.translation(x, y) @ resize, canvas.shape[:2])


def _draw_cells(
    size: Size, count: int, rng: np.random.Generator
) -> list[tuple[int, int, int, int]]:
    """`count` different cells (y, x, height, width) of a grid with about that many; they do not
    overlap."""
    lines = int(rng.integers(1, math.isqrt(count) + 1))
    columns = math.ceil(count / lines)
    height, width = size[0] // lines, size[1] // columns
    chosen = np.sort(rng.permutation(lines * columns)[:count])
    return [(int(k) // columns * height, int(k) % columns * width, height, width) for k in chosen]


def _background(size: Size, kind: str, rng: np.random.Generator) -> np.ndarray:
    plain = kind == "plain" or (kind == "mixed" and rng.random() < 0.5)
    if plain:
        return np.ascontiguousarray(
            np.broadcast_to(rng.integers(0, 256, 3).astype(np.uint8), (*size, 3))
        )
    coarse = tuple(max(1, s // int(rng.integers(8, 65))) for s in size)
    low, high = np.sort(rng.integers(0, 257, 2))
    noise = rng.integers(low, high + 1, (*coarse, 3)).clip(0, 255).astype(np.uint8)
    return cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)
