"""Does an exported file say what the network says? Numbers against numbers on pictures, then AP
against AP."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from humanquery.core.errors import ExportError
from humanquery.core.fields import FieldSpec
from humanquery.core.persons import Persons
from humanquery.core.target import Target
from humanquery.evaluation.coco_ap import evaluate_predictions
from humanquery.predict.exported_predictor import Canvases, ExportedPredictor
from humanquery.predict.predictor import Predictor
from humanquery.tasks.decode import CHOICES, HELPERS

AP_LIMIT = 1e-3
"""largest difference of an AP (0..1)"""
TIED_SHARE = 0.2
"""of the pictures may hold a tie; their numbers are not compared one by one, their AP is"""
NOISE, DRAWS = 1e-6, 6
"""share by which weights are changed to see whether a picture holds a tie, and how often that is
tried"""
BATCH = 2

Outputs = dict[str, np.ndarray]
"""a graph's outputs for one picture"""


@dataclass
class Comparison:
    """What was compared, and how far the two were apart."""

    pictures: int = 0
    tied: int = 0
    """pictures in which the two chose other memory tokens, or ranked them otherwise, or in which
    the network itself says something as far apart when its weights change by `NOISE`: two cells
    between which a joint is as likely, say"""
    specs: Mapping[str, FieldSpec] = field(default_factory=dict)
    """declarations of the outputs: range and tolerance of each (`FieldSpec`)"""
    apart: dict[str, float] = field(default_factory=dict)
    """largest absolute difference by output"""
    ranges: dict[str, float] = field(default_factory=dict)
    ap: dict[str, tuple[float, float]] = field(default_factory=dict)
    """name to (of the network, of the file)"""
    miscounted: int = 0
    """pictures of which the file did not give as many people as reach the score it was asked for"""

    def tolerance(self, name: str) -> float:
        """Largest difference of an output that is allowed, as a share of its range."""
        return self.specs.get(name, FieldSpec(name)).tolerance

    def relative(self) -> dict[str, float]:
        """Largest difference by output, as a share of the output's range; infinite where one is not
        finite."""
        shares = {name: self.apart[name] / max(self.ranges[name], 1e-12) for name in self.apart}
        return {
            name: share if np.isfinite(share) else float("inf") for name, share in shares.items()
        }

    def beyond(self) -> dict[str, float]:
        """The outputs that are too far apart, with their share of the range."""
        return {
            name: share
            for name, share in self.relative().items()
            if not share <= self.tolerance(name)
        }

    def add(self, picture: "Comparison") -> None:
        """The numbers of one more picture."""
        for name, apart in picture.apart.items():
            self.apart[name] = _worst(self.apart.get(name, 0.0), apart)
            self.ranges[name] = max(self.ranges.get(name, 0.0), picture.ranges[name])

    def problems(self) -> list[str]:
        """A sentence for each thing that is too far apart; none: the file may stay."""
        found = [
            f"{name} differ by {share:.2g} of their range, at most {self.tolerance(name):.0e} "
            f"is allowed"
            for name, share in self.beyond().items()
        ]
        if self.tied > max(1, TIED_SHARE * self.pictures):
            found.append(
                f"in {self.tied} of {self.pictures} pictures other memory tokens became queries or "
                f"other cells joints; ties "
                f"may do that in {TIED_SHARE:.0%} of them"
            )
        elif self.pictures and self.tied == self.pictures:
            found.append(
                f"all {self.pictures} pictures hold a tie, nothing was compared; give others"
            )
        if self.miscounted:
            found.append(
                f"in {self.miscounted} of {self.pictures} pictures the file gave more or fewer "
                f"people than reach a score"
            )
        for name, (network, file) in self.ap.items():
            if not abs(network - file) <= AP_LIMIT:
                found.append(
                    f"{name} is {file:.4f}, of the network {network:.4f}; at most {AP_LIMIT} apart "
                    f"is allowed"
                )
        return found

    def table(self) -> str:
        """A line per output and per AP."""
        lines = [f"{'output':22}{'difference / range':>20}"]
        lines += [f"{name:22}{share:>20.1e}" for name, share in self.relative().items()]
        lines += [f"{name:22}{a:>10.4f}{b:>10.4f}" for name, (a, b) in self.ap.items()]
        tied = f", {self.tied} with ties" if self.tied else ""
        return "\n".join([*lines, f"{self.pictures} pictures{tied}"])


