import itertools

import numpy as np
import pytest
import torch

from humanquery.core.config import from_plain, to_plain
from humanquery.core.errors import ConfigError
from humanquery.core.masks import mask_boxes
from humanquery.data.scenes import clips
from humanquery.data.scenes.clips import GeneratedClips

SMALL = GeneratedClips(seed=3, count=3, frames=16, size=(96, 144), people=(4, 6), speed=0.06)


@pytest.fixture(scope="module")
def frames():
    return [list(clips.open(SMALL).clip(i)) for i in range(len(clips.open(SMALL)))]


def test_a_clip_has_its_frames_and_each_its_own_number(frames):
    assert [len(clip) for clip in frames] == [16, 16, 16]
    assert [s.meta.image_id for clip in frames for s in clip] == list(range(1, 49))


def test_the_same_clip_comes_twice_and_lazily(frames):
    for again, before in itertools.islice(
        zip(clips.open(SMALL).clip(1), frames[1], strict=True), 4
    ):
        assert np.array_equal(again.image, before.image)
        assert torch.equal(again.target.boxes, before.target.boxes)


def test_identities_keep_gender_age_and_never_repeat_in_a_frame(frames):
    known = {}
    for clip in frames:
        for sample in clip:
            target = sample.target
            ids = target.track_ids.tolist()
            assert len(set(ids)) == len(ids)
            for row, identity in enumerate(ids):
                facts = (target.gender.value[row].item(), target.age.value[row, 0].item())
                assert known.setdefault(identity, facts) == facts
    assert len(known) >= 10


def test_people_move_smoothly_enter_and_leave(frames):
    appearing = 0
    for clip in frames:
        all_ids = {i for s in clip for i in s.target.track_ids.tolist()}
        appearing += sum(not all(i in s.target.track_ids.tolist() for s in clip) for i in all_ids)
        for before, after in itertools.pairwise(clip):
            a, b = before.target, after.target
            for i, identity in enumerate(a.track_ids.tolist()):
                j = (b.track_ids == identity).nonzero().flatten()
                if not len(j):
                    continue
                both = (a.visibility[i] > 0) & (b.visibility[j[0]] > 0)
                step = (a.keypoints.value[i] - b.keypoints.value[j[0]])[both][:, :2].norm(dim=-1)
                assert step.max() < 20 if len(step) else True
    assert appearing >= 1


def test_truth_is_exact_in_every_frame(frames):
    for sample in (s for clip in frames for s in clip):
        target = sample.target
        assert torch.equal(target.boxes, mask_boxes(target.masks.value))
        assert (target.areas >= SMALL.min_pixels).all()
        assert (target.keypoints.value[target.visibility == 0] == 0).all()


def test_a_clip_without_people_is_empty_but_valid():
    clip = clips.open(GeneratedClips(frames=2, size=(48, 64), people=(0, 0))).clip(0)
    assert [len(sample.target) for sample in clip] == [0, 0]


def test_splits_are_unrelated():
    train, val = (
        next(clips.open(GeneratedClips(size=(64, 64), split=s)).clip(0)) for s in ("train", "val")
    )
    assert not np.array_equal(train.image, val.image)


def test_a_clip_config_survives_json():
    assert from_plain(GeneratedClips, to_plain(SMALL)) == SMALL


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("frames", 0, "at least 1"),
        ("speed", 0.0, "more than 0"),
        ("people", (5, 2), "least <= most"),
    ],
)
def test_an_impossible_clip_field_is_named(field, value, expected):
    with pytest.raises(ConfigError, match=f"GeneratedClips.{field}: got .*{expected}"):
        GeneratedClips(**{field: value})


def test_a_clip_outside_the_source_is_refused_at_once():
    with pytest.raises(IndexError, match="clip 3 asked for, there are 3"):
        clips.open(SMALL).scenes(3)
