"""Many callers, one owner of the model."""

import numpy as np
import pytest

from humanquery.core.errors import ImageError
from humanquery.core.system import Ask
from humanquery.predict.track_video import track_config, track_frames
from humanquery.serve.batcher import Batcher, Busy, QueuedPredictor
from tests.serve.stand_in import POISON, StandIn, picture

GREY = np.full((20, 30, 3), 90, np.uint8)


@pytest.fixture
def model():
    return StandIn()


@pytest.fixture
def batcher(model):
    made = Batcher(model, batch_size=4, wait=0)
    yield made
    model.free.set()
    made.close()


def test_what_waits_while_the_model_works_becomes_the_next_batch(model, batcher):
    model.hold()
    first = batcher.submit(GREY, Ask())
    assert model.entered.wait(5)
    others = [batcher.submit(GREY, Ask()) for _ in range(5)]
    model.free.set()
    assert all(len(answer.result(5).people) == 2 for answer in [first, *others])
    assert model.batches == [1, 4, 1]


def test_bytes_are_read_and_the_picture_comes_back_with_its_people(batcher):
    seen = batcher.submit(picture((60, 80)), Ask(score=0.5)).result(5)
    assert seen.image.shape == (60, 80, 3) and seen.people.scores.tolist() == pytest.approx([0.9])


def test_pictures_that_are_asked_otherwise_are_looked_at_apart(model, batcher):
    model.hold()
    first = batcher.submit(GREY, Ask())
    assert model.entered.wait(5)
    low, high, low_too = (batcher.submit(GREY, Ask(score=s)) for s in (0.1, 0.5, 0.1))
    model.free.set()
    counts = [len(answer.result(5).people) for answer in (first, low, high, low_too)]
    assert counts == [2, 2, 1, 2]
    assert model.batches == [1, 2, 1]


def test_a_damaged_picture_fails_alone(model, batcher):
    model.hold()
    first = batcher.submit(GREY, Ask())
    assert model.entered.wait(5)
    damaged = batcher.submit(picture()[:200], Ask(), name="half.jpg")
    good = batcher.submit(picture(), Ask())
    model.free.set()
    with pytest.raises(ImageError, match="half.jpg"):
        damaged.result(5)
    assert len(good.result(5).people) == len(first.result(5).people) == 2


def test_a_picture_that_the_model_cannot_take_fails_alone(model, batcher):
    model.hold()
    batcher.submit(GREY, Ask())
    assert model.entered.wait(5)
    poison = batcher.submit(np.full((20, 30, 3), POISON, np.uint8), Ask())
    good = batcher.submit(GREY, Ask())
    model.free.set()
    with pytest.raises(ValueError, match="nobody foresaw"):
        poison.result(5)
    assert len(good.result(5).people) == 2 and batcher.alive


def test_what_is_taken_back_while_it_waits_costs_the_model_nothing(model, batcher):
    model.hold()
    first = batcher.submit(GREY, Ask())
    assert model.entered.wait(5)
    assert batcher.submit(GREY, Ask()).cancel()
    last = batcher.submit(GREY, Ask())
    model.free.set()
    first.result(5), last.result(5)
    assert model.batches == [1, 1]


def test_closing_finishes_what_was_submitted_and_refuses_what_comes_later(model):
    batcher = Batcher(model, batch_size=2, wait=0)
    model.hold()
    waiting = [batcher.submit(GREY, Ask()) for _ in range(5)]
    model.free.set()
    batcher.close()
    assert all(answer.done() and len(answer.result().people) == 2 for answer in waiting)
    assert not batcher.alive
    with pytest.raises(Busy, match="being stopped; ask again") as raised:
        batcher.submit(GREY, Ask())
    assert raised.value.retry_after > 0
    batcher.close()  # once more changes nothing


def test_every_batch_is_told(model):
    told = []
    batcher = Batcher(model, wait=0, on_batch=lambda pictures, seconds: told.append(pictures))
    batcher.submit(GREY, Ask()).result(5)
    batcher.close()
    assert told == [1] and batcher.busy_seconds == 0


def test_how_long_a_picture_takes_is_learned_from_all_batches_but_the_first(model):
    batcher = Batcher(model, wait=0)
    for pictures, seconds, mean in ((1, 60.0, 0.0), (2, 4.0, 2.0), (1, 7.0, 3.0)):
        batcher._told(pictures, seconds)
        assert batcher.seconds_per_picture == pytest.approx(mean)
    batcher.close()


def test_a_clip_is_followed_through_the_queue(model, batcher):
    from humanquery.media.video import Frame

    predictor = QueuedPredictor(batcher, lambda: 5.0)
    frames = iter([Frame(GREY, i, i / 25) for i in range(3)])
    found = list(track_frames(predictor, frames, batch_size=2))
    assert [people.track_ids.tolist() for _, people in found] == [[1], [1], [1]]
    assert sum(model.batches) == 3
    assert model.asks[0].score == track_config(predictor).keep_score


def test_a_clip_whose_time_is_over_takes_its_frames_back(model, batcher):
    model.hold()
    batcher.submit(GREY, Ask())
    assert model.entered.wait(5)
    with pytest.raises(TimeoutError):
        list(QueuedPredictor(batcher, lambda: 0.01).predict_many([GREY, GREY], batch_size=2))
    model.free.set()
    batcher.close()
    assert model.batches == [1]
