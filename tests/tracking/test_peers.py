import sys

import pytest
import torch

from humanquery.core.errors import ConfigError, TrackingError
from humanquery.tracking import Tracker
from humanquery.tracking.peers import PEERS, PeerConfig, PeerTracker
from tests.tracking.people import ids, walkers


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_follows_walkers_and_keeps_order_and_fields(name):
    pytest.importorskip("trackers")
    tracker, other = PeerTracker(PeerConfig(name)), PeerTracker(PeerConfig(name))
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
def test_a_resumed_peer_goes_on_with_the_same_ids_and_refuses_another_picture_size(name):
    pytest.importorskip("trackers")
    clip = [walkers([(100 + 3 * t, 100), (500 - 3 * t, 300)], [0, 1]) for t in range(8)]
    clip[3] = walkers([], [])
    whole, first = PeerTracker(PeerConfig(name)), PeerTracker(PeerConfig(name))
    assert isinstance(whole, Tracker)
    for people in clip[:5]:
        whole.update(people)
        first.update(people)
    second = PeerTracker.resumed(first.state(), PeerConfig(name))
    for people in clip[5:]:
        assert ids(second.update(people)) == ids(whole.update(people))
    with pytest.raises(TrackingError, match="frame 9: people of a picture of 99 x 99 px"):
        second.update(clip[0].replace(image_size=(99, 99)))


@pytest.mark.parametrize("name", PEERS)
def test_the_unsure_start_no_track_at_a_peer(name):
    pytest.importorskip("trackers")
    tracker = PeerTracker(PeerConfig(name, birth_score=0.5))
    for _ in range(5):
        assert ids(tracker.update(walkers([(100, 100)], [0], scores=[0.4]))) == []


def test_an_unknown_peer_and_a_missing_library_are_told(monkeypatch):
    with pytest.raises(ConfigError, match="unknown tracker 'bytetrak'. Did you mean 'bytetrack'"):
        PeerConfig("bytetrak")
    monkeypatch.setitem(sys.modules, "trackers", None)
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match=r"pip install 'humanquery\[trackers\]'"):
        PeerTracker(PeerConfig("bytetrack"))
