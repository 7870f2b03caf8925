"""Which file, which pictures, which outputs: what every predictor shares."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from humanquery.core.errors import CheckpointError, ConfigError, nearest
from humanquery.core.fields import FieldSpec
from humanquery.core.persons import Persons
from humanquery.core.system import Ask, Look
from humanquery.data.loading.identity import file_hash
from humanquery.media.pictures import path_of, read_picture

Picture = Any
"""whatever `media.pictures.read_picture` takes"""
TASK_NAMES = {"mask": "masks"}
"""names of tasks that callers may use for the field that the task gives"""
ALWAYS = ("box", "person", "boxes", "scores")
"""what is given whether it is asked for or not"""
DEFAULT = "hqnet-small"
DEFAULT_SCORE = 0.3
VARIANTS = {"hqnet-small-fast": ("hqnet-small", ("backbone.parts.1.pose_scales=[1.0]",))}
"""names under which shipped weights are loaded with other settings (`core.config.override`)"""
EXPORTED = (".onnx", ".pt2", ".xml")
"""suffixes of files that `humanquery export` writes"""


def shipped_weights() -> dict[str, Path]:
    """Names and files of the weights that come with the library."""
    folder = Path(str(files("humanquery"))) / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def find_weights(name_or_path: str | Path | None) -> Path:
    """The file of a shipped name (None: the default) or a path; an unknown name raises
    CheckpointError with the nearest."""
    name = str(name_or_path or DEFAULT)
    known = shipped_weights()
    stem, _ = VARIANTS.get(name, (name, ()))
    if stem in known:
        return known[stem]
    if (
        name.endswith((".safetensors", ".pth", ".pt", *EXPORTED))
        or os.sep in name
        or Path(name).is_file()
    ):
        return Path(name)
    if name in ("hqnet-r50", "hqnet-swin-l", "hqnet-vit-l"):
        raise CheckpointError(
            f"{name}: its weights cannot be shipped. Train it (`humanquery train --recipe "
            f"{name.replace('-', '_')}`), or convert "
            "the official checkpoint (`humanquery convert official.pth out.safetensors`) and give "
            "the file's path"
        )
    raise CheckpointError(
        f"no weights named {name!r}; expected a path or a shipped "
        f"name.{nearest(name, [*known, *VARIANTS])}"
    )


def settings_of(name_or_path: str | Path | None) -> tuple[str, ...]:
    """The settings that a shipped name stands for besides its weights; none for a path."""
    return VARIANTS.get(str(name_or_path), ("", ()))[1]


class BasePredictor:
    """What finds people in pictures; `card` is what its weights file says about itself. Made by
    `load`."""

    card: dict[str, Any]
    path: Path | None = None
    """the file that it was loaded from"""
    outputs: Mapping[str, FieldSpec]
    """what it can give besides boxes and scores: names of `Persons` fields with their
    declarations"""

    @property
    def default_score(self) -> float:
        """People below this score are left out unless asked for."""
        return float(self.card.get("score_threshold", DEFAULT_SCORE))

    def identity(self) -> dict[str, Any]:
        """Tells this model from others: the name on its card, and the hash of its file."""
        weights = file_hash(self.path) if self.path is not None else "built in memory"
        return {"name": self.card.get("name", ""), "weights": weights}

    def predict(
        self,
        picture: Picture,
        *,
        score: float | None = None,
        tasks: Iterable[str] | None = None,
        attributes: bool = True,
    ) -> Persons:
        """The people of one picture, best score first: of a path, an array, a tensor, a PIL image,
        bytes or an open file (see `media.pictures.read_picture`).

        `tasks` names what to read besides boxes, out of `outputs` (default: all that the model
        has; "mask" stands for "masks"); `attributes=False` leaves out what is an impression of
        somebody's looks (gender, age). An unknown name raises ConfigError, a picture that cannot be
        read ImageError.
        """
        return next(self.predict_many([picture], score=score, tasks=tasks, attributes=attributes))

    def predict_many(
        self,
        pictures: Iterable[Picture],
        *,
        score: float | None = None,
        tasks: Iterable[str] | None = None,
        attributes: bool = True,
        batch_size: int = 4,
    ) -> Iterator[Persons]:
        """The people of each picture, in order, `batch_size` pictures at a time: on a GPU as one
        batch, on the CPU one by one, and with PyTorch as many of them side by side as it has
        threads."""
        ask = self.ask(score, tasks, attributes)
        remaining = iter(pictures)
        while group := list(islice(remaining, batch_size)):
            for picture, people in zip(group, self._persons(group, ask), strict=True):
                path = path_of(picture)
                yield people if path is None else people.replace(path=str(path))

    def look_many(
        self,
        pictures: list[Picture],
        *,
        score: float | None = None,
        tasks: Iterable[str] | None = None,
        attributes: bool = True,
    ) -> list[Look]:
        """`predict_many` without the outputs in `late`, which `Look.more` gives about those of
        whom they are wanted. Each look holds what the network made of its picture until it is
        dropped."""
        wanted = {"score": score, "tasks": tasks, "attributes": attributes}
        found = self.predict_many(pictures, **wanted, batch_size=max(len(pictures), 1))
        return [Told(people) for people in found]

    @property
    def late(self) -> frozenset[str]:
        """Outputs that are given late where pictures are looked at by `look_many`."""
        return frozenset()

    def ask(
        self,
        score: float | None = None,
        tasks: Iterable[str] | None = None,
        attributes: bool = True,
    ) -> Ask:
        """The arguments of `predict` as an `Ask`; see there."""
        names = list(self.outputs) if tasks is None else [TASK_NAMES.get(n, n) for n in tasks]
        for name in names:
            if name not in (*self.outputs, *ALWAYS):
                raise ConfigError(f"unknown task {name!r}.{nearest(name, ('box', *self.outputs))}")
        wanted = frozenset(
            name
            for name in names
            if name in self.outputs and (attributes or not self.outputs[name].attribute)
        )
        return Ask(self.default_score if score is None else score, wanted)

    def _persons(self, pictures: list[Picture], ask: Ask) -> list[Persons]:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Told:
    """A `core.system.Look` of which everything was asked at once."""

    persons: Persons

    def more(self, rows: Any, outputs: frozenset[str]) -> Persons:
        """Those of the rows, as they are."""
        return self.persons[rows]


def as_array(picture: Picture) -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels of anything that `media.pictures.read_picture` takes."""
    return read_picture(picture)
