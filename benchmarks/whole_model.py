"""The whole model on one CPU thread: one pass for all tasks, more people, masks to RLE, batches,
sizes, rivals.

    python -m benchmarks.whole_model                    the quick parts, with the shipped model
    python -m benchmarks.whole_model --parts graphs     CUDA graphs, on a machine with a GPU
    python -m benchmarks.whole_model --model hqnet_r50 --side 320 --parts people rivals \\
        --rivals FOLDER                                 which holds the package transformers

Seconds are of `predict` (network, decoding, masks), without reading pictures. What is compared
runs in turns, in an order that changes with every round, and each ratio is of neighbours in
time: median and quartiles over the rounds. CPU seconds of the one-threaded process stand beside
the clock's, which other work on the machine stretches. Recipes have random weights, laid out and
folded as `load` does it: their time is a trained model's, while their masks, being noise over
the whole picture, are the worst case.
"""

import argparse
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import save
from humanquery.core.batch import Batch, Sample
from humanquery.core.masks import bitmaps_to_rles
from humanquery.core.system import Ask
from humanquery.data.scenes.scenes import open as open_scenes
from humanquery.data.scenes.scenes import street_scenes
from humanquery.media.letterbox import letterbox
from humanquery.models.hqnet.hqnet import HQNet
from humanquery.predict import load
from humanquery.predict.loading import optimise_for_inference
from humanquery.predict.predictor import LAYOUT
from humanquery.recipes import find

QUICK = ("tasks", "people", "masks")
SUBSETS = {
    "detection": (),
    "+ masks": ("masks",),
    "+ keypoints": ("keypoints",),
    "+ attributes": ("gender", "age"),
}
PEOPLE = (1, 10, 25, 50)
BATCHES = (1, 2, 4, 8)
SIDES = (256, 320, 416, 512, 640, 800)
MASK_SIZE = (800, 1333)
MASK_PEOPLE = {"people of 60 x 150 px": (60, 150), "people of 250 x 600 px": (250, 600)}


def in_turns(cases: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """CPU and clock seconds of every case in every round, after one call of each that is not
    counted."""
    order, draw = list(cases), random.Random(0)
    for case in cases.values():
        case()
    seconds: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "clock": []} for name in cases}
    for _ in range(rounds):
        draw.shuffle(order)
        for name in order:
            cpu, clock = time.process_time(), time.perf_counter()
            cases[name]()
            seconds[name]["cpu"].append(time.process_time() - cpu)
            seconds[name]["clock"].append(time.perf_counter() - clock)
    return seconds


def compared(
    seconds: dict[str, dict[str, list[float]]], base: str, by: str = "cpu"
) -> dict[str, dict[str, Any]]:
    """Medians, and the ratio of CPU (or clock) seconds to those of `base` in the same round:
    median and quartiles."""
    rows = {}
    for name, kinds in seconds.items():
        ratios = [mine / theirs for mine, theirs in zip(kinds[by], seconds[base][by], strict=True)]
        rows[name] = {kind: statistics.median(values) for kind, values in kinds.items()}
        rows[name] |= {
            "ratio": statistics.median(ratios),
            "quartiles": _quartiles(ratios),
            "base": base,
        }
    return rows


def _quartiles(values: list[float]) -> list[float]:
    if len(values) < 2:
        return [values[0], values[0]]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]


def build(name: str, people: int = max(PEOPLE)) -> HQNet:
    """A recipe's model with random weights and no pretrained files, or a shipped or trained one,
    able to give `people`."""
    if not name.startswith("hqnet_"):
        system = load(name, device="cpu").system
        system.config = replace(system.config, num_persons=system.config.num_queries)
        return system
    config = find(name).model
    if hasattr(config.backbone, "pretrained"):
        config = replace(config, backbone=replace(config.backbone, pretrained=False))
    queries = max(config.num_queries, people)
    torch.manual_seed(0)
    return optimise_for_inference(
        HQNet(replace(config, num_queries=queries, num_persons=queries)).eval()
    ).to(memory_format=LAYOUT)


def pictures(side: int, count: int = 1) -> Batch:
    """Generated street scenes of 3:4 whose short side is `side`."""
    scenes = open_scenes(street_scenes(seed=1, size=(384, 512)))
    samples = [Sample(*letterbox(scenes[i].image, side, 10 * side)) for i in range(count)]
    batch = Batch.collate(samples, divisor=32)
    return replace(batch, images=batch.images.contiguous(memory_format=LAYOUT))


def tasks_part(model: HQNet, batch: Batch, rounds: int, people: int) -> dict[str, Any]:
    """Each task alone and all together, against detection only."""
    wanted = {
        name: tasks
        for name, tasks in SUBSETS.items()
        if not tasks or set(tasks) & set(model.outputs)
    }
    cases = {
        n: lambda t=t: model.predict(batch, Ask(outputs=frozenset(t), max_persons=people))
        for n, t in wanted.items()
    }
    cases["everything"] = lambda: model.predict(batch, Ask(max_persons=people))
    return compared(in_turns(cases, rounds), "detection")


