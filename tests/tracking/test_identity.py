"""What distances of human queries say about who is who."""

import numpy as np
import pytest

from humanquery.core.errors import ConfigError, TrackingError
from humanquery.tracking import TrackBook, TrackConfig
from humanquery.tracking.identity import MOST, IdentityEvidence, QueryPairs, logit, query_pairs
from tests.tracking.people import ids, walkers


def drawn(evidence: IdentityEvidence, count: int, seed: int = 0) -> QueryPairs:
    """Pairs whose distances are as this evidence says."""
    draw = np.random.default_rng(seed)
    distances = draw.random(count).astype(np.float32)
    odds = evidence.offset - evidence.slope * distances.astype(np.float64)
    same = draw.random(count) < 1 / (1 + np.exp(-odds))
    return QueryPairs(distances[same], distances[~same])


def test_log_odds_fall_with_the_distance_and_are_cut():
    odds = IdentityEvidence(3.0, 10.0).log_odds(np.array([0.0, 0.3, 2.0]))
    assert odds.tolist() == [3.0, pytest.approx(0.0, abs=1e-6), -MOST]
    assert logit(0.5) == 0 and logit(0.9) == pytest.approx(2.1972, abs=1e-4)


def test_a_fit_finds_the_evidence_that_pairs_were_drawn_from():
    true = IdentityEvidence(5.0, 10.0)  # as many of one person as of two
    found = drawn(true, 40_000).fit()
    assert found.slope == pytest.approx(10, rel=0.08) and found.offset == pytest.approx(5, rel=0.08)


def test_queries_that_tell_nobody_apart_have_no_say():
    draw = np.random.default_rng(0)
    mixed = QueryPairs(*(draw.random(5000).astype(np.float32) for _ in range(2)))
    assert abs(mixed.fit().log_odds(np.array([0.0, 1.0]))).max() < 0.2
    turned = QueryPairs(mixed.same + 1, mixed.other)
    assert turned.fit() == IdentityEvidence(0.0, 0.0)


def test_auc_is_the_share_of_pairs_in_the_right_order():
    assert QueryPairs(np.array([0.1, 0.5]), np.array([0.3, 0.5])).auc() == (1 + 1 + 0 + 0.5) / 4


def test_too_few_pairs_are_told():
    with pytest.raises(
        TrackingError, match="3 pairs of one person and 0 of two; expected at least"
    ):
        QueryPairs(np.zeros(3), np.zeros(0)).fit()


def test_impossible_numbers_are_told():
    with pytest.raises(ConfigError, match="offset 1.0, slope -2.0; expected finite numbers"):
        IdentityEvidence(1.0, -2.0)


def test_pairs_of_a_video_are_those_of_people_who_cannot_be_mistaken():
    apart = [walkers([(100 + t, 120), (400 - t, 300)], [0, 1]) for t in range(12)]
    pairs = query_pairs(apart, gaps=(5,))
    assert len(pairs.same) == len(pairs.other) == 2 * 7
    assert pairs.same == pytest.approx(0, abs=1e-6) and pairs.other == pytest.approx(1, abs=1e-6)
    together = [walkers([(100, 120), (110, 120)], [0, 1]) for _ in range(12)]
    assert not len(query_pairs(together, gaps=(5,)).same)
    assert not len(query_pairs([walkers([], [])] * 9, gaps=(5,)).other)


def test_a_query_without_a_say_gives_the_ids_of_motion_alone():
    """They cross close to each other, with each other's queries."""
    frames = [
        walkers([(150 + 6 * t, 200), (450 - 6 * t, 215)], [1, 0] if t > 20 else [0, 1])
        for t in range(50)
    ]
    mute = TrackConfig(identity=IdentityEvidence(0.0, 0.0))
    by_query, by_motion = (
        [ids(book.update(people)) for people in frames]
        for book in (TrackBook(mute), TrackBook(TrackConfig(appearance=False)))
    )
    assert by_query == by_motion


def test_nobody_comes_back_on_the_box_of_somebody_who_was_just_seen():
    """The lost one's query fits better than that of the one who stands there."""
    book = TrackBook(TrackConfig(confirm_hits=1))
    for _ in range(5):
        book.update(walkers([(200, 200), (300, 200)], [0, 1]))
    for x in range(294, 200, -6):
        assert ids(book.update(walkers([(x, 200)], [1]))) == [2]
    assert ids(book.update(walkers([(198, 200)], [0]))) == [2]
