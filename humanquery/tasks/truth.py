"""What is true of the people of a batch, and which query stands for whom."""

import itertools
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humanquery.core.affine import Size
from humanquery.core.boxes import canvas_to_unit
from humanquery.core.rows import Labelled
from humanquery.core.target import Target
from humanquery.core.transfer import to_device


@dataclass(frozen=True, eq=False)
class Truth:
    """The people of one picture on its canvas, and the ignore regions beside them."""

    target: Target
    boxes_unit: Float[Tensor, "n 4"]
    size: Size
    regions: Float[Tensor, "r 4"]
    """xyxy px"""

    @staticmethod
    def of(target: Target, size: Size) -> "Truth":
        people = target.people()
        return Truth(people, canvas_to_unit(people.boxes, size), size, target.boxes[target.ignore])

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True, eq=False)
class Truths:
    """The people of all pictures of a batch in one list, picture after picture, on the model's
    device.

    What may be asked without waiting for a device, because it is known on the host: `counts`,
    `regions`, `host`, and which fields of `target` are None.
    """

    target: Target
    """on a canvas that holds every picture's. A field is None where no picture's data set annotates
    it; else the people of data sets that do not are not valid"""
    pictures: Int[Tensor, " n"]
    places: Int[Tensor, " n"]
    """of each person among those of the picture"""
    boxes_unit: Float[Tensor, "n 4"]
    sides: Float[Tensor, "n 2"]
    """(width, height) of the picture's own canvas"""
    starts: Int[Tensor, " b"]
    """row of each picture's first person"""
    annotated: dict[str, Bool[Tensor, " b"]]
    """field -> whether the picture's data set annotates it"""
    counts: tuple[int, ...]
    """people per picture"""
    regions: tuple[Float[Tensor, "_r 4"], ...]
    """ignore regions per picture, xyxy px; empty where no picture has any"""
    host: Target = field(repr=False)
    """`target` where it was made"""
    span: slice
    """the pictures of the batch that this tells about"""

    @staticmethod
    def of(
        truths: "list[Truth] | Truths", device: torch.device | str, *, first: int = 0
    ) -> "Truths":
        """Of one `Truth` per picture of the batch, beginning with picture `first`."""
        if isinstance(truths, Truths):
            return truths
        targets, counts = [truth.target for truth in truths], [len(truth) for truth in truths]
        canvas = max(truth.size[0] for truth in truths), max(truth.size[1] for truth in truths)
        host = Target.of_pictures(targets, canvas)
        per_person = torch.tensor(
            [[w, h] for h, w in (truth.size for truth in truths)], dtype=torch.float32
        )
        each = torch.tensor(counts)
        starts = each.cumsum(0) - each
        pictures = torch.arange(len(truths)).repeat_interleave(each)
        names = dict.fromkeys(name for one in targets for name, _, _ in one.filled())
        named = {
            name: torch.tensor([one.get(name) is not None for one in targets]) for name in names
        }
        crowded = any(len(truth.regions) for truth in truths)
        return Truths(
            target=_sent(host, device),
            pictures=to_device(pictures + first, device),
            places=to_device(torch.arange(len(pictures)) - starts[pictures], device),
            boxes_unit=to_device(torch.cat([truth.boxes_unit for truth in truths]), device),
            sides=to_device(per_person[pictures], device),
            starts=to_device(starts, device),
            annotated={
                name: to_device(value, device) for name, value in named.items() if value.any()
            },
            counts=tuple(counts),
            regions=tuple(to_device(truth.regions, device) for truth in truths) if crowded else (),
            host=host,
            span=slice(first, first + len(truths)),
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def rows(self, matches: "Matches") -> Int[Tensor, " m"]:
        """The matched people among all of the batch."""
        return self.starts[matches.pictures] + matches.people

    def matched(self, name: str, matches: "Matches") -> Labelled | None:
        """A field's values and flags for the matched people; None where nobody annotates it."""
        label = self.target.get(name)
        return None if label is None else label[self.rows(matches)]

    def matches_of(self, people: Bool[Tensor, " n"], matches: "Matches") -> "Matches":
        """The matches of some people, by flags on the host."""
        assert matches.host is not None
        each = torch.tensor(self.counts)
        pictures, _, rows = matches.host
        keep = people[(each.cumsum(0) - each)[pictures] + rows]
        kept = Matches.to_device(matches.host[None, :, keep], self.pictures.device)[0]
        return replace(kept, ignored=matches.ignored)

    def by_picture(self) -> list[Target]:
        """Each picture's people."""
        ends = [0, *itertools.accumulate(self.counts)]
        return [self.target[start:end] for start, end in itertools.pairwise(ends)]

    def side_by_side(self, values: Float[Tensor, "n *d"]) -> Float[Tensor, "b g *d"]:
        """A row per person as a table of pictures, as wide as the fullest one and zero where nobody
        is."""
        table = values.new_zeros(len(self.counts), max(1, *self.counts), *values.shape[1:])
        return table.index_put((self.pictures - self.span.start, self.places), values)


def _sent(target: Target, device: torch.device | str) -> Target:
    """Every field without waiting for the device."""

    def move(value: Labelled | Tensor) -> Labelled | Tensor:
        if isinstance(value, Labelled):
            return Labelled(to_device(value.value, device), to_device(value.valid, device))
        return to_device(value, device)

    return target._with({name: move(value) for name, _, value in target.filled()})


@dataclass(frozen=True, eq=False)
class Matches:
    """Which query stands for which person, all pictures of a batch in one list."""

    pictures: Int[Tensor, " m"]
    queries: Int[Tensor, " m"]
    people: Int[Tensor, " m"]
    """row in the picture's `Truth`"""
    ignored: Bool[Tensor, "b q"] | None = None
    """unmatched queries that stand in an ignore region: neither person nor background"""
    host: Int[Tensor, "3 m"] | None = field(default=None, repr=False)
    """pictures, queries and people where the assignment was solved: asking there waits for no
    device"""

    @staticmethod
    def to_device(host: Int[Tensor, "s 3 m"], device: torch.device | str) -> "list[Matches]":
        """Several lists of (pictures, queries, people), together."""
        return [
            Matches(*there, host=here)
            for there, here in zip(to_device(host, device).unbind(), host, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.pictures)

    def side_by_side(self) -> tuple[Int[Tensor, " m"], int]:
        """Each match's place among those of its picture, and the number of places of the fullest
        picture (at least 1)."""
        assert self.host is not None
        pictures = self.host[0]
        place = (pictures[:, None] == pictures[None]).tril(-1).sum(1)
        return to_device(place, self.pictures.device), int(place.max()) + 1 if len(self) else 1

    def predicted(self, values: Float[Tensor, "b q ..."]) -> Float[Tensor, "m ..."]:
        return values[self.pictures, self.queries]
