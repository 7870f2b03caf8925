"""Tracking, scored: a file of results, or a model that follows people through clips."""

from collections.abc import Iterator
from pathlib import Path

from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.core.persons import Persons
from humanquery.data.readers.mot import MotSource, read_mot
from humanquery.evaluation.track_metrics import (
    POSETRACK21,
    TrackingReport,
    TrackingRules,
    evaluate_tracking,
)
from humanquery.media.video import Frame
from humanquery.predict.base import BasePredictor
from humanquery.predict.track_video import track_config, track_frames
from humanquery.tracking import TrackBook, TrackConfig

RULES = {"mot": TrackingRules(), "posetrack21": POSETRACK21}


def evaluate_tracks(
    data: Path,
    results: Path | None = None,
    *,
    predictor: BasePredictor | None = None,
    config: TrackConfig | None = None,
    rules: str = "mot",
) -> TrackingReport:
    """MOTA, IDF1, HOTA of a clip in MOT layout (`data` holds `gt/gt.txt`), or of every such clip in
    the folder `data`.

    `results` is MOT text, for several clips a folder with one `<clip>.txt` each; without it
    `predictor` looks at the clips itself. `rules`: "mot", or "posetrack21" (boxes of whole pixels).
    """
    if rules not in RULES:
        raise ConfigError(f"rules {rules!r}; expected one of {', '.join(RULES)}")
    if (results is None) == (predictor is None):
        raise ConfigError(
            "scoring tracks needs either a file of results or a model that looks at the clips"
        )
    sequences = {}
    for clip in find_clips(data):
        source = MotSource(clip)
        if results is None:
            found = list(_followed(predictor, source, config))
        else:
            file = results / f"{clip.name}.txt" if results.is_dir() else results
            found = read_mot(file, num_frames=len(source))
        sequences[source.name] = (source.frames, found)
    return evaluate_tracking(sequences, RULES[rules])


def find_clips(data: Path) -> list[Path]:
    """`data` itself, or the folders in it, that hold `gt/gt.txt`; none raises AnnotationError."""
    clips = [
        folder for folder in [data, *sorted(data.glob("*"))] if (folder / "gt" / "gt.txt").is_file()
    ]
    if not clips:
        raise AnnotationError(
            f"{data}: no clip in MOT layout; expected gt/gt.txt and pictures in it or in its "
            f"folders"
        )
    return clips[:1] if clips[0] == data else clips


def _followed(
    predictor: BasePredictor, source: MotSource, config: TrackConfig | None
) -> Iterator[Persons]:
    rate = source.frame_rate or 25.0
    frames = (Frame(source[i].image, i, i / rate) for i in range(len(source)))
    book = TrackBook(config or track_config(predictor))
    for _, people in track_frames(predictor, frames, book):
        yield people
