"""What a model's human query says about who is who, fitted on videos without labels and written
into its card.

    python -m humanquery.commands.identity a.mp4 b.mp4 --weights model.safetensors

`track` compares queries only of models whose card has this: a query that says little is worse than
none. The videos need several people at once, and must not be those on which tracking is scored.
Without `--out` the fit is only printed; see what it does to scores of tracking
(`benchmarks.tracking_quality`) before writing it.
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np

from humanquery.core.config import from_plain
from humanquery.core.errors import HumanQueryError
from humanquery.core.persons import Persons
from humanquery.engine.checkpoint import read_weights, save_state_dict
from humanquery.media.video import open_video
from humanquery.models import SystemConfig
from humanquery.predict import load
from humanquery.predict.base import BasePredictor
from humanquery.tracking.identity import IdentityEvidence, QueryPairs, query_pairs


def pairs_of(predictor: BasePredictor, videos: Iterable[Path], frames: int) -> QueryPairs:
    """The pairs of all videos together, of the first `frames` of each (0: all)."""
    found = []
    for path in videos:
        with open_video(path) as video:
            pictures = (frame.image for frame in islice(video, frames or None))
            people: list[Persons] = list(predictor.predict_many(pictures, tasks=()))
        found.append(query_pairs(people, least_score=predictor.default_score))
    return QueryPairs(
        np.concatenate([pairs.same for pairs in found]),
        np.concatenate([pairs.other for pairs in found]),
    )


def write_identity(
    weights: Path, out: Path, evidence: IdentityEvidence, pairs: QueryPairs
) -> dict[str, float | int]:
    """Copies `weights` to `out` with a card that tells the evidence, which is returned."""
    read = read_weights(weights)
    said = asdict(evidence) | {
        "auc": round(pairs.auc(), 4),
        "pairs": len(pairs.same),
        "pairs_of_two": len(pairs.other),
    }
    config = from_plain(SystemConfig, read.config)
    save_state_dict(out, read.state, config, read.card | {"identity": said}, half=True)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=0, help="of each video; 0: all")
    parser.add_argument("--out", type=Path, help="the weights to write, with the fit in the card")
    asked = parser.parse_args()
    try:
        pairs = pairs_of(load(asked.weights), asked.videos, asked.frames)
        evidence = pairs.fit()
        print(f"{evidence}: AUC {pairs.auc():.3f}, {len(pairs.same)} and {len(pairs.other)} pairs")
        if asked.out is not None:
            write_identity(asked.weights, asked.out, evidence, pairs)
    except HumanQueryError as problem:
        sys.exit(f"error: {problem}")


if __name__ == "__main__":
    main()
