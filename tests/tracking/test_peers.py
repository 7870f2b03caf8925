import sys

import pytest
import torch

from humanquery.core.errors import ConfigError
from humanquery.tracking.peers import PEERS, PeerTracker
from tests.tracking.people import ids, walkers


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_follows_walkers_and_keeps_order_and_fields(name):
    pytest.importorskip("trackers")
    tracker, other = PeerTracker(name), PeerTracker(name)
    for t in range(12):
        people = walkers([(100 + 3 * t, 100), (500 - 3 * t, 300)], [0, 1])
        found = tracker.update(people if t % 2 else people[[1, 0]])
    assert len(ids(found)) == 2 and min(ids(found)) >= 1
    before = ids(found)
    assert ids(tracker.update(people[[1, 0]])) == before[::-1]
    assert torch.equal(tracker.update(people).embeddings, people.embeddings)
    assert len(tracker.update(walkers([], []))) == 0
    for _ in range(4):
        alone = other.update(walkers([(100, 100)], [0]))
    assert ids(alone) == [1]


@pytest.mark.parametrize("name", PEERS)
def test_the_unsure_start_no_track_at_a_peer(name):
    pytest.importorskip("trackers")
    tracker = PeerTracker(name, birth_score=0.5)
    for _ in range(5):
        assert ids(tracker.update(walkers([(100, 100)], [0], scores=[0.4]))) == []


def test_an_unknown_peer_and_a_missing_library_are_told(monkeypatch):
    with pytest.raises(ConfigError, match="unknown tracker 'bytetrak'. Did you mean 'bytetrack'"):
        PeerTracker("bytetrak")
    monkeypatch.setitem(sys.modules, "trackers", None)
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match=r"pip install 'humanquery\[trackers\]'"):
        PeerTracker("bytetrack")
