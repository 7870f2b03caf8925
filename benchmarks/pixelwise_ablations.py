"""What CIR, KQE and PQE add (Tables 2, 3, 4 and 6 of Xiao et al., AAAI 2022), with one small equal
budget and several seeds, and how the score ranks poses.

    python -m benchmarks.pixelwise_ablations --out runs/pixelwise-ablations
    python -m benchmarks.pixelwise_ablations --recipe pixelwise_small --steps 6000 --out runs/photos

Trains variants of a recipe and scores each on the same unseen pictures: keypoint AP, and Spearman's
rank correlation between the score and the OKS of the five best poses of each picture (Fig. 5). A
finished run is not repeated and a broken one goes on: call it again after an interruption, on any
machine. All variants of one seed come before the next seed. With --plot the scores are painted
against OKS. The table shows the mean over seeds, and behind it the half range.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.stats import spearmanr

from benchmarks.results import save
from humanquery.commands.train import train
from humanquery.core.config import override
from humanquery.core.oks import oks
from humanquery.core.persons import Persons
from humanquery.core.system import Ask
from humanquery.core.target import Target
from humanquery.data.loading.loader import EvalLoader
from humanquery.data.readers.sources import open_source
from humanquery.predict import load
from humanquery.recipes import find

POSES = 5
"""of a picture whose scores are compared with their OKS, as in Fig. 5"""


@dataclass(frozen=True)
class Variant:
    label: str = "cir"
    encoded: bool = True
    points: int = 9
    query: str = "query"
    quality: bool = False

    @property
    def name(self) -> str:
        """Of its folder."""
        parts = f"N{self.points}" if self.encoded else "direct"
        return f"{self.label}-{parts}-{self.query}" + ("-qeb" if self.quality else "")

    def settings(self) -> list[str]:
        """The `--set` of the variant. The pose query comes first: without KQE there is none, and
        each change by itself must leave a config that can be."""
        return [
            f"model.instance.pose_query={self.query}",
            f"model.keypoints.query_encoding={self.encoded}",
            f"model.keypoints.semantic_points={self.points}",
            f"model.instance.label={self.label}",
            f"model.instance.quality_branch={self.quality}",
        ]


TABLES: dict[str, dict[str, Variant]] = {
    "components": {
        "1: Gaussian": Variant("gaussian", encoded=False, query="none"),
        "2: CIR": Variant(encoded=False, query="none"),
        "3: CIR, KQE": Variant(query="none"),
        "4: Gaussian, KQE, PQE": Variant("gaussian"),
        "5: CIR, KQE, PQE": Variant(),
    },
    "labels": {
        "{0,1}": Variant("disc"),
        "{0,1}, quality branch": Variant("disc", quality=True),
        "Gaussian": Variant("gaussian"),
        "Gaussian, quality branch": Variant("gaussian", quality=True),
        "CIR": Variant(),
    },
    "points": {f"N = {n}": Variant(points=n) for n in (0, 3, 6, 9, 12, 15)},
    "queries": {
        "Auto": Variant(query="auto"),
        "semantic points": Variant(query="semantic"),
        "keypoints": Variant(query="keypoints"),
        "keypoint queries": Variant(),
    },
}
PAPER = {
    "components": (63.5, 64.5, 68.4, 68.3, 69.8),
    "labels": (67.7, 68.6, 68.3, 69.0, 69.8),
    "points": (68.5, 68.9, 69.2, 69.8, 69.6, 69.1),
    "queries": (68.8, 68.9, 69.0, 69.8),
}
"""keypoint AP of HRNet-W32 on COCO val2017, in the order of `TABLES`"""
SCORES = {"keypoints/ap": "keypoint AP", "keypoints/ap50": "AP50", "rank": "score ~ OKS"}


def best_oks(found: Persons, true: Target) -> torch.Tensor:
    """Of each found pose the OKS with the true person that it is most like; 0 without people."""
    people = true.people()
    known = people[people.counted_joints.any(1)]
    if not len(known):
        return torch.zeros(len(found))
    sigmas = torch.tensor(found.skeleton.sigmas)
    pairs = oks(
        found.keypoints[:, None], known.keypoints.value[None], known.areas[None], sigmas,
        known.counted_joints[None],
    )  # fmt: skip
    return pairs.amax(1)


def scored_poses(weights: Path, recipe: str, settings: list[str]) -> Iterator[tuple[float, float]]:
    """Score and OKS of the best poses of every picture of the recipe's evaluation part."""
    data = override(find(recipe), settings).data
    predictor = load(weights)
    device = next(predictor.system.parameters()).device
    for batch, truths in EvalLoader(open_source(data.val), data.letterbox, 4, divisor=32):
        seen = predictor.system.predict(batch.to(device), Ask(0.0, max_persons=POSES))
        for picture, truth in zip(seen, truths, strict=True):
            people = picture.persons.to("cpu")
            yield from zip(people.scores.tolist(), best_oks(people, truth).tolist(), strict=True)


