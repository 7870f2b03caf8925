"""Who is who over time. A `Tracker` is asked once per frame, `update(persons) -> persons`; its ids
belong to it."""

from humanquery.tracking.book import TrackBook, TrackConfig
from humanquery.tracking.motion import MotionConfig
from humanquery.tracking.msim import MSIMConfig, MSIMTracker
from humanquery.tracking.smoothing import SmoothConfig
from humanquery.tracking.tracker import Tracker

TRACKERS: dict[type, type] = {TrackConfig: TrackBook, MSIMConfig: MSIMTracker}
"""type of a config -> the tracker that is built from it"""

__all__ = [
    "TRACKERS",
    "MSIMConfig",
    "MSIMTracker",
    "MotionConfig",
    "SmoothConfig",
    "TrackBook",
    "TrackConfig",
    "Tracker",
]