def people_part(model: HQNet, batch: Batch, rounds: int) -> dict[str, Any]:
    """All tasks for more and more people."""
    most = model.config.num_queries
    counts = sorted({min(k, most) for k in PEOPLE})
    cases = {f"{k} people": lambda k=k: model.predict(batch, Ask(max_persons=k)) for k in counts}
    return compared(in_turns(cases, rounds), f"{counts[0]} people")


def ellipses(width: int, height: int, count: int = 100) -> torch.Tensor:
    """Bitmaps n h w of `MASK_SIZE` with one ellipse each, anywhere."""
    draw = torch.Generator().manual_seed(0)
    y, x = torch.arange(MASK_SIZE[0])[:, None] + 0.5, torch.arange(MASK_SIZE[1])[None] + 0.5
    centers = torch.rand(count, 2, generator=draw) * torch.tensor([MASK_SIZE[1], MASK_SIZE[0]])
    rows = [((x - cx) / width) ** 2 + ((y - cy) / height) ** 2 < 0.25 for cx, cy in centers]
    return torch.stack(rows)


def masks_part(rounds: int) -> dict[str, Any]:
    """A hundred bitmaps to RLE, against pycocotools with the Fortran-ordered copy that it needs."""
    rows = {}
    for name, (width, height) in MASK_PEOPLE.items():
        masks = ellipses(width, height)
        cases = {
            "ours": lambda m=masks: bitmaps_to_rles(m),
            "pycocotools": lambda m=masks: _pycocotools(m),
        }
        rows |= {
            f"{name}, {who}": row for who, row in compared(in_turns(cases, rounds), "ours").items()
        }
    return rows


def _pycocotools(masks: torch.Tensor) -> list[dict[str, Any]]:
    import numpy as np
    from pycocotools import mask as mask_api

    return mask_api.encode(np.asfortranarray(masks.numpy().view(np.uint8).transpose(1, 2, 0)))


def batches_part(model: HQNet, side: int, rounds: int, people: int) -> dict[str, Any]:
    """CPU seconds per picture in batches of several sizes, against one by one."""
    batches = {n: pictures(side, n) for n in BATCHES}
    cases = {
        f"batch {n}": lambda b=b: model.predict(b, Ask(max_persons=people))
        for n, b in batches.items()
    }
    seconds = in_turns(cases, rounds)
    each = {
        f"batch {n}": {k: [s / n for s in v] for k, v in seconds[f"batch {n}"].items()}
        for n in BATCHES
    }
    return compared(each, f"batch {BATCHES[0]}")


def compile_part(model: HQNet, batch: Batch, rounds: int) -> dict[str, Any]:
    """The backbone, plain and through torch.compile.

    Not of a backbone that also says something about people: what `forward` does not return, a
    compiled one never computes.
    """
    if model.config.priors:
        sys.exit(
            "--parts compile: a backbone with priors would be compiled without them; give --model "
            "hqnet_r50"
        )
    start = time.perf_counter()
    fast = torch.compile(model.backbone)
    fast(batch.images)
    seconds = time.perf_counter() - start
    cases = {"plain": lambda: model.backbone(batch.images), "compiled": lambda: fast(batch.images)}
    rows = compared(in_turns(cases, rounds), "plain")
    rows["compiled"]["seconds_to_compile"] = seconds
    return rows


