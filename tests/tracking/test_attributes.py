"""Gender and age of tracks: asked for rarely, kept as means."""

import pytest
import torch

from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons
from humanquery.tracking.attributes import RefreshConfig, TrackAttributes

NAMES = ("gender", "age")


def said(ids: list[int], female: list[float], scores: list[float] | None = None) -> Persons:
    n = len(ids)
    return Persons(
        image_size=(20, 20),
        boxes=torch.tensor([[1.0, 2.0, 11.0, 18.0]]).repeat(n, 1),
        scores=torch.tensor(scores or [1.0] * n),
        gender=torch.tensor(female),
        age=torch.tensor(female) * 40,
        track_ids=torch.tensor(ids),
    )


def asked_in(config: RefreshConfig, female: float, frames: int) -> list[int]:
    """The frames in which a person is asked about who always looks the same."""
    known, asked = TrackAttributes(config), []
    for frame in range(1, frames + 1):
        if known.due(frame, [7]).any():
            known.take(frame, said([7], [female]), NAMES)
            asked.append(frame)
    return asked


def test_who_is_sure_is_asked_a_few_times_and_then_seldom():
    config = RefreshConfig(every=20, unsure_every=5, looks=2, sure=0.8)
    assert asked_in(config, 0.9, 50) == [1, 6, 26, 46]


def test_who_is_unsure_is_asked_more_often_but_not_for_ever():
    config = RefreshConfig(every=20, unsure_every=5, looks=2, most_looks=4, sure=0.8)
    assert asked_in(config, 0.4, 50) == [1, 6, 11, 16, 36]


def test_every_one_asks_in_every_frame():
    assert asked_in(RefreshConfig(every=1), 0.9, 5) == [1, 2, 3, 4, 5]


def test_values_are_means_weighted_by_the_score():
    known = TrackAttributes()
    known.take(1, said([3], [1.0], [0.9]), NAMES)
    known.take(2, said([3], [0.0], [0.3]), NAMES)
    means = known.means([3], NAMES)
    assert means["gender"].tolist() == [pytest.approx(0.75)]
    assert means["age"].tolist() == [pytest.approx(30.0)]


def test_the_forgotten_are_new_again_and_nobody_is_due_where_nobody_is():
    known = TrackAttributes()
    known.take(1, said([1, 2], [0.9, 0.9]), NAMES)
    known.forget([2])
    assert known.due(2, [1, 2]).tolist() == [True, False]
    assert known.due(2, []).shape == (0,)


def test_a_state_goes_on_where_it_stood():
    known, other = TrackAttributes(), TrackAttributes()
    known.take(4, said([5], [0.6]), NAMES)
    other.restore(known.state())
    assert other.means([5], NAMES) == known.means([5], NAMES)
    assert [other.due(f, [5]).item() for f in (5, 8, 9)] == [False, False, True]


def test_a_model_that_only_tells_ages_is_never_unsure():
    known = TrackAttributes(RefreshConfig(every=9, looks=1))
    known.take(1, said([5], [0.5]), ("age",))
    assert not known.due(9, [5]).any() and known.due(10, [5]).all()


def test_numbers_that_make_no_sense_are_told():
    with pytest.raises(ConfigError, match=r"RefreshConfig.every: 0; expected at least 1"):
        RefreshConfig(every=0)
    with pytest.raises(ConfigError, match=r"RefreshConfig.sure: 0.3; expected a probability"):
        RefreshConfig(sure=0.3)
