"""Which file, which pictures, which tasks: what every predictor shares. Free of PyTorch."""

import os
from collections.abc import Iterable, Iterator
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from humanquery.core.errors import CheckpointError, ConfigError, nearest
from humanquery.core.persons import Persons
from humanquery.media.pictures import path_of, read_picture

Picture = Any
"""whatever `media.pictures.read_picture` takes"""
TASKS = ("mask", "keypoints", "gender", "age")
ATTRIBUTES = ("gender", "age")
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
    """What looks at pictures; `card` is what its weights file says about itself. Made by `load`."""

    card: dict[str, Any]

    @property
    def default_score(self) -> float:
        """People below this score are left out unless asked for."""
        return float(self.card.get("score_threshold", DEFAULT_SCORE))

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

        `tasks` names what to read besides boxes: any of "mask", "keypoints", "gender", "age"
        (default: all that the model has); `attributes=False` leaves gender and age out. A picture
        that cannot be read raises ImageError.
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
        """The people of each picture, in order, looking at `batch_size` pictures at a time: on a
        GPU as one batch, on the CPU one by one, and with PyTorch as many of them side by side as it
        has threads."""
        wanted = wanted_tasks(tasks, attributes)
        score = self.default_score if score is None else score
        remaining = iter(pictures)
        while group := list(islice(remaining, batch_size)):
            for picture, people in zip(group, self._look(group, score, wanted), strict=True):
                path = path_of(picture)
                yield people if path is None else people.replace(path=str(path))

    def _look(self, pictures: list[Picture], score: float, tasks: tuple[str, ...]) -> list[Persons]:
        raise NotImplementedError


def wanted_tasks(tasks: Iterable[str] | None, attributes: bool = True) -> tuple[str, ...]:
    """Checked names of tasks; an unknown one raises ConfigError."""
    chosen = TASKS if tasks is None else tuple(tasks)
    for name in chosen:
        if name not in (*TASKS, "box", "person"):
            raise ConfigError(f"unknown task {name!r}.{nearest(name, ('box', *TASKS))}")
    return tuple(name for name in chosen if attributes or name not in ATTRIBUTES)


def as_array(picture: Picture) -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels of anything that `media.pictures.read_picture` takes."""
    return read_picture(picture)
