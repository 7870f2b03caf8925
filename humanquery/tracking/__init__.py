"""Who is who over time. A tracker is `book.update(persons) -> persons` per frame; its ids belong to
the book."""

from humanquery.tracking.book import TrackBook, TrackConfig
from humanquery.tracking.motion import MotionConfig
from humanquery.tracking.smoothing import SmoothConfig

__all__ = ["MotionConfig", "SmoothConfig", "TrackBook", "TrackConfig"]
