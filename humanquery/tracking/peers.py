"""ByteTrack and OC-SORT, as Roboflow's `trackers` has them, as a `Tracker`: peers to compare a
`TrackBook` with."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from humanquery.core.errors import ConfigError, nearest
from humanquery.core.persons import Persons
from humanquery.tracking.tracker import Stream

PEERS = {"bytetrack": "ByteTrackTracker", "ocsort": "OCSORTTracker"}


@dataclass(frozen=True)
class PeerConfig:
    """`name` is one of `PEERS`; everything that is not here is that library's default."""

    name: str
    birth_score: float = 0.5
    """from here on somebody is sure: both split people there, and only the sure start a track"""
    patience: int = 30
    """frames"""

    def __post_init__(self):
        if self.name not in PEERS:
            raise ConfigError(f"unknown tracker {self.name!r}.{nearest(self.name, PEERS)}")


class PeerTracker:
    """A `Tracker` by boxes and scores alone. Ids start at 1 and belong to this object.

    ConfigError where `trackers` is not installed.
    """

    def __init__(self, config: PeerConfig):
        self.config = config
        self._detections, library = _libraries()
        settings: dict[str, Any] = {
            "high_conf_det_threshold": config.birth_score,
            "lost_track_buffer": config.patience,
        }
        if config.name == "bytetrack":
            settings["track_activation_threshold"] = config.birth_score
        # a frame of its buffer is one of 30 Hz
        self._tracker = getattr(library, PEERS[config.name])(**settings, frame_rate=30.0)
        self._stream = Stream()
        self._ids: set[int] = set()
        self._frames: list[Float[Tensor, "_n 5"]] = []
        """boxes and scores of all frames: what the library knows of them it does not give away"""
        self.given = torch.zeros(0, dtype=torch.long)
        """rows of the people that `update` was last called with who are in its answer"""

    @property
    def frame(self) -> int:
        """Frames so far."""
        return len(self._frames)

    @property
    def confirmed_ids(self) -> list[int]:
        """Of every track so far: the library does not say which it has given up."""
        return sorted(self._ids)

    def update(self, persons: Persons) -> Persons:
        """The people of the next frame who belong to a track that is believed, with its id; order
        and fields are kept."""
        persons = persons.to("cpu")
        self._stream = self._stream.with_frame(persons, len(self._frames) + 1)
        ids = self._follow(torch.cat([persons.boxes.double(), persons.scores.double()[:, None]], 1))
        self.given = (ids >= 0).nonzero()[:, 0]
        return persons.replace(track_ids=ids + 1)[self.given]

    def _follow(self, found: Float[Tensor, "n 5"]) -> Int[Tensor, " n"]:
        """Ids of the library, -1 for people without one."""
        self._frames.append(found)
        given = self._detections(
            xyxy=found[:, :4].numpy(),
            confidence=found[:, 4].numpy(),
            data={"row": torch.arange(len(found)).numpy()},
        )
        answered = self._tracker.update(given)
        ids = torch.full((len(found),), -1)
        if len(answered):
            rows = torch.from_numpy(answered.data["row"])
            ids[rows] = torch.from_numpy(answered.tracker_id).long()
            self._ids |= set((ids[ids >= 0] + 1).tolist())
        return ids

    def state(self) -> dict[str, Tensor]:
        """All boxes and scores so far, five numbers per person and frame; see `resumed`."""
        counts = torch.tensor([len(found) for found in self._frames], dtype=torch.long)
        found = torch.cat([torch.zeros(0, 5, dtype=torch.double), *self._frames])
        return {"counts": counts, "found": found, **self._stream.tensors()}

    @classmethod
    def resumed(cls, state: dict[str, Tensor], config: PeerConfig) -> "PeerTracker":
        """A tracker that has seen the frames of the `state`: they are gone through again, since the
        library's objects cannot be written as plain numbers."""
        tracker = cls(config)
        for found in state["found"].split(state["counts"].tolist()):
            tracker._follow(found)
        tracker._stream = Stream.of(state)
        return tracker


def _libraries() -> tuple[Any, Any]:
    try:
        import supervision
        import trackers
    except ImportError as problem:
        raise ConfigError(
            f"ByteTrack and OC-SORT come from Roboflow's trackers ({problem}); pip install "
            f"'humanquery[trackers]', or "
            "without its OpenCV, which wants libGL: pip install --no-deps trackers supervision "
            "'pydeprecate<0.14' requests "
            "defusedxml"
        ) from problem
    return supervision.Detections, trackers
