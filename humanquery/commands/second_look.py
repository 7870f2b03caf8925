"""Trains the second look at masks alone, on what a frozen HQNet cuts out of its maps: minutes
instead of hours.

    python -m humanquery.commands.second_look --weights runs/small/model.safetensors \\
        --data people/train.json --out runs/masks

All that the second look reads of a person (`MaskRefinement.cut`) is computed once for each photo
and its mirror image and kept in `--out`; then the engine trains its few convolutions on these for
some rounds. Ends with OUT/model.safetensors, the weights with the trained part in place. Killed, it
goes on where it was when it is started again.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from humanquery.core.affine import Affine2D
from humanquery.core.batch import Batch, Sample
from humanquery.core.boxes import cxcywh_to_xyxy, iou
from humanquery.core.config import to_plain
from humanquery.core.errors import ConfigError, HumanQueryError
from humanquery.core.transfer import to_device
from humanquery.data.loading.identity import file_hash
from humanquery.data.readers.coco import CocoSourceConfig
from humanquery.engine.checkpoint import load_state, read_weights, save_state_dict
from humanquery.engine.loop import train
from humanquery.engine.optim import OptimConfig
from humanquery.engine.train_config import EngineConfig
from humanquery.losses.shapes import dice, mask_bce
from humanquery.media.letterbox import on_canvas
from humanquery.models import rebuild
from humanquery.models.hqnet.hqnet import HQNet
from humanquery.nn.sampling import sample_points
from humanquery.tasks.base import at_queries
from humanquery.tasks.mask_refinement import MaskRefinement

PHOTOS = 100
"""in a file of collected people"""


@dataclass(frozen=True)
class SecondLookConfig:
    epochs: float | int = 8
    batch_size: int = 24
    seed: int = 0
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=1e-3, weight_decay=1e-2, clip=1.0, schedule="cosine", warmup_steps=50, ema=0.995
        )
    )


Cut = dict[str, Tensor]
"""People cut out of a model's maps: `maps` n d r r and `logits` n 1 g g as `MaskRefinement.cut`
gives them, in half precision; `masks` n p: the true share of the person at the cells of the grid,
0..255"""


@torch.inference_mode()
def cut_people(model: HQNet, sample: Sample) -> Cut | None:
    """Everybody in a photo whose mask was drawn and whom the model finds (IoU of boxes above
    0.5); None if nobody."""
    target = sample.target
    drawn = (
        torch.zeros_like(target.ignore)
        if target.masks is None
        else target.masks.valid & ~target.ignore
    )
    if not drawn.any():
        return None
    task = model.tasks["mask"]
    canvas = on_canvas(sample.image, model.input)
    meta, batch = canvas.meta, Batch.collate([canvas], divisor=32)
    batch = batch.contiguous(torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = model.encode(batch)
        prepared = {
            name: part.prepare(encoded) if name == "mask" else None
            for name, part in model.tasks.items()
        }
        tasks = ("person", "box", "mask")
        last = model.read_queries(encoded, prepared, every_stage=False, tasks=tasks).layers[-1]
        sides = encoded.sides()[0].repeat(2)
        found = cxcywh_to_xyxy(last["box"].boxes_unit[0].float() * sides)
        overlap = iou(found, meta.to_canvas.boxes(target.boxes[drawn]))
        best = (overlap * (0.3 + last["person"].logit[0].float().sigmoid()[:, None])).argmax(0)
        seen = overlap.gather(0, best[None])[0] > 0.5
        if not seen.any():
            return None
        chosen = best[seen][None]
        windows = task.refinement.windows(at_queries(last["mask"].boxes, chosen))
        logits = last["mask"].logits(chosen)
        maps, start = task.refinement.cut(
            last["mask"].pixel_map.cells, encoded.fine, logits, windows
        )
    height, width = encoded.padded_size
    points = task.refinement.points(windows[0].float()) * torch.tensor([width, height])
    points = meta.to_canvas.inverse().points(points.flatten(0, 1)).view(points.shape)
    size = torch.tensor([target.image_size[1], target.image_size[0]])
    masks = sample_points(target.masks.value[drawn][seen].float(), points / size)
    return {
        "maps": maps.half(),
        "logits": start.half(),
        "masks": (masks * 255).round().to(torch.uint8),
    }


def mirrored(sample: Sample) -> Sample:
    """Left for right; joints do not matter here and are left out."""
    image = np.ascontiguousarray(sample.image[:, ::-1])
    flip = Affine2D.translation(image.shape[1], 0.0) @ Affine2D.scaling(-1.0, 1.0)
    target = sample.target.replace(keypoints=None, visibility=None)
    return replace(sample, image=image, target=target.warp(flip, image.shape[:2]))


def collect(model: HQNet, source, out: Path, stamp: str) -> list[Path]:
    """Files of `PHOTOS` photos and their mirror images each; those with this `stamp` that are
    there already are kept."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for start in range(0, len(source), PHOTOS):
        path = out / f"people-{stamp}-{start:06d}.safetensors"
        paths.append(path)
        if path.exists():
            continue
        began = time.time()
        cuts = [
            cut for sample in _both(source, start) if (cut := cut_people(model, sample)) is not None
        ]
        whole = (
            {name: torch.cat([cut[name] for cut in cuts]).contiguous() for name in cuts[0]}
            if cuts
            else {}
        )
        unfinished = path.with_suffix(".part")
        save_file(whole or {"nobody": torch.zeros(1)}, unfinished)
        unfinished.replace(path)
        people, end = len(whole.get("masks", ())), min(start + PHOTOS, len(source))
        print(
            f"photo {end}/{len(source)}: {people} people, {time.time() - began:.0f} s", flush=True
        )
    return paths


