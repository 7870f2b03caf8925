"""Who crosses a line, who is in a zone, and for how long: counts over tracked people.

A person stands where the middle of the box's lower edge is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from humanquery.core.errors import ConfigError, TrackingError
from humanquery.core.persons import Persons

Point = tuple[float, float]


@dataclass(frozen=True)
class CountLine:
    """From `start` to `end`, px. Who walks over it towards the right hand of somebody who looks
    from start to end goes in, the other way out."""

    name: str
    start: Point
    end: Point


@dataclass(frozen=True)
class Zone:
    """A polygon of at least three corners, px."""

    name: str
    corners: tuple[Point, ...]


def parse_line(text: str, number: int) -> CountLine:
    """`x1,y1,x2,y2` or `name=x1,y1,x2,y2`; ConfigError for something else."""
    name, points = _parsed(text, f"line {number}", "--line")
    if len(points) != 2 or points[0] == points[1]:
        raise ConfigError(
            f"--line {text}: {len(points)} points, expected two different ones: x1,y1,x2,y2"
        )
    return CountLine(name, points[0], points[1])


def parse_zone(text: str, number: int) -> Zone:
    """`x1,y1,x2,y2,x3,y3 ...`, also after `name=`; ConfigError for something else."""
    name, points = _parsed(text, f"zone {number}", "--zone")
    if len(points) < 3:
        raise ConfigError(
            f"--zone {text}: {len(points)} corners, expected at least three: x1,y1,x2,y2,x3,y3"
        )
    return Zone(name, points)


def _parsed(text: str, default: str, option: str) -> tuple[str, tuple[Point, ...]]:
    name, equals, rest = text.rpartition("=")
    try:
        numbers = [float(part) for part in rest.split(",")]
    except ValueError as problem:
        raise ConfigError(
            f"{option} {text}: expected numbers of pixels, as in door=10,200,300,200"
        ) from problem
    if len(numbers) % 2 or not np.isfinite(numbers).all():
        raise ConfigError(f"{option} {text}: {len(numbers)} numbers, expected pairs x,y in pixels")
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return (name if equals else default), tuple(pairs)


class ZoneCounter:
    """Counts over the frames of one video; `update` takes what a track book returned.

    A person who is lost and found again (the same track id) is counted by where it stands then:
    crossings in between count. `state` and `restore` carry the counts over an interruption. Names
    that come twice raise ConfigError.
    """

    def __init__(self, lines: Sequence[CountLine] = (), zones: Sequence[Zone] = ()):
        names = [each.name for each in (*lines, *zones)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"two lines or zones are called {twice[0]!r}; give each its own name")
        self.lines, self.zones = tuple(lines), tuple(zones)
        self._frames = 0
        self._places: dict[int, Point] = {}
        """where each track stood last"""
        self._sides: dict[str, dict[int, int]] = {line.name: {} for line in lines}
        """on which side of a line each track was last, +1 or -1"""
        self._crossed: dict[str, dict[str, list[int]]] = {
            line.name: {"in": [], "out": []} for line in lines
        }
        self._visits: dict[str, dict[int, dict[str, Any]]] = {zone.name: {} for zone in zones}
        self._peak: dict[str, int] = {zone.name: 0 for zone in zones}

    def update(self, persons: Persons, seconds: float) -> None:
        """One frame, `seconds` from the video's beginning. People without track ids raise
        TrackingError."""
        if persons.track_ids is None:
            raise TrackingError("zones count tracks, and these people have no track_ids")
        boxes = persons.boxes.cpu()
        feet = zip(((boxes[:, 0] + boxes[:, 2]) / 2).tolist(), boxes[:, 3].tolist(), strict=True)
        now = dict(zip(persons.track_ids.tolist(), feet, strict=True))
        for line in self.lines:
            for track, place in now.items():
                self._cross(line, track, place)
        for zone in self.zones:
            self._visit(zone, now, seconds)
        self._places |= now
        self._frames += 1

    def _cross(self, line: CountLine, track: int, place: Point) -> None:
        sides = self._sides[line.name]
        side = int(np.sign(_side(line.start, line.end, place)))
        if side == 0:  # on the line: on neither side yet
            return
        before = sides.get(track, side)
        sides[track] = side
        # where it stood last may be the line itself; it came from `before` all the same
        if side != before and _passes_between(line, self._places[track], place):
            self._crossed[line.name]["in" if side > 0 else "out"].append(track)

    def _visit(self, zone: Zone, now: dict[int, Point], seconds: float) -> None:
        visits, corners = self._visits[zone.name], np.array(zone.corners, np.float32)
        inside = [t for t, p in now.items() if cv2.pointPolygonTest(corners, p, False) >= 0]
        for track in inside:
            visit = visits.setdefault(track, {"entered": 0, "frames": 0, "first": seconds})
            visit["entered"] += not visit.get("here", False)
            visit |= {"here": True, "last": seconds, "frames": visit["frames"] + 1}
        for track, visit in visits.items():
            if track in now and track not in inside:
                visit["here"] = False
        self._peak[zone.name] = max(self._peak[zone.name], len(inside))

    def report(self) -> dict[str, Any]:
        """{"frames", "lines": [{"name", "in", "out", "tracks_in", "tracks_out"}], "zones":
        [{"name", "people", "most_at_once", "visits": [{"track_id", "times", "frames",
        "first_seconds", "last_seconds"}]}]}: crossings and visits in order, people are different
        tracks."""
        lines = [
            {
                "name": line.name,
                "start": list(line.start),
                "end": list(line.end),
                **{way: len(tracks) for way, tracks in self._crossed[line.name].items()},
                **{f"tracks_{w}": tracks for w, tracks in self._crossed[line.name].items()},
            }
            for line in self.lines
        ]
        zones = [
            {
                "name": zone.name,
                "corners": [list(corner) for corner in zone.corners],
                "people": len(self._visits[zone.name]),
                "most_at_once": self._peak[zone.name],
                "visits": [_plain(track, v) for track, v in self._visits[zone.name].items()],
            }
            for zone in self.zones
        ]
        return {"frames": self._frames, "lines": lines, "zones": zones}

    def state(self) -> dict[str, Any]:
        """Everything that was counted, as plain data for `restore`; later frames do not change
        it."""
        visits = {
            name: [[track, dict(visit)] for track, visit in of.items()]
            for name, of in self._visits.items()
        }
        sides = {name: [list(pair) for pair in of.items()] for name, of in self._sides.items()}
        return {
            "frames": self._frames,
            "places": [[track, *place] for track, place in self._places.items()],
            "sides": sides,
            "crossed": {
                name: {way: list(tracks) for way, tracks in of.items()}
                for name, of in self._crossed.items()
            },
            "visits": visits,
            "peak": dict(self._peak),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` gave for the same lines and zones; others raise
        TrackingError."""
        if set(state["sides"]) != set(self._sides) or set(state["visits"]) != set(self._visits):
            raise TrackingError("these counts belong to other lines and zones; start them anew")
        self._frames = state["frames"]
        self._places = {track: (x, y) for track, x, y in state["places"]}
        self._sides = {name: {t: s for t, s in pairs} for name, pairs in state["sides"].items()}
        self._crossed = {
            name: {way: list(tracks) for way, tracks in of.items()}
            for name, of in state["crossed"].items()
        }
        self._visits = {
            name: {track: dict(visit) for track, visit in pairs}
            for name, pairs in state["visits"].items()
        }
        self._peak = dict(state["peak"])


def _plain(track: int, visit: dict[str, Any]) -> dict[str, Any]:
    return {
        "track_id": track,
        "times": visit["entered"],
        "frames": visit["frames"],
        "first_seconds": round(visit["first"], 3),
        "last_seconds": round(visit["last"], 3),
    }


def _side(start: Point, end: Point, place: Point) -> float:
    """Above 0 on the right hand of somebody who looks from start to end (y points down)."""
    (x1, y1), (x2, y2), (x, y) = start, end, place
    return (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1)


def _passes_between(line: CountLine, before: Point, after: Point) -> bool:
    """Whether the way from before to after meets the line between its ends, not beyond them."""
    a, b = _side(before, after, line.start), _side(before, after, line.end)
    return a * b <= 0
