"""Pedestrian attributes: data/peta's list and PA-100K's MATLAB file as one label per attribute."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.io
import torch
from scipy.io.matlab import MatReadError

from humanquery.core.batch import Sample
from humanquery.core.errors import AnnotationError
from humanquery.core.fields import FieldSpec
from humanquery.core.foreign import items, located, mapping, numbers, read_json, text
from humanquery.core.rows import Extra
from humanquery.data.readers.whole_pictures import one_person

ATTRIBUTES = FieldSpec("attributes", attribute=True)
"""n × a: 1 has it, 0 has it not, -1 nobody knows; a row of `Target.extra`"""

PETA_35 = (
    "accessoryHat accessoryMuffler accessoryNothing accessorySunglasses hairLong upperBodyCasual "
    "upperBodyFormal upperBodyJacket upperBodyLogo upperBodyPlaid upperBodyShortSleeve "
    "upperBodyThinStripes upperBodyTshirt upperBodyOther upperBodyVNeck lowerBodyCasual "
    "lowerBodyFormal lowerBodyJeans lowerBodyShorts lowerBodyShortSkirt lowerBodyTrousers "
    "footwearLeatherShoes footwearSandals footwearShoes footwearSneakers carryingBackpack "
    "carryingOther carryingMessengerBag carryingNothing carryingPlasticBags personalLess30 "
    "personalLess45 personalLess60 personalLarger60 personalMale"
).split()
"""those that PETA is scored on"""
_AGES = {
    "personalLess30": (16, 30),
    "personalLess45": (31, 45),
    "personalLess60": (46, 60),
    "personalLarger60": (61, 200),
}


@dataclass(frozen=True)
class PetaAttributesConfig:
    """Crops with a list of the attributes each person has: a folder with `peta.json` and
    `images`."""

    folder: str
    split: Literal["train", "val", "all"] = "train"
    names: tuple[str, ...] = tuple(PETA_35)
    name: str = "peta"
    """of the data set, `Target.source`"""

    def build(self) -> "AttributeSource":
        path = Path(self.folder) / "peta.json"
        rows = read_json(path, "a list of crops, objects with 'file' and 'attributes'", list)
        files, labels = [], []
        for i, row in enumerate(rows):
            with located(f"{path}: crop {i}"):
                row = mapping(row, "crop", "an object with 'file' and 'attributes'")
                if self.split in ("all", row.get("split")):
                    files.append(Path(self.folder) / "images" / text(row.get("file"), "file"))
                    labels.append(_peta_labels(row, self.names))
        return AttributeSource(files, labels, self.names, self.name, path)


def _peta_labels(row: dict[str, Any], names: tuple[str, ...]) -> list[int]:
    """One label per name; gender and age group stand apart from the list."""
    has, gender, span = set(items(row.get("attributes"), "attributes")), row.get("gender"), None
    if row.get("age_range"):
        span = numbers(row["age_range"], "age_range", "[lowest, highest] in years", count=2)
    known = {"personalMale": -1 if gender is None else int(gender == 0)}
    for name, (low, high) in _AGES.items():
        known[name] = -1 if span is None else int(low <= span[0] and span[1] <= high)
    return [known.get(name, int(name in has)) for name in names]


@dataclass(frozen=True)
class Pa100kConfig:
    """PA-100K: `annotation.mat` (26 attributes) and its folder of pictures."""

    annotations: str
    images: str
    split: Literal["train", "val", "test"] = "train"
    name: str = "pa100k"
    """of the data set, `Target.source`"""

    def build(self) -> "AttributeSource":
        path = Path(self.annotations)
        keys = ("attributes", f"{self.split}_images_name", f"{self.split}_label")
        names, files, labels = _mat_fields(path, keys)
        found = [Path(self.images) / _cell(cell) for cell in files.ravel()]
        titles = tuple(_cell(cell) for cell in names.ravel())
        if labels.shape != (len(found), len(titles)):
            raise AnnotationError(
                f"{path}: {keys[2]} is {labels.shape}, expected {len(found)} pictures × "
                f"{len(titles)} attributes"
            )
        return AttributeSource(found, labels.astype(int).tolist(), titles, self.name, path)


def _mat_fields(path: Path, keys: tuple[str, ...]) -> list[np.ndarray]:
    try:
        content = scipy.io.loadmat(path)
    except (OSError, ValueError, TypeError, MatReadError, NotImplementedError) as problem:
        raise AnnotationError(
            f"{path}: not a readable MATLAB file of version 5 ({problem}); expected PA-100K's "
            f"annotation.mat"
        ) from problem
    missing = [key for key in keys if key not in content]
    if missing:
        raise AnnotationError(
            f"{path}: has no {', '.join(missing)}; expected PA-100K's annotation.mat with "
            f"{', '.join(keys)}"
        )
    return [content[key] for key in keys]


def _cell(cell: Any) -> str:
    """Text of a MATLAB cell, which comes as an array in an array."""
    while isinstance(cell, np.ndarray) and cell.size == 1:
        cell = cell.item() if cell.dtype != object else cell.ravel()[0]
    return str(cell)


class AttributeSource:
    """One crop per sample with `ATTRIBUTES` in `extra`; `positive_share` is what the weights of
    the loss are made of."""

    def __init__(
        self,
        files: list[Path],
        labels: list[list[int]],
        names: tuple[str, ...],
        name: str,
        path: Path,
    ):
        if not files:
            raise AnnotationError(f"{path}: no crop of this split")
        self.files, self.names, self.name = files, tuple(names), name
        self.labels = torch.tensor(labels).reshape(len(files), len(names))

    @property
    def positive_share(self) -> tuple[float, ...]:
        """Of the known labels of every attribute, 0..1; 0 where none is known."""
        known, has = (self.labels >= 0).sum(0), (self.labels == 1).sum(0)
        return tuple((has / known.clamp(min=1)).tolist())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        extra = {"attributes": Extra(ATTRIBUTES, self.labels[i : i + 1])}
        return one_person(self.files[i], i, self.name, extra)
