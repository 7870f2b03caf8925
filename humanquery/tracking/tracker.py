"""What every tracker is, and what it takes."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from humanquery.core.affine import Size
from humanquery.core.errors import TrackingError
from humanquery.core.persons import Persons

CHECKED = ("boxes", "scores", "keypoints", "keypoint_scores", "embeddings", "gender", "age")


@runtime_checkable
class Tracker(Protocol):
    """Who is who over time: one object per video, asked once per frame. Its ids belong to it."""

    config: Any
    frame: int
    """frames so far"""
    given: Int[Tensor, " n"]
    """rows of the people that `update` was last called with who are in its answer"""

    @property
    def confirmed_ids(self) -> list[int]:
        """Of the tracks that are seen or waited for."""
        ...

    def update(self, persons: Persons) -> Persons:
        """The people of the next frame who belong to a track that is believed, with its id as
        `track_ids`; order and fields are kept.

        TrackingError, before anything has changed, for people that it cannot follow, see `Stream`.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything it knows, to go on from in another process."""
        ...

    @classmethod
    def resumed(cls, state: dict[str, Tensor], config: Any) -> "Tracker":
        """A tracker that goes on as the one whose `state` this is, with the same config."""
        ...


@dataclass(frozen=True)
class Stream:
    """What the people of one video have in common, as far as it is known."""

    image_size: Size | None = None
    joints: tuple[str, ...] | None = None
    """names in their order; "" for all where the people had joints, but no skeleton"""
    width: int | None = None
    """numbers of an embedding"""

    def with_frame(self, persons: Persons, frame: int, *, resizable: bool = False) -> "Stream":
        """What is known after a frame, whose number is for messages.

        Nobody is always fine. TrackingError where a number is not finite, or picture size, skeleton
        or width of the embeddings are others than before. Embeddings may be missing in a frame;
        `resizable`: the tracker can follow into pictures of another size.
        """
        if not len(persons):
            return self
        where = f"frame {frame}"
        _check_finite(persons, where)
        joints, width = _joints(persons), self.width
        if persons.embeddings is not None:
            width = persons.embeddings.shape[1]
        if self.image_size is not None:
            self._check_alike(persons, joints, width, where, resizable)
        size = (int(persons.image_size[0]), int(persons.image_size[1]))
        return Stream(size, joints, width)

    def _check_alike(
        self,
        persons: Persons,
        joints: tuple[str, ...],
        width: int | None,
        where: str,
        resizable: bool,
    ) -> None:
        if tuple(persons.image_size) != self.image_size and not resizable:
            raise TrackingError(
                f"{where}: people of a picture of {_size(persons.image_size)} px, those before of "
                f"{_size(self.image_size)} px (height x width): their boxes cannot be compared. "
                f"Scale them (Persons.warp) or begin a new tracker"
            )
        if self.joints is not None and not _same_joints(joints, self.joints):
            raise TrackingError(
                f"{where}: people with {_named(joints, persons)}, those before with "
                f"{len(self.joints)} joints ({', '.join(self.joints[:3]) or 'none'} ...). Convert "
                f"them (core.skeleton.convert_joints), or use one tracker per model"
            )
        if self.width is not None and width != self.width:
            raise TrackingError(
                f"{where}: people with embeddings of {width} numbers, those before of "
                f"{self.width}: they are of two models. Use one tracker per model"
            )

    def tensors(self) -> dict[str, Tensor]:
        """For a tracker's `state`; the inverse is `of`."""
        size, names = self.image_size or (-1, -1), "\n".join(self.joints or ())
        count = -1 if self.joints is None else len(self.joints)
        return {
            "image_size": torch.tensor(size),
            "num_joints": torch.tensor(count),
            "joint_names": torch.tensor(list(names.encode()), dtype=torch.uint8),
            "width": torch.tensor(-1 if self.width is None else self.width),
        }

    @staticmethod
    def of(state: dict[str, Tensor]) -> "Stream":
        """What a tracker's state says; nothing is known of a state of an older version."""
        if "image_size" not in state:
            return Stream()
        height, width = state["image_size"].tolist()
        names = bytes(state["joint_names"].tolist()).decode().split("\n")
        count, numbers = int(state["num_joints"]), int(state["width"])
        return Stream(
            None if height < 0 else (height, width),
            None if count < 0 else tuple(names) if count else (),
            None if numbers < 0 else numbers,
        )


def _check_finite(persons: Persons, where: str) -> None:
    for name in CHECKED:
        values = getattr(persons, name)
        if values is None:
            continue
        broken = ~values.isfinite().flatten(1).all(1) if values.ndim > 1 else ~values.isfinite()
        if broken.any():
            row = int(broken.nonzero()[0])
            raise TrackingError(
                f"{where}: {int(broken.sum())} of {len(persons)} people have {name} that are not "
                f"finite (person {row}: {values[row].flatten()[:4].tolist()}); a tracker cannot "
                f"follow them. Leave them out (persons[keep]), and look at what found them"
            )


def _joints(persons: Persons) -> tuple[str, ...]:
    if persons.keypoints is None:
        return ()
    if persons.skeleton is None:
        return ("",) * persons.keypoints.shape[1]
    return persons.skeleton.joints


def _same_joints(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """The same names; of people without a skeleton only the number is known."""
    unnamed = "" in one or "" in other
    return len(one) == len(other) if unnamed else one == other


def _named(joints: tuple[str, ...], persons: Persons) -> str:
    skeleton = f" of {persons.skeleton.name}" if persons.skeleton and joints else ""
    return f"{len(joints)} joints{skeleton} ({', '.join(joints[:3]) or 'none'} ...)"


def _size(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
