"""ByteTrack and OC-SORT, as Roboflow's `trackers` has them, asked in the way of a `TrackBook`:
peers to compare it with."""

from typing import Any

import torch

from humanquery.core.errors import ConfigError, nearest
from humanquery.core.persons import Persons

PEERS = {"bytetrack": "ByteTrackTracker", "ocsort": "OCSORTTracker"}


class PeerTracker:
    """`name` is one of `PEERS`; `update(persons) -> persons` per frame, by boxes and scores alone.

    From `birth_score` on somebody is sure (both split people there; only the sure start a track),
    `patience` is in frames; everything else is that library's default. Ids start at 1 and belong to
    this object. ConfigError where `trackers` is not installed, or for an unknown name.
    """

    def __init__(self, name: str, *, birth_score: float = 0.5, patience: int = 30):
        if name not in PEERS:
            raise ConfigError(f"unknown tracker {name!r}.{nearest(name, PEERS)}")
        self._detections, library = _libraries()
        settings: dict[str, Any] = {
            "high_conf_det_threshold": birth_score,
            "lost_track_buffer": patience,
        }
        if name == "bytetrack":
            settings["track_activation_threshold"] = birth_score
        self._tracker = getattr(library, PEERS[name])(
            **settings, frame_rate=30.0
        )  # a frame of its buffer is one of 30 Hz

    def update(self, persons: Persons) -> Persons:
        """The people of the next frame who belong to a track that is believed, with its id; order
        and fields are kept."""
        persons = persons.to("cpu")
        given = self._detections(
            xyxy=persons.boxes.double().numpy(),
            confidence=persons.scores.double().numpy(),
            data={"row": torch.arange(len(persons)).numpy()},
        )
        answered = self._tracker.update(given)
        ids = torch.full((len(persons),), -1)
        if len(answered):
            ids[torch.from_numpy(answered.data["row"])] = torch.from_numpy(
                answered.tracker_id
            ).long()
        return persons.replace(track_ids=ids + 1)[ids >= 0]


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
