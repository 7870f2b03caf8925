"""Are the queries of a model that learned more tasks better at telling people apart (HQNet: 62.4 to
64.6 IDF1)?

    python -m benchmarks.tracking_queries --models runs/ablations --out tracking_queries.json

Takes the models that `benchmarks.ablations` trained for its table of tasks (equal steps, several
seeds) and lets each follow the people of the same generated clips, with its query and by motion
alone. "same person" needs no tracker: how often the most alike query of frames at least ten away is
of the same person (cosine; true people found by IoU of 0.5).
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.results import save
from benchmarks.tracking_quality import CROSSINGS, Clip, compare, generated, open_model, painted
from humanquery.core.boxes import iou

FOLDERS = {
    "detection": "tasks-0",
    "+ masks": "tasks-1",
    "+ keypoints": "tasks-2",
    "+ attributes": "everything",
}
APART = 10
SHOWN = (
    "found",
    "same person",
    "IDF1",
    "IDF1, motion only",
    "HOTA",
    "switches",
    "switches, motion only",
)


def same_person(clips: list[Clip]) -> float:
    """Share of found people whose most alike query, `APART` frames away or more, is of the same
    person; clips with one person have no wrong answer and are left out."""
    right, asked = 0, 0
    for clip in clips:
        frames, names, queries = _known(clip)
        if len(names.unique()) < 2:
            continue
        alike = queries @ queries.T
        alike[(frames[:, None] - frames[None]).abs() < APART] = -torch.inf
        best = alike.max(1)
        counts = best.values.isfinite()
        right += int((names[best.indices] == names)[counts].sum())
        asked += int(counts.sum())
    return right / max(asked, 1)


def _known(clip: Clip) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frame, true identity and unit query of everybody found."""
    rows = []
    for t, (truth, people) in enumerate(zip(clip.truth, clip.found, strict=True)):
        if not len(truth) or not len(people):
            continue
        best = iou(people.boxes, truth.boxes).max(1)
        ok = best.values >= 0.5
        rows.append(
            (
                torch.full((int(ok.sum()),), t),
                truth.track_ids[best.indices[ok]],
                people.embeddings[ok].float(),
            )
        )
    if not rows:
        return torch.zeros(0), torch.zeros(0), torch.zeros(0, 1)
    frames, names, queries = (torch.cat(column) for column in zip(*rows, strict=True))
    return frames, names, F.normalize(queries, dim=1)


def scores(weights: Path, clips: dict, cache: Path | None) -> dict[str, float]:
    model = open_model(str(weights), cache)
    seen = generated(clips, model)
    by_tracker = compare(seen, model.config, ("query and motion", "motion only"))
    query, motion = (by_tracker[name]["combined"] for name in ("query and motion", "motion only"))
    return {
        "found": 1 - query.misses / max(query.true_boxes, 1),
        "same person": same_person(seen),
        "IDF1": query.idf1,
        "IDF1, motion only": motion.idf1,
        "HOTA": query.hota,
        "switches": query.switches,
        "switches, motion only": motion.switches,
    }


def cell(values: list[float]) -> str:
    """Mean and half range."""
    digits = 1 if max(values) > 1 else 3
    return f"{sum(values) / len(values):.{digits}f} ± {(max(values) - min(values)) / 2:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--clips", type=int, default=CROSSINGS.count)
    parser.add_argument("--frames", type=int, default=CROSSINGS.frames)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument(
        "--cache", type=Path, help="folder where what the models find is kept for the next run"
    )
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    clips = painted(replace(CROSSINGS, count=given.clips, frames=given.frames))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for seed in given.seeds:
        for variant, folder in FOLDERS.items():
            one = scores(
                given.models / f"{folder}-seed{seed}" / "model.safetensors", clips, given.cache
            )
            found.setdefault(variant, {})[str(seed)] = one
            print(
                f"{variant}, seed {seed}: " + ", ".join(f"{k} {v:.3f}" for k, v in one.items()),
                flush=True,
            )
    print("\n| tasks | " + " | ".join(SHOWN) + " |\n" + "|---" * (len(SHOWN) + 1) + "|")
    for variant, by_seed in found.items():
        print(
            f"| {variant} | "
            + " | ".join(cell([s[name] for s in by_seed.values()]) for name in SHOWN)
            + " |"
        )
    save(given.out, given, results=found)


if __name__ == "__main__":
    main()
