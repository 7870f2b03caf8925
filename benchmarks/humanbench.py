"""Does sharing help? PATH on several data sets against one task at a time, and the three protocols
of fine-tuning, with one small equal budget and several seeds.

    python -m benchmarks.humanbench --out runs/humanbench

Pretraining: `path_small` (ladder projectors), the same with MLP projectors, and every data set
alone with a ladder of its own. All begin from the same fresh backbone of a seed, and a data set
sees the same pictures alone and together. Fine-tuning: the backbone that was pretrained together
(ladder) and a fresh one, with each protocol, on held-out identities (re-ID) and on counting, which
pretraining has not seen. A finished run is not repeated and a broken one goes on: call it again
after an interruption. Tables show the mean over seeds, and behind it the half range, in
HumanBench's order.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.results import save
from humanquery.commands.finetune import finetune_path
from humanquery.commands.train import train
from humanquery.core.config import override
from humanquery.models.path.config import MLPConfig
from humanquery.models.path.protocols import PROTOCOLS
from humanquery.recipes.path import path_on
from humanquery.recipes.path_evaluations import RetrievalEvaluation
from humanquery.recipes.recipe import Recipe

TOGETHER = ("reid", "pose", "parsing", "attributes")
DOWNSTREAM = {"path_reid": "in-dataset", "path_counting": "unseen task"}
SCORES = {
    "reid/mAP": "re-ID mAP",
    "reid/rank_1": "re-ID rank 1",
    "pose/PCK": "pose PCK@0.2",
    "pose/EPE": "pose EPE px (lower)",
    "parsing/mIoU": "parsing mIoU",
    "parsing/pixel_accuracy": "parsing pixels",
    "attributes/mean_accuracy": "attributes mA",
    "attributes/mean_f1": "attributes F1",
    "counting/mae": "counting MAE (lower)",
    "counting/rmse": "counting RMSE (lower)",
}


def pretrainings(names: tuple[str, ...], steps: int, limit: int = 0) -> dict[str, Recipe]:
    """Recipes by the name of their row; `limit`: pictures that are scored per data set."""

    def on(names: tuple[str, ...]) -> Recipe:
        recipe = path_on(names, steps=steps)
        # a part of a gallery would be another task
        scored = [
            e if isinstance(e, RetrievalEvaluation) else replace(e, limit=limit)
            for e in recipe.evaluations
        ]
        return replace(recipe, evaluations=tuple(scored))

    together = on(names)
    mlp = replace(together, model=replace(together.model, projector=MLPConfig()))
    alone = {f"{name} alone": on((name,)) for name in names}
    return {"together, ladder": together, "together, MLP": mlp, **alone}


def once(folder: Path, make) -> dict[str, float | None]:
    """Scores of a run in its folder; `make(folder, resume)` trains it where there are none yet."""
    scores = folder / "scores.json"
    if not scores.exists():
        result = make(folder, any(folder.glob("state-*")))
        scores.write_text(
            json.dumps({"seconds": result.seconds, **result.evaluation}, indent=1) + "\n"
        )
        for state in folder.glob("state-*"):
            state.unlink()
    return json.loads(scores.read_text())


def pretrain(out: Path, recipe: Recipe, row: str, seed: int, changes: list[str]):
    recipe = override(recipe, [f"engine.seed={seed}", *changes])
    folder = out / f"{row.replace(', ', '-').replace(' ', '-')}-seed{seed}"
    return once(folder, lambda at, resume: train(recipe, [], at, resume=resume))


def tune(out: Path, given: argparse.Namespace, recipe: str, protocol: str, start: str, seed: int):
    """`start`: "pretrained" or "fresh", the latter from weights that learned for no step."""
    weights = out / f"together-ladder-seed{seed}/model.safetensors"
    changes = [f"engine.seed={seed}", *given.set]
    if start == "fresh":
        folder = out / f"fresh-seed{seed}"
        nothing = path_on(tuple(given.data), steps=0)
        pretrain(out, replace(nothing, evaluations=()), "fresh", seed, given.set)
        weights = folder / "model.safetensors"
    folder = out / f"{recipe}-{protocol}-{start}-seed{seed}"
    return once(
        folder,
        lambda at, resume: finetune_path(
            weights, recipe, protocol, at, steps=given.tune_steps, overrides=changes, resume=resume
        ),
    )


def row(found: list[dict[str, float | None]]) -> dict[str, tuple[float, float]]:
    """Mean and half range over seeds of every score that all of them have."""
    names = [name for name in SCORES if all(f.get(name) is not None for f in found)]
    columns = {name: [f[name] for f in found] for name in names}
    return {name: (sum(v) / len(v), (max(v) - min(v)) / 2) for name, v in columns.items()}


def show(rows: dict[str, dict[str, tuple[float, float]]]) -> str:
    """A table of the scores that any row has."""
    shown = [name for name in SCORES if any(name in scores for scores in rows.values())]
    lines = ["| | " + " | ".join(SCORES[n] for n in shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for title, scores in rows.items():
        cells = [f"{scores[n][0]:.3f} ± {scores[n][1]:.3f}" if n in scores else "-" for n in shown]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/humanbench"))
    parser.add_argument("--data", nargs="+", default=list(TOGETHER), help="of pretraining")
    parser.add_argument("--steps", type=int, default=400, help="of pretraining")
    parser.add_argument("--tune-steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--limit", type=int, default=0, help="pictures scored per data set; 0: all")
    parser.add_argument("--set", action="append", default=[], help="changes for every run")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    pretrained: dict[str, list] = {}
    tuned: dict[str, list] = {}
    results: dict[str, dict] = {}
    for seed in given.seeds:
        for name, recipe in pretrainings(tuple(given.data), given.steps, given.limit).items():
            scores = pretrain(given.out, recipe, name, seed, given.set)
            pretrained.setdefault(name, []).append(scores)
        for recipe, kind in DOWNSTREAM.items():
            for start in ("pretrained", "fresh"):
                for protocol in PROTOCOLS:
                    scores = tune(given.out, given, recipe, protocol, start, seed)
                    title = f"{kind}: {recipe.removeprefix('path_')}, {protocol}, {start}"
                    tuned.setdefault(title, []).append(scores)
        results = {
            "pretraining": {name: row(found) for name, found in pretrained.items()},
            "fine-tuning": {name: row(found) for name, found in tuned.items()},
        }
        save(given.out / "humanbench.json", given, seeds_done=seed, results=results)
    for title, rows in results.items():
        print(f"\n{title}, seeds {given.seeds}\n{show(rows)}")
    print(f"\nwritten: {given.out / 'humanbench.json'}")


if __name__ == "__main__":
    main()
