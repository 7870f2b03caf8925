"""What each task adds and what each matching cost adds, with one small equal budget and several
seeds.

    python -m benchmarks.ablations --out runs/ablations

Trains variants of `hqnet_tiny_scenes` from scratch and scores each on the same unseen scenes.
`tasks` asks HQNet's Table 7 (detection only, + masks, + keypoints, + attributes), `matching` its
Table A4 (the assignment sees boxes, + keypoints, + masks; all tasks are trained). A finished run is
not repeated and a broken one goes on: call it again after an interruption. The table shows the mean
over seeds, and behind it the half range.
"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks.results import save
from humanquery.commands.train import train

RECIPE = "hqnet_tiny_scenes"
POSE, ATTRIBUTES = ("keypoints", "keypoint_confidence"), ("gender", "age")
VARIANTS = {
    "tasks": {
        "detection": ("mask", *POSE, *ATTRIBUTES),
        "+ masks": (*POSE, *ATTRIBUTES),
        "+ keypoints": ATTRIBUTES,
        "+ attributes": (),
    },
    "matching": {
        "boxes": ("person", "box"),
        "boxes + keypoints": ("person", "box", *POSE),
        "boxes + keypoints + masks": ("person", "box", *POSE, "mask"),
    },
}
SCORES = {
    "box/ap": "box AP",
    "mask/ap": "mask AP",
    "keypoints/ap": "keypoint AP",
    "gender/ap": "gender AP",
    "gender/accuracy": "gender right",
    "age/mean_error": "age error",
}


def changes(table: str, variant: str) -> list[str]:
    """The `--set` of a variant: tasks that are left out, or the tasks that the assignment sees."""
    choice = VARIANTS[table][variant]
    if table == "matching":
        return [f"model.matching={choice!r}"]
    kept = tuple(
        name for name in VARIANTS["matching"]["boxes + keypoints + masks"] if name not in choice
    )
    return [f"model.tasks.{name}=None" for name in choice] + [f"model.matching={kept!r}"]


def run(out: Path, table: str, variant: str, seed: int, budget: list[str]) -> dict[str, float]:
    """Scores of one variant and seed; equal variants of the two tables share their run."""
    extra = changes(table, variant)
    whole = extra == changes("tasks", "+ attributes")
    name = "everything" if whole else f"{table}-{list(VARIANTS[table]).index(variant)}"
    folder = out / f"{name}-seed{seed}"
    scores = folder / "scores.json"
    if not scores.exists():
        settings = [
            *extra,
            *budget,
            f"engine.seed={seed}",
            "engine.evaluate_every=0",
            "engine.tensorboard=False",
        ]
        result = train(RECIPE, settings, folder, resume=any(folder.glob("state-*")))
        scores.write_text(
            json.dumps(
                {"settings": settings, "seconds": result.seconds, **result.evaluation}, indent=1
            )
        )
        for state in folder.glob("state-*"):
            state.unlink()
    return json.loads(scores.read_text())


def row(found: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Mean and half range over seeds of every score that all of them have."""
    names = [name for name in SCORES if all(f.get(name) is not None for f in found)]
    columns = {name: [f[name] for f in found] for name in names}
    return {name: (sum(v) / len(v), (max(v) - min(v)) / 2) for name, v in columns.items()}


def show(rows: dict[str, dict[str, tuple[float, float]]]) -> str:
    lines = ["| | " + " | ".join(SCORES.values()) + " |", "|---" * (len(SCORES) + 1) + "|"]
    for variant, scores in rows.items():
        cells = [f"{scores[n][0]:.3f} ± {scores[n][1]:.3f}" if n in scores else "-" for n in SCORES]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--only", choices=tuple(VARIANTS), help="one of the two tables")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--set", action="append", default=[], help="further changes for every variant"
    )
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    budget = [f"engine.steps={given.steps}", *given.set]
    tables: dict[str, dict] = {}
    for seed in given.seeds:
        for table in [given.only] if given.only else VARIANTS:
            for variant in VARIANTS[table]:
                tables.setdefault(table, {}).setdefault(variant, []).append(
                    run(given.out, table, variant, seed, budget)
                )
    results = {
        table: {variant: row(found) for variant, found in rows.items()}
        for table, rows in tables.items()
    }
    for table, rows in results.items():
        print(f"\n{table}: {given.steps} steps, seeds {given.seeds}\n{show(rows)}")
    path = given.out / "ablations.json"
    save(path, given, results=results)
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