def compare(
    network: nn.Module,
    exported: ExportedPredictor,
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    *,
    score: float = 0.5,
) -> Comparison:
    """Both look at the same canvases, `BATCH` pictures at a time, and at as many people as the file
    can give. Then the file looks only at who has `score`, and must say the same of them. `network`
    is `export.graph.Graph` of the system."""
    found = Comparison(specs={**Persons.specs(), **HELPERS, **exported.extra})
    for start in range(0, len(pictures), BATCH):
        seen = Canvases.of(pictures[start : start + BATCH], exported.facts)
        expected, other = _run_network(network, seen), exported.run(seen, 0.0)
        few, count = exported.run(seen, score), max(1, int((other["scores"] >= score).sum(1).max()))
        if expected.keys() != other.keys():
            raise ExportError(
                f"the file gives {', '.join(other)}; the network gives {', '.join(expected)}"
            )
        for i, size in enumerate(seen.sizes):
            one, two = (
                {name: value[i] for name, value in outputs.items()} for outputs in (expected, other)
            )
            _compare_picture(
                found, one, two, float(size.max()), lambda i=i, seen=seen: _unsure(network, seen, i)
            )
            _compare_asked(
                found,
                two,
                {name: value[i] for name, value in few.items()},
                count,
                float(size.max()),
            )
    return found


def _run_network(network: nn.Module, seen: Canvases) -> Outputs:
    with torch.inference_mode():
        expected = network(*(torch.from_numpy(given) for given in seen.inputs(0.0).values()))
    return {name: value.numpy() for name, value in expected.items()}


def _unsure(network: nn.Module, seen: Canvases, picture: int) -> Iterator[Outputs]:
    """What the network says of a picture when its weights are a little different, several times."""
    for seed in range(DRAWS):
        draw, other = torch.Generator().manual_seed(seed), deepcopy(network)
        for weight in other.parameters():
            weight.data *= 1 + NOISE * torch.randn(weight.shape, generator=draw, dtype=weight.dtype)
        yield {name: value[picture] for name, value in _run_network(other, seen).items()}


def _compare_picture(
    found: Comparison,
    one: Outputs,
    two: Outputs,
    side: float,
    unsure: Callable[[], Iterator[Outputs]],
) -> None:
    found.pictures += 1
    if not np.array_equal(one["tokens"], two["tokens"]):
        found.tied += 1
        return
    picture = Comparison(specs=found.specs)
    _compare_rows(picture, one, two, side)
    if picture.beyond() and any(_as_far(picture, one, again, side) for again in unsure()):
        found.tied += 1
    else:
        found.add(picture)


def _as_far(file: Comparison, one: Outputs, again: Outputs, side: float) -> bool:
    """Whether `again` is at least half as far from `one` as the file is, in everything in which the
    file is too far."""
    if not np.array_equal(one["tokens"], again["tokens"]):
        return True
    other = Comparison(specs=file.specs)
    _compare_rows(other, one, again, side)
    return all(other.apart[name] >= file.apart[name] / 2 for name in file.beyond())


def _compare_rows(found: Comparison, one: Outputs, two: Outputs, side: float) -> None:
    """Rows are compared by the query they came from, so that two people of (nearly) the same score
    may swap places; a row that only one of the two has must score (nearly) as little as the other's
    last."""
    _, mine, its = np.intersect1d(one["queries"], two["queries"], return_indices=True)
    for name in one:
        if name in CHOICES:
            continue
        a, b = one[name][mine], two[name][its]
        apart = float(np.abs(a - b).max(initial=0.0)) if a.shape == b.shape else np.inf
        found.apart[name] = _worst(found.apart.get(name, 0.0), apart)
        largest = float(np.abs(a).max(initial=0.0))
        reach = found.specs.get(name, FieldSpec(name)).reach(side, largest)
        found.ranges[name] = max(found.ranges.get(name, 0.0), reach)
    for rows, shared, others in ((one, mine, two), (two, its, one)):
        alone = np.delete(rows["scores"], shared)
        apart = float(np.abs(alone - others["scores"].min(initial=1.0)).max(initial=0.0))
        found.apart["scores"] = _worst(found.apart["scores"], apart)


def _compare_asked(
    found: Comparison, everybody: Outputs, asked: Outputs, count: int, side: float
) -> None:
    """What the file says when only `count` are looked at, against the same rows of what it says of
    everybody."""
    if len(asked["scores"]) == count:
        _compare_rows(
            found, {name: value[:count] for name, value in everybody.items()}, asked, side
        )
    else:
        found.miscounted += 1


def _worst(a: float, b: float) -> float:
    """The larger one; NaN counts as infinite."""
    return max(a, b) if np.isfinite(b) else float("inf")


def compare_ap(
    predictor: Predictor, exported: ExportedPredictor, labelled: Sequence[tuple[np.ndarray, Target]]
) -> dict[str, tuple[float, float]]:
    """AP of boxes, masks, keypoints, gender and age: (of the network, of the file), on the same
    pictures."""
    scores = []
    for looker in (predictor, exported):
        pairs: Iterator = (
            (target, looker.predict(image, score=0.0).replace(path=None))
            for image, target in labelled
        )
        scores.append(evaluate_predictions(pairs, exported.skeleton).numbers())
    names = [name for name in scores[0] if name.endswith("/ap")]
    return {
        name: (scores[0][name], scores[1].get(name, float("nan")))
        for name in names
        if scores[0][name] is not None
    }
