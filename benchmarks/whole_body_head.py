"""Learns the last layers of `wholebody_small` on maps of its frozen trunk that are computed once:
the recipe for a machine without time.

python -m benchmarks.whole_body_head --out runs/whole_body --minutes 40 [--views 1]

The same model, data, augmentation (drawn `--views` times per person) and losses as the recipe; a
step costs a fifth. Maps are kept as float16 in memory, 0.5 MB a crop. A run goes on where it was
stopped: `maps.pt` and, every 90 seconds, `head.pt`; at its end `model.safetensors`.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch

from humanquery.commands.train import card
from humanquery.core.batch import Batch, Sample
from humanquery.data.augment.person_samples import person_sample
from humanquery.data.readers.sources import open_source
from humanquery.engine.checkpoint import atomic, save_state_dict
from humanquery.models import build, without_sources
from humanquery.models.topdown.system import TopDown
from humanquery.recipes import find

SAVE_EVERY = 90.0
"""seconds"""
SHOWN_EVERY = 20
"""steps"""


def crops_of(recipe, views: int) -> list[Sample]:
    """Everybody `views` times, as `humanquery train` would draw them."""
    (part,) = recipe.data.train.parts
    source = open_source(part.source)
    config = recipe.data.augment
    samples = []
    for i in range(len(source)):
        whole = source[i]
        for view in range(views):
            rng = np.random.default_rng((recipe.engine.seed, view, i))
            samples.append(person_sample(whole.image, whole.target, 0, config, rng))
    return samples


@torch.inference_mode()
def maps_of(system: TopDown, samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Both maps of `LiteHRNet.features` of every crop, as float16."""
    fine, merged = [], []
    for i in range(0, len(samples), 16):
        crops = Batch.collate(samples[i : i + 16]).images.contiguous(
            memory_format=torch.channels_last
        )
        one, other = system.network.features(crops - system.mean)
        fine.append(one.half())
        merged.append(other.half())
    return torch.cat(fine), torch.cat(merged)


def prepared(system: TopDown, recipe, views: int, path: Path):
    """Maps and targets of all crops, from `path` where they are there."""
    if path.exists():
        return torch.load(path, weights_only=False)
    samples = crops_of(recipe, views)
    fine, merged = maps_of(system, samples)
    kept = (fine, merged, [sample.target for sample in samples])
    with atomic(path) as unfinished:
        torch.save(kept, unfinished)
    return kept


def in_units_of(system: TopDown, scales: list[torch.Tensor], *, back: bool = False) -> None:
    """Weights for maps in units of their standard deviation, which of the trunk's two maps differ
    a thousandfold; `back`: for the maps as they are."""
    head, first = system.network.head, system.network.detail[0]
    factors = (scales[1].view(1, -1, 1, 1), torch.cat(scales).view(1, -1, 1, 1))
    with torch.no_grad():
        for layer, factor in zip((head, first), factors, strict=True):
            layer.weight.mul_(1 / factor if back else factor)
        if not back:
            first.reset_parameters()  # its first values are meant for maps of unit variance


def keep_body(system: TopDown) -> None:
    """The body's joints stay TinyPose's."""
    first, last = system.skeleton.parts["body"]
    for layer in (system.network.head, system.network.detail[-1]):
        layer.weight.grad[first:last] = 0
        layer.bias.grad[first:last] = 0


def batch_of(targets: list, rows: list[int]) -> Batch:
    """The targets of these rows; nobody asks for their pictures any more."""
    nothing = torch.zeros(len(rows), 3, 1, 1)
    return Batch(nothing, nothing[:, 0] > 0, [], [targets[row] for row in rows])


def learn(out: Path, minutes: float, views: int, lr: float) -> None:
    recipe = find("wholebody_small")
    torch.manual_seed(recipe.engine.seed)
    system = build(recipe.model).to(memory_format=torch.channels_last)
    out.mkdir(parents=True, exist_ok=True)
    fine, merged, targets = prepared(system.eval(), recipe, views, out / "maps.pt")
    scales = [each[::8].float().std((0, 2, 3)).clamp(min=1e-4) for each in (fine, merged)]
    in_units_of(system, scales)
    size = recipe.engine.batch_size
    steps_file = out / "head.pt"
    learned = [*system.network.head.parameters(), *system.network.detail.parameters()]
    average = [p.detach().clone() for p in learned]
    optimizer = torch.optim.Adam(learned, lr=lr)
    step, spent = 0, 0.0
    if steps_file.exists():
        state = torch.load(steps_file, weights_only=True)
        for p, value in zip(learned, state["learned"], strict=True):
            p.data.copy_(value)
        average, step, spent = state["average"], state["step"], state["spent"]
        optimizer.load_state_dict(state["optimizer"])
    rng = np.random.default_rng((recipe.engine.seed, step))
    begun = saved = time.monotonic()
    order: list[int] = []
    losses: list[float] = []
    while spent + time.monotonic() - begun < 60 * minutes:
        if len(order) < size:
            order = rng.permutation(len(targets)).tolist()
        rows, order = order[:size], order[size:]
        done = (spent + time.monotonic() - begun) / (60 * minutes)
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * min(done, 1)))
        given = [
            each[rows].float() / scale.view(-1, 1, 1)
            for each, scale in zip((fine, merged), scales, strict=True)
        ]
        maps = system.network.read(*(g.to(memory_format=torch.channels_last) for g in given))
        loss = sum(system.losses(maps, batch_of(targets, rows)).values())
        optimizer.zero_grad()
        loss.backward()
        keep_body(system)
        torch.nn.utils.clip_grad_norm_(learned, 10.0)
        optimizer.step()
        share = min(0.99, step / (step + 10))
        for kept, p in zip(average, learned, strict=True):
            kept.lerp_(p.detach(), 1 - share)
        step += 1
        losses.append(float(loss))
        if step % SHOWN_EVERY == 0:
            print(f"step {step} loss {np.mean(losses[-SHOWN_EVERY:]):.4f}", flush=True)
        if time.monotonic() - saved > SAVE_EVERY:
            saved = time.monotonic()
            state = {
                "learned": [p.detach() for p in learned],
                "average": average,
                "optimizer": optimizer.state_dict(),
                "step": step,
                "spent": spent + saved - begun,
            }
            with atomic(steps_file) as unfinished:
                torch.save(state, unfinished)
            write(system, learned, average, scales, recipe, step, len(targets), out)
    write(system, learned, average, scales, recipe, step, len(targets), out)


def write(system: TopDown, learned, average, scales, recipe, step: int, crops: int, out) -> None:
    """The model with the averaged weights."""
    own = [p.detach().clone() for p in learned]
    for p, value in zip(learned, average, strict=True):
        p.data.copy_(value)
    in_units_of(system, scales, back=True)
    about = card("wholebody_small", [], recipe)
    about["training"] = {"by": "benchmarks.whole_body_head", "steps": step, "crops": crops}
    plain = without_sources(recipe.model)
    save_state_dict(out / "model.safetensors", system.state_dict(), plain, about)
    for p, value in zip(learned, own, strict=True):
        p.data.copy_(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--lr", type=float, default=1e-2)
    options = parser.parse_args()
    learn(options.out, options.minutes, options.views, options.lr)


if __name__ == "__main__":
    main()
