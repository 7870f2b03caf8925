"""Who is who over time. A `Tracker` is asked once per frame, `update(persons) -> persons`; its ids
belong to it."""

from humanquery.tracking.book import TrackBook, TrackConfig
from humanquery.tracking.motion import MotionConfig
from humanquery.tracking.smoothing import SmoothConfig
from humanquery.tracking.tracker import Tracker

__all__ = ["MotionConfig", "SmoothConfig", "TrackBook", "TrackConfig", "Tracker"]