def graphs_part(name: str, side: int, rounds: int) -> dict[str, Any]:
    """`predict` on a GPU, plain and with CUDA graphs; seconds of the clock, to the people on the
    host."""
    if not torch.cuda.is_available():
        sys.exit("--parts graphs: there is no CUDA device here")
    picture = open_scenes(street_scenes(seed=1, size=(side, side * 4 // 3)))[0].image
    predictors = {
        "plain": load(name, device="cuda"),
        "graphs": load(name, device="cuda", graphs=True),
    }
    return compared(
        in_turns({k: lambda v=v: v.predict(picture) for k, v in predictors.items()}, rounds),
        "plain",
        "clock",
    )


def sizes_part(
    names: list[str], sides: tuple[int, ...], rounds: int, people: int
) -> dict[str, Any]:
    """Parameters, seconds per picture and memory by model and short side (3:4)."""
    rows = {}
    for name in names:
        model = build(name)
        parameters = sum(p.numel() for p in model.parameters())
        for side in sides:
            batch = pictures(side)
            before = _fresh_peak()
            found = in_turns(
                {"it": lambda m=model, b=batch: m.predict(b, Ask(max_persons=people))}, rounds
            )["it"]
            rows[f"{name}, {side} px"] = {
                kind: statistics.median(values) for kind, values in found.items()
            } | {
                "parameters": parameters,
                "memory_mb": (_peak() - before) / 2**20,
            }
    return rows


def _fresh_peak() -> float:
    """Resident bytes now; the highest-water mark starts anew where Linux lets us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    return _peak()


def _peak() -> float:
    """Bytes: the highest resident memory so far."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    marks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    return marks[0] if marks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def rivals_part(model: HQNet, side: int, rounds: int) -> dict[str, Any]:
    """Everything about k people from us; boxes from Transformers' DETRs; masks, then joints from
    torchvision's two R-CNNs."""
    batch = pictures(side)
    images, size = batch.images.contiguous(), batch.metas[0].canvas_size
    cases: dict[str, Callable[[], Any]] = {}
    for k in (PEOPLE[0], PEOPLE[-1]):
        cases[f"HQNet, {k} people: all tasks"] = lambda k=k: model.predict(
            batch, Ask(max_persons=k)
        )
        mask_rcnn, keypoint_rcnn = _torchvision(k, size)
        cases[f"Mask R-CNN + Keypoint R-CNN, {k} people"] = lambda a=mask_rcnn, b=keypoint_rcnn: (
            a(list(images)),
            b(list(images)),
        )
    for name, detr in _transformers().items():
        cases[f"{name}: boxes"] = lambda m=detr: m(pixel_values=images)
    return compared(in_turns(cases, rounds), f"HQNet, {PEOPLE[0]} people: all tasks")


def _torchvision(people: int, size: tuple[int, int]) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Random weights; thresholds that let exactly `people` through."""
    from torchvision.models import detection

    forced = {
        "weights": None,
        "weights_backbone": None,
        "num_classes": 2,
        "min_size": min(size),
        "max_size": max(size),
        "box_detections_per_img": people,
        "box_score_thresh": 0.0,
        "box_nms_thresh": 1.0,
    }
    torch.manual_seed(0)
    models = (
        detection.maskrcnn_resnet50_fpn(**forced),
        detection.keypointrcnn_resnet50_fpn(**forced),
    )
    return tuple(model.eval() for model in models)


def _transformers() -> dict[str, torch.nn.Module]:
    from transformers import (
        DeformableDetrConfig,
        DeformableDetrForObjectDetection,
        RTDetrV2Config,
        RTDetrV2ForObjectDetection,
    )

    torch.manual_seed(0)
    return {
        "DeformableDetr-R50": DeformableDetrForObjectDetection(
            DeformableDetrConfig(use_pretrained_backbone=False)
        ).eval(),
        "RT-DETRv2-R50": RTDetrV2ForObjectDetection(RTDetrV2Config()).eval(),
    }


def table(part: str, rows: dict[str, dict[str, Any]]) -> str:
    lines = [f"{part:<44}{'CPU s':>9}{'clock s':>9}{'ratio':>8}  quartiles"]
    for name, row in rows.items():
        ratio = (
            "{:>7.2f}x  {:.2f} .. {:.2f}".format(row["ratio"], *row["quartiles"])
            if "ratio" in row
            else ""
        )
        memory = (
            f"{row['parameters'] / 1e6:>8.1f} M{row['memory_mb']:>8.0f} MB"
            if "memory_mb" in row
            else ""
        )
        lines.append(f"{name:<44}{row['cpu']:>9.4f}{row['clock']:>9.3f}{ratio}{memory}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        default=list(QUICK),
        choices=(*QUICK, "batches", "compile", "sizes", "rivals", "graphs"),
    )
    parser.add_argument(
        "--model", default="hqnet-small", help="a recipe (random weights), a shipped name or a file"
    )
    parser.add_argument("--side", type=int, default=416, help="short side of the picture, px")
    parser.add_argument(
        "--people", type=int, default=10, help="people where they are not what is varied"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--models",
        nargs="+",
        default=["hqnet_tiny_scenes", "hqnet-small", "hqnet_r50"],
        help="of sizes",
    )
    parser.add_argument("--sides", type=int, nargs="+", default=list(SIDES), help="of sizes")
    parser.add_argument("--rivals", type=Path, help="folder that holds the package transformers")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.rivals:
        sys.path.append(str(given.rivals))
    model = build(given.model) if set(given.parts) - {"masks", "sizes", "graphs"} else None
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "tasks": lambda: tasks_part(model, pictures(given.side), given.rounds, given.people),
        "people": lambda: people_part(model, pictures(given.side), given.rounds),
        "masks": lambda: masks_part(given.rounds),
        "batches": lambda: batches_part(model, given.side, given.rounds, given.people),
        "compile": lambda: compile_part(model, pictures(given.side), given.rounds),
        "sizes": lambda: sizes_part(given.models, tuple(given.sides), given.rounds, given.people),
        "graphs": lambda: graphs_part(given.model, given.side, given.rounds),
        "rivals": lambda: rivals_part(model, given.side, given.rounds),
    }
    results: dict[str, Any] = {}
    with torch.inference_mode():
        for part in given.parts:
            results[part] = parts[part]()
            print(table(part, results[part]), flush=True)
            save(given.out, given, parts=results)


if __name__ == "__main__":
    main()
