"""A picture that an HQNet has seen, while more can be asked about some of its people."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from humanquery.core.batch import Meta
from humanquery.core.persons import Persons
from humanquery.core.system import Ask
from humanquery.models.hqnet.criterion import Outputs
from humanquery.tasks.base import Encoded
from humanquery.tasks.decode import best_queries, decode

SELECTING = frozenset({"person", "box"})
"""tasks without which nothing is decoded"""


class OneLook:
    """A `core.system.Look`. What it says late is what `HQNet.predict` says of the same people:
    late tasks look at each person alone."""

    def __init__(
        self,
        net: Any,
        encoded: Encoded,
        prepared: dict[str, Any],
        outputs: Outputs,
        meta: Meta,
        ask: Ask,
        most: int,
    ):
        """`net`: the HQNet; the next three are what its `first_look` gave for one picture."""
        self._net, self._encoded, self._prepared, self._outputs = net, encoded, prepared, outputs
        self._meta, self._ask = meta, replace(ask, max_persons=most)
        self._late = {name for name, task in net.tasks.items() if task.result in net.late}
        self._chosen = best_queries(outputs.layers[-1]["person"].logit, ask.score, most)
        self.persons = self._people(self._chosen, frozenset(self._late))

    @torch.no_grad()
    def more(self, rows: Int[Tensor, " n"], outputs: frozenset[str]) -> Persons:
        """See `core.system.Look`."""
        people, tasks = self.persons[rows.to(self.persons.boxes.device)], self._net.tasks
        wanted = {name for name in self._late if tasks[name].result in outputs}
        if not wanted or not len(rows):
            return people
        unread = frozenset(tasks) - SELECTING - wanted
        asked = self._people(self._chosen[:, rows.to(self._chosen.device)], unread)
        known = {name for name, _, _ in people.filled()}
        return people.replace(**{n: v for n, _, v in asked.filled() if n not in known})

    def _people(self, chosen: Int[Tensor, "b k"], without: frozenset[str]) -> Persons:
        found = self._net.about(
            self._encoded, self._prepared, self._outputs, chosen, without=without
        )
        return decode(
            found,
            [self._meta],
            self._encoded.padded_size,
            skeleton=self._net.skeleton,
            ask=self._ask,
            specs=self._net.specs,
        )[0]
