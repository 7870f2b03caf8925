"""The parts of the tracking benchmarks that need no model."""

import dataclasses
import mmap

import numpy as np
import pytest
import torch

from benchmarks import tracking_quality as quality
from benchmarks.track_speed import AtOnce, followed
from benchmarks.tracking_crowds import CROWDS, crowds, seen
from benchmarks.tracking_queries import cell, same_person
from benchmarks.video import StandIn, film, memory
from humanquery.core.target import Target
from humanquery.predict import Predictor
from humanquery.predict.base import BasePredictor
from humanquery.tracking import TrackConfig
from tests.predict.test_track_video import Late
from tests.tracking.people import SIZE, walkers


def clip(frames: int = 30, mixed: bool = False) -> quality.Clip:
    """Two walkers, found as they are; `mixed`: from frame ten on with each other's queries."""
    found = [
        walkers([(100 + 3 * t, 120), (500 - 3 * t, 320)], [1, 0] if mixed and t >= 10 else [0, 1])
        for t in range(frames)
    ]
    truth = [
        Target(
            image_size=SIZE,
            boxes=people.boxes,
            ignore=torch.zeros(2, dtype=torch.bool),
            areas=torch.ones(2),
            track_ids=torch.tensor([7, 8]),
        )
        for people in found
    ]
    return quality.Clip("walk", truth, found)


def test_whoever_is_found_as_he_is_is_followed_without_a_switch():
    pytest.importorskip("trackeval")
    scores = quality.compare([clip()], TrackConfig(), ("query and motion", "motion only"))
    for by_clip in scores.values():
        assert by_clip["combined"] == dataclasses.replace(by_clip["walk"])
        assert by_clip["walk"].idf1 == 1 and by_clip["walk"].switches == 0
    assert "| walk | motion only | 1.000 | 1.000 | 1.000 | 1.000 | 0 |" in quality.show(
        "title", scores
    )


def test_noisy_truth_is_the_same_every_time_misses_some_and_invents_some():
    truth = clip(200).truth
    once, again = quality.noisy(truth), quality.noisy(truth)
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(once, again, strict=True))
    found = sum(map(len, once))
    assert 0.85 * 400 < found < 0.97 * 400 + 20
    assert all((people.scores.diff() <= 0).all() and people.embeddings is None for people in once)
    assert len(quality.noisy([dataclasses.replace(truth[0][:0])])[0]) == 0


def test_queries_that_tell_people_apart_score_one_and_exchanged_ones_zero():
    assert same_person([clip()]) == 1.0
    assert same_person([clip(20, mixed=True)]) == 0.0
    none = [dataclasses.replace(clip(), found=[people[:0] for people in clip().found])]
    assert same_person(none) == 0.0


def test_what_a_model_found_is_kept_for_the_next_run(tmp_path):
    class Kept(BasePredictor):
        default_score, asked, outputs, card = 0.4, 0, {"masks": None}, {}

        def predict_many(self, pictures, *, score, tasks):
            assert not tasks  # a model without joints is not asked for them
            self.asked += 1
            return iter(
                [walkers([(100, 100)], [0], scores=[0.3])[: len(list(pictures))], walkers([], [])]
            )

    looker = Kept()
    for _ in range(2):
        model = quality.Model(looker, tmp_path / "kept")
        first, second = model.people_in("clip", lambda: [1])
        assert (
            first.embeddings.tolist() == walkers([(0, 0)], [0]).embeddings.tolist()
            and len(second) == 0
        )
        assert first.skeleton.name == "coco17" and first.masks is None
    assert looker.asked == 1
    assert len(quality.Model(looker).people_in("clip", lambda: [1])) == 2 and looker.asked == 2


def test_made_up_detections_of_a_crowd_are_the_same_each_time():
    config = dataclasses.replace(CROWDS, count=1, frames=6)
    once, again = crowds([3], config), crowds([3], config)
    assert len(once) == 1 and len(once[0].found) == len(once[0].truth) == 6
    for a, b in zip(once[0].found, again[0].found, strict=True):
        assert torch.equal(a.boxes, b.boxes) and torch.equal(a.embeddings, b.embeddings)
    empty = [target[:0] for target in once[0].truth[:1]]
    assert len(seen(empty, 0)[0]) == 0


def test_a_cell_is_mean_and_half_range():
    assert cell([0.5, 0.7]) == "0.600 ± 0.100" and cell([3, 5, 4]) == "4.0 ± 1.0"


class Leaking(StandIn):
    """Keeps 2 MB for every picture, in pages of their own: a heap may have room left."""

    def __init__(self):
        super().__init__(people=2)
        self.kept = []

    def predict_many(self, pictures, **options):
        for people in super().predict_many(pictures, **options):
            self.kept.append(mmap.mmap(-1, 2_000_000))
            self.kept[-1].write(bytes(2_000_000))
            yield people


def test_the_video_benchmark_sees_memory_that_is_kept(tmp_path):
    clip = film(tmp_path / "clip.mp4", 60, (48, 64), painted=1)
    leak = memory(clip, tmp_path / "leak", Leaking(), warm=20)
    assert leak["frames"] == 60 and leak["at 20, MB"] > 0
    assert 70 < leak["growth, MB"] < 120  # 40 pictures of 2 MB, and what the pipeline takes


def test_the_stand_in_finds_its_walkers_in_any_picture():
    people = next(StandIn(3).predict_many([np.zeros((48, 64, 3))]))
    assert len(people) == 3 and people.image_size == (48, 64)


def test_the_speed_of_everything_at_once_is_that_of_a_model_which_says_nothing_late(tmp_path):
    system = Late()
    predictor = Predictor(system, {}, "cpu")
    path = film(tmp_path / "clip.mp4", 4, (48, 64), painted=4)
    late, at_once = (followed(p, path, 4) for p in (predictor, AtOnce(predictor)))
    assert late.frames == at_once.frames == 4 and late.people == at_once.people == 4
    assert len(system.asked) == 4 + 1 and len(system.seen) == 4
    assert late.row("late").startswith("| late | 1.0 |")
