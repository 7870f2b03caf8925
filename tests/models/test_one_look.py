"""A picture that was looked at, and what is said about its people later."""

import pytest
import torch

from humanquery.core.system import Ask, LooksTwice
from tests.models.small import batch as batch_of
from tests.models.small import person
from tests.models.test_priors import BOX, model

LATE = frozenset({"masks", "gender", "age"})


@pytest.fixture(scope="module")
def net():
    return model()


@pytest.fixture(scope="module")
def picture():
    return batch_of([person((64, 64), tuple(BOX.tolist()))])


def test_masks_gender_and_age_come_late_and_the_rest_at_once(net, picture):
    assert isinstance(net, LooksTwice) and net.late == LATE
    people = net.look(picture).persons
    assert people.keypoints is not None and people.embeddings is not None
    assert all(people.get(name) is None for name in LATE)


def test_what_is_asked_late_is_what_a_prediction_says(net, picture):
    whole = net.predict(picture)[0].persons
    look = net.look(picture)
    rows = torch.tensor([3, 0, 5])
    later = look.more(rows, LATE)
    for name, _, value in whole[rows].filled():
        torch.testing.assert_close(later.get(name), value, msg=name)
    assert {name for name, _, _ in later.filled()} == {name for name, _, _ in whole.filled()}


def test_only_what_is_asked_is_read(net, picture):
    later = net.look(picture).more(torch.tensor([1]), frozenset({"gender"}))
    assert later.gender is not None and later.age is None and later.masks is None


def test_nobody_can_be_asked_about(net, picture):
    look = net.look(picture, Ask(score=1.0))
    none = torch.zeros(0, dtype=torch.long)
    assert len(look.persons) == 0 and len(look.more(none, LATE)) == 0


def test_a_look_gives_what_the_ask_names(net, picture):
    look = net.look(picture, Ask(outputs=frozenset({"gender"}), max_persons=2))
    later = look.more(torch.arange(2), LATE)
    assert len(look.persons) == 2 and later.gender is not None
    assert later.masks is None and later.keypoints is None