def run(out: Path, recipe: str, variant: Variant, seed: int, budget: list[str]) -> dict:
    """Scores of one variant and seed; tables that share a variant share its run."""
    folder = out / f"{variant.name}-seed{seed}"
    kept = folder / "scores.json"
    if not kept.exists():
        settings = [
            *variant.settings(),
            *budget,
            f"engine.seed={seed}",
            "engine.evaluate_every=0",
            "engine.tensorboard=False",
        ]
        result = train(recipe, settings, folder, resume=any(folder.glob("state-*")))
        pairs = list(scored_poses(result.weights, recipe, settings))
        rank = float(spearmanr(*zip(*pairs, strict=True)).statistic)
        found = {"settings": settings, "seconds": result.seconds, "rank": rank, "poses": pairs}
        kept.write_text(json.dumps(found | result.evaluation))
        for state in folder.glob("state-*"):
            state.unlink()
    return json.loads(kept.read_text())


def row(found: list[dict]) -> dict[str, tuple[float, float]]:
    """Mean and half range over seeds of every score."""
    columns = {name: [f[name] for f in found] for name in SCORES}
    return {name: (sum(v) / len(v), (max(v) - min(v)) / 2) for name, v in columns.items()}


def show(table: str, rows: dict[str, dict[str, tuple[float, float]]]) -> str:
    heads = ["", *SCORES.values(), "AP in the paper"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    published = dict(zip(TABLES[table], PAPER[table], strict=True))
    for variant, scores in rows.items():
        cells = [f"{scores[name][0]:.3f} ± {scores[name][1]:.3f}" for name in SCORES]
        lines.append(f"| {variant} | {' | '.join(cells)} | {published[variant] / 100:.3f} |")
    return "\n".join(lines)


def paint(panels: dict[str, list[tuple[float, float]]], png: Path) -> None:
    """A scatter of score and OKS for each name (Fig. 5)."""
    from matplotlib.figure import Figure  # no pyplot: it would choose a window system

    figure = Figure(figsize=(3.4 * len(panels), 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, (name, pairs) in zip(axes, panels.items(), strict=True):
        panel.scatter(*zip(*pairs, strict=True), s=4, alpha=0.4, linewidths=0)
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("score")
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1)
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("OKS with the nearest person")
    png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/pixelwise-ablations"))
    parser.add_argument("--recipe", default="pixelwise_tiny_scenes")
    parser.add_argument("--only", choices=tuple(TABLES), nargs="+", default=list(TABLES))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--set", action="append", default=[], help="further changes for every variant"
    )
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument("--plot", type=Path, help="a picture of the scores of the table `labels`")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    budget = [f"engine.steps={given.steps}", *given.set]
    found: dict[str, dict[str, list[dict]]] = {table: {} for table in given.only}
    for seed in given.seeds:
        for table in given.only:
            for name, variant in TABLES[table].items():
                scores = run(given.out, given.recipe, variant, seed, budget)
                found[table].setdefault(name, []).append(scores)
    results = {t: {name: row(runs) for name, runs in rows.items()} for t, rows in found.items()}
    for table, rows in results.items():
        print(f"\n{table}: {given.steps} steps, seeds {given.seeds}\n{show(table, rows)}")
    if given.plot and "labels" in found:
        paint({name: runs[0]["poses"] for name, runs in found["labels"].items()}, given.plot)
    save(given.out / "ablations.json", given, results=results)


if __name__ == "__main__":
    main()
