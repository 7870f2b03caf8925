"""Sampling points of the last decoder layer (Figure A5 of the paper)."""

import torch
from jaxtyping import Float
from torch import Tensor

from humanquery.core.batch import Batch
from humanquery.core.persons import Persons
from humanquery.models.hqnet.hqnet import HQNet


@torch.no_grad()
def sampling_points(
    model: HQNet, batch: Batch, score: float = 0.3
) -> list[tuple[Persons, Float[Tensor, "n s 2"], Float[Tensor, "n s"]]]:
    """Per picture: its people, and for each of them the s = heads · levels · points places (px of
    the picture) at which the last decoder layer samples the memory, with their attention weights
    (each head's sum to 1)."""
    seen: list[tuple[Tensor, Tensor]] = []
    last = model.decoder.layers[-1].cross_attention

    def watch(module, inputs, _output):
        query, references, _value, shapes = inputs
        seen.append(module.sampling(query, references, shapes))

    hook = last.register_forward_hook(watch)
    try:
        encoded = model.encode(batch)
        prepared = model.prepare(encoded)
        outputs = model.read_queries(encoded, prepared, every_stage=False)
        outputs = model.annotate_best(outputs, encoded, score=score)
    finally:
        hook.remove()
    (locations, weights) = seen[0]
    height, width = encoded.padded_size
    results = []
    for i, meta in enumerate(batch.metas):
        people = model.persons(i, batch, outputs, encoded, prepared, score=score)
        scores = outputs.layers[-1]["person"].logit[i].sigmoid()
        best = scores.topk(min(model.config.num_persons, len(scores))).indices[: len(people)]
        places = locations[i, best].flatten(1, 3) * locations.new_tensor([width, height])
        results.append(
            (people, meta.to_canvas.inverse().points(places), weights[i, best].flatten(1))
        )
    return results