def _both(source, start: int) -> Iterator[Sample]:
    for i in range(start, min(start + PHOTOS, len(source))):
        sample = source[i]
        yield sample
        yield mirrored(sample)


@dataclass(frozen=True, eq=False)
class CutBatch:
    """Some of the people collected, as the engine's micro-batch."""

    people: Cut

    def __len__(self) -> int:
        return len(self.people["masks"])

    def to(self, device: torch.device) -> "CutBatch":
        return CutBatch({n: to_device(values, device).float() for n, values in self.people.items()})


@dataclass(frozen=True, eq=False)
class CutLoader:
    """Endless batches of people drawn with replacement; batch i depends on (seed, i) alone."""

    people: Cut
    batch_size: int
    seed: int

    def batches(self, start: int) -> Iterator[CutBatch]:
        i = start
        while True:
            draw = np.random.default_rng((self.seed, i))
            rows = torch.from_numpy(draw.integers(len(self.people["masks"]), size=self.batch_size))
            yield CutBatch({name: values[rows] for name, values in self.people.items()})
            i += 1


class SecondLook(nn.Module):
    """The refinement as a system of its own, which learns from people that are cut out already."""

    def __init__(self, refinement: MaskRefinement):
        super().__init__()
        self.config = refinement.config
        self.refinement = refinement

    def forward(self, batch: CutBatch) -> dict[str, Float[Tensor, ""]]:
        true = batch.people["masks"] / 255
        found = self.refinement.refined(batch.people["maps"], batch.people["logits"])
        found = found.flatten(1).float()
        return {
            "bce": self.config.bce * mask_bce(found, true).mean(),
            "dice": self.config.dice * dice(found, true).mean(),
        }


def learn(
    refinement: MaskRefinement, people: Cut, out: Path, config: SecondLookConfig | None = None
) -> None:
    """Trains on collected people, a run of the engine in `out` that goes on if it is there; the
    averaged weights are in the module at the end."""
    config = config or SecondLookConfig()
    engine = EngineConfig(
        steps=max(1, round(config.epochs * len(people["masks"]) / config.batch_size)),
        batch_size=config.batch_size,
        optim=config.optim,
        precision="bf16",
        device="cpu",  # where the model cut the people out: there is little to compute
        seed=config.seed,
        log_every=100,
        tensorboard=False,
    )
    loader = CutLoader(people, config.batch_size, config.seed)
    system = SecondLook(refinement)
    result = train(system, loader, engine, out, resume=True)
    load_state(system, read_weights(result.weights).state)


def run(weights: Path, data: Path, out: Path, config: SecondLookConfig) -> Path:
    """Collects, learns, writes `out`/model.safetensors and returns its path."""
    read = read_weights(weights)
    model = rebuild(read.config)
    tasks = getattr(model, "tasks", {})
    refinement = getattr(tasks["mask"], "refinement", None) if "mask" in tasks else None
    if refinement is None:
        raise ConfigError(
            f"{weights}: its model takes no second look at masks; set tasks.mask.refinement and "
            f"train it"
        )
    load_state(model, read.state)
    model.eval().to(memory_format=torch.channels_last)
    source = CocoSourceConfig(str(data), fields=("masks",)).build()
    # other weights cut out other things
    stamp = _stamp([file_hash(weights), file_hash(data)])
    files = [load_file(path) for path in collect(model, source, out, stamp)]
    files = [file for file in files if "masks" in file]
    if not files:
        raise ConfigError(
            f"{data}: nobody with a drawn mask was found; expected masks of people that {weights} "
            f"finds"
        )
    people = {name: torch.cat([file[name] for file in files]) for name in files[0]}
    # other numbers are another run, beside the first
    learn(refinement, people, out / f"learning-{_stamp([stamp, to_plain(config)])}", config)
    card = read.card | {
        "second_look": {"weights": weights.name, "epochs": config.epochs, "seed": config.seed}
    }
    return save_state_dict(out / "model.safetensors", model.state_dict(), model.config, card)


def _stamp(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="COCO-like annotations with masks")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=SecondLookConfig.epochs)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    try:
        config = SecondLookConfig(epochs=asked.epochs, seed=asked.seed)
        print(run(asked.weights, asked.data, asked.out, config))
    except HumanQueryError as problem:
        sys.exit(f"error: {problem}")


if __name__ == "__main__":
    main()
