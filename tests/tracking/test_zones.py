"""Lines that are crossed and zones that are visited."""

import json

import pytest
import torch

from humanquery.core.errors import ConfigError, TrackingError
from humanquery.core.persons import Persons
from humanquery.tracking.zones import CountLine, Zone, ZoneCounter, parse_line, parse_zone

SIZE = (100, 100)
DOOR = CountLine("door", (20.0, 50.0), (80.0, 50.0))
"""from left to right: down the picture is in"""
TILL = Zone("till", ((0.0, 0.0), (50.0, 0.0), (50.0, 50.0), (0.0, 50.0)))


def standing(**places: tuple[float, float]) -> Persons:
    """People whose feet are there, by track id t7=(x, y)."""
    boxes = [[x - 5.0, y - 20.0, x + 5.0, y] for x, y in places.values()]
    ids = [int(name[1:]) for name in places]
    return Persons(
        image_size=SIZE,
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.ones(len(ids)),
        track_ids=torch.tensor(ids, dtype=torch.long),
    )


def counted(frames: list[Persons], *lines, zones=()) -> dict:
    counter = ZoneCounter(lines, zones)
    for i, people in enumerate(frames):
        counter.update(people, i / 10)
    return counter.report()


def ways(*places: tuple[float, float]) -> tuple[int, int]:
    (line,) = counted([standing(t1=place) for place in places], DOOR)["lines"]
    return line["in"], line["out"]


def test_crossing_counts_by_the_way_that_is_gone():
    assert ways((50, 40), (50, 60)) == (1, 0)
    assert ways((50, 60), (50, 40)) == (0, 1)
    assert ways((50, 40), (50, 60), (50, 40)) == (1, 1)
    assert ways((50, 40), (50, 49)) == (0, 0)


def test_passing_beyond_the_ends_of_a_line_is_no_crossing():
    assert ways((90, 40), (90, 60)) == (0, 0)
    assert ways((90, 40), (90, 60), (50, 60), (50, 40)) == (0, 1)


def test_standing_on_the_line_counts_once_it_is_left_on_the_other_side():
    assert ways((50, 40), (50, 50), (50, 60)) == (1, 0)
    assert ways((50, 40), (50, 50), (50, 40)) == (0, 0)


def test_who_appears_beyond_a_line_did_not_cross_it():
    report = counted([standing(t1=(50, 40)), standing(t2=(50, 60))], DOOR)
    assert (report["lines"][0]["in"], report["lines"][0]["out"]) == (0, 0)


def test_who_is_lost_on_the_line_and_found_behind_it_crossed():
    report = counted([standing(t1=(50, 40)), standing(), standing(t1=(52, 70))], DOOR)
    assert report["lines"][0]["tracks_in"] == [1]


def test_a_zone_knows_who_how_many_and_how_long():
    frames = [
        standing(t1=(10, 10), t2=(90, 90)),
        standing(t1=(20, 10), t2=(40, 40)),
        standing(t1=(90, 10), t2=(40, 45)),
        standing(t1=(10, 10)),
    ]
    (zone,) = counted(frames, zones=[TILL])["zones"]
    assert zone["people"] == 2 and zone["most_at_once"] == 2
    first, second = zone["visits"]
    assert first == {
        "track_id": 1,
        "times": 2,
        "frames": 3,
        "first_seconds": 0.0,
        "last_seconds": 0.3,
    }
    assert (second["track_id"], second["times"], second["frames"]) == (2, 1, 2)


def test_counts_go_on_from_a_state_that_went_through_a_file():
    frames = [standing(t1=(50, y), t2=(50, 90 - y)) for y in (30, 45, 55, 70, 45, 30)]
    whole = counted(frames, DOOR, zones=[TILL])
    first = ZoneCounter([DOOR], [TILL])
    for i, people in enumerate(frames[:3]):
        first.update(people, i / 10)
    state = json.loads(json.dumps(first.state()))
    first.update(frames[3], 0.3)
    again = ZoneCounter([DOOR], [TILL])
    again.restore(state)
    for i, people in enumerate(frames[3:], 3):
        again.update(people, i / 10)
    assert again.report() == whole
    with pytest.raises(TrackingError, match="belong to other lines and zones"):
        ZoneCounter([DOOR]).restore(state)


def test_nobody_and_no_zone_are_fine():
    assert counted([]) == {"frames": 0, "lines": [], "zones": []}
    assert counted([standing()], DOOR, zones=[TILL])["zones"][0]["people"] == 0


def test_people_without_ids_are_refused():
    with pytest.raises(TrackingError, match="have no track_ids"):
        ZoneCounter().update(standing(t1=(1, 1)).replace(track_ids=None), 0.0)


def test_lines_and_zones_are_read_from_the_command_line():
    assert parse_line("1,2,3,4.5", 2) == CountLine("line 2", (1.0, 2.0), (3.0, 4.5))
    assert parse_zone("shop=0,0,9,0,9,9", 1) == Zone("shop", ((0.0, 0.0), (9.0, 0.0), (9.0, 9.0)))
    for text, message in (
        ("1,2,3", "3 numbers, expected pairs"),
        ("1,2", "1 points, expected two different ones"),
        ("1,2,1,2", "two different ones"),
        ("a,b", "expected numbers of pixels"),
        ("nan,1,2,3", "expected pairs"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_line(text, 1)
    with pytest.raises(ConfigError, match="2 corners, expected at least three"):
        parse_zone("1,2,3,4", 1)
    with pytest.raises(ConfigError, match="are called 'door'"):
        ZoneCounter([DOOR], [Zone("door", TILL.corners)])
