"""Gender and age of people who are followed: asked for rarely, kept as means over a track."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons


@dataclass(frozen=True)
class RefreshConfig:
    """When somebody is looked at again. Lengths of time are frames."""

    every: int = 30
    """whoever is settled is asked about again after so many; 1: everybody in every frame"""
    unsure_every: int = 5
    """the same for whoever is not: each look costs as much, and neighbouring frames say the
    same"""
    looks: int = 3
    """after which somebody is settled if sure ..."""
    most_looks: int = 10
    """... and after which in any case"""
    sure: float = 0.8
    """probability of the likelier gender from which it counts as sure, 0.5..1"""

    def __post_init__(self):
        for name in ("every", "unsure_every", "looks", "most_looks"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"RefreshConfig.{name}: {getattr(self, name)}; expected at least 1"
                )
        if not 0.5 <= self.sure <= 1:
            raise ConfigError(
                f"RefreshConfig.sure: {self.sure}; expected a probability from 0.5 to 1"
            )


@dataclass
class _Known:
    """What is known of one track; values are sums weighted by the person's score."""

    asked: int
    """the last frame in which it was asked about"""
    looks: int
    weight: float
    sums: dict[str, float]


class TrackAttributes:
    """What was said about each track, by field (gender, age), and whom to ask about next.

    It belongs to one book: its ids are the book's, its frames the book's `frame`.
    """

    def __init__(self, config: RefreshConfig | None = None):
        self.config = config or RefreshConfig()
        self._known: dict[int, _Known] = {}

    def due(self, frame: int, ids: Sequence[int]) -> Bool[Tensor, " n"]:
        """Which of these tracks are to be asked about in this frame."""
        return torch.tensor([self._is_due(frame, one) for one in ids], dtype=torch.bool)

    def _is_due(self, frame: int, track: int) -> bool:
        known, c = self._known.get(track), self.config
        if known is None:
            return True
        settled = known.looks >= (c.looks if self._sure(known) else c.most_looks)
        wait = c.every if settled else min(c.every, c.unsure_every)
        return frame - known.asked >= wait

    def _sure(self, known: _Known) -> bool:
        """A track of whom no gender is known has nothing to be unsure of."""
        if "gender" not in known.sums:
            return True
        female = known.sums["gender"] / max(known.weight, 1e-6)
        return max(female, 1 - female) >= self.config.sure

    def take(self, frame: int, people: Persons, names: Iterable[str]) -> None:
        """Remembers these fields of people with `track_ids`, of whom they were asked."""
        values = {name: people.get(name) for name in names}
        values = {name: v.tolist() for name, v in values.items() if v is not None}
        for row, (track, score) in enumerate(
            zip(people.track_ids.tolist(), people.scores.tolist(), strict=True)
        ):
            known = self._known.setdefault(track, _Known(frame, 0, 0.0, dict.fromkeys(values, 0.0)))
            known.asked, known.looks = frame, known.looks + 1
            known.weight += score
            for name, of_all in values.items():
                known.sums[name] = known.sums.get(name, 0.0) + score * of_all[row]

    def means(self, ids: Sequence[int], names: Iterable[str]) -> dict[str, Tensor]:
        """The fields of these tracks, n numbers each; all of them must have been asked about."""
        known = [self._known[one] for one in ids]
        return {
            name: torch.tensor([k.sums[name] / max(k.weight, 1e-6) for k in known])
            for name in names
            if all(name in k.sums for k in known)
        }

    def forget(self, alive: Iterable[int]) -> None:
        """Drops everybody but these tracks."""
        alive = set(alive)
        self._known = {one: known for one, known in self._known.items() if one in alive}

    def state(self) -> list[list[Any]]:
        """JSON-ready; see `restore`."""
        return [[t, k.asked, k.looks, k.weight, k.sums] for t, k in self._known.items()]

    def restore(self, state: list[list[Any]]) -> None:
        """Goes on from what `state` gave."""
        self._known = {int(t): _Known(*rest) for t, *rest in state}
