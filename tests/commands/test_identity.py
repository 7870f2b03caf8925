"""The worth of a model's query, in its card."""

import numpy as np
import pytest
import torch

from humanquery.commands.identity import pairs_of, write_identity
from humanquery.engine.checkpoint import read_weights, save_weights
from humanquery.media.video_writer import VideoWriter
from humanquery.predict import Predictor
from humanquery.predict.track_video import track_config
from humanquery.tracking.identity import IdentityEvidence, QueryPairs
from tests.commands.test_second_look import model
from tests.predict.fake import FakeSystem

EVIDENCE = IdentityEvidence(1.5, 16.0)


def test_a_card_that_tells_the_worth_of_queries_has_them_compared(tmp_path):
    weights, out = tmp_path / "model.safetensors", tmp_path / "new.safetensors"
    save_weights(weights, model(None), {"name": "small"}, half=True)
    pairs = QueryPairs(np.zeros(3), np.ones(5))
    said = write_identity(weights, out, EVIDENCE, pairs)
    card = read_weights(out).card
    assert card["name"] == "small" and card["identity"] == said
    assert said == {"offset": 1.5, "slope": 16.0, "auc": 1.0, "pairs": 3, "pairs_of_two": 5}
    before, after = (read_weights(path).state for path in (weights, out))
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    config = track_config(Predictor(FakeSystem(), card, "cpu"))
    assert config.appearance and config.identity == EVIDENCE


def test_a_card_that_does_not_is_followed_by_motion_alone_unless_somebody_wants_it():
    predictor = Predictor(FakeSystem(), {}, "cpu")
    assert not track_config(predictor).appearance
    assert track_config(predictor, appearance=True).appearance


def test_pairs_come_from_all_videos(tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 20) as out:
        for _ in range(8):
            out.write(np.zeros((48, 64, 3), np.uint8))
    predictor = Predictor(FakeSystem(), {"score_threshold": 0.1}, "cpu")
    one, two = (pairs_of(predictor, [path] * n, 7) for n in (1, 2))
    assert len(one.same) == len(one.other) == 2 * 2  # two people, a gap of five in seven frames
    assert len(two.same) == 2 * len(one.same)
    assert one.other == pytest.approx(1)
