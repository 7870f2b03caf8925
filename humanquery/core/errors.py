"""Errors for people: every message says where, what came, what was expected and what to do."""

import difflib
from collections.abc import Iterable


class HumanQueryError(Exception):
    """Base of every error that humanquery raises on purpose; the CLI prints its message without a
    traceback."""


class ImageError(HumanQueryError):
    """A picture that cannot be read or is not a picture."""


class VideoError(HumanQueryError):
    """A video, stream or camera that cannot be read, or a video that cannot be written."""


class AnnotationError(HumanQueryError):
    """A label file, or one entry of it, that cannot be what it says it is."""


class CheckpointError(HumanQueryError):
    """A weights file that cannot be read or belongs to another model."""


class ExportError(HumanQueryError):
    """An exported file that does not say what the network says."""


class ConfigError(HumanQueryError):
    """An unknown field, recipe or value."""


class TrainingError(HumanQueryError):
    """A training run that must not go on (a non-finite loss, say)."""


class TrackingError(HumanQueryError):
    """People of a frame that a tracker cannot follow, or a state that it cannot go on from."""


class NonFiniteError(HumanQueryError):
    """A prediction or a target is NaN or infinite, so that nobody can be matched. `stage` names
    where ("proposals", "layer0" ...), `pictures` the pictures' places in the batch.

    Where several ranks train together a system raises it on all of them or on none: a rank that
    stopped alone would leave the others waiting in their next sum. It has no pictures where only
    other ranks have any.
    """

    def __init__(self, message: str, *, stage: str = "", pictures: tuple[int, ...] = ()):
        super().__init__(message)
        self.stage = stage
        self.pictures = pictures


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: ' Did you mean ...?' and the list of known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(known) or 'none'}."
