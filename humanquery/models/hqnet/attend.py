"""Sampling points of the last decoder layer (Figure A5 of the paper)."""

import torch
from jaxtyping import Float
from torch import Tensor

from humanquery.core.batch import Batch
from humanquery.core.persons import Persons
from humanquery.core.system import Ask
from humanquery.models.hqnet.hqnet import HQNet
from humanquery.tasks.decode import decode


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
        found = model.found_people(encoded, prepared, outputs, score, model.config.num_persons)
    finally:
        hook.remove()
    ask = Ask(score)
    people = decode(found, batch.metas, encoded.padded_size, skeleton=model.skeleton, ask=ask)
    (locations, weights) = seen[0]
    height, width = encoded.padded_size
    results = []
    for i, (persons, meta) in enumerate(zip(people, batch.metas, strict=True)):
        queries = found["queries"][i, : len(persons)]  # best first, as the people
        places = locations[i, queries].flatten(1, 3) * locations.new_tensor([width, height])
        to_picture = meta.to_canvas.inverse()
        results.append((persons, to_picture.points(places), weights[i, queries].flatten(1)))
    return results
