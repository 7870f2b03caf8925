"""Generated people: what is painted is what the truth says."""

import numpy as np
import pytest
import torch

from humanquery.core.errors import ConfigError
from humanquery.data.coco import CocoSourceConfig
from humanquery.data.scenes import GeneratedScenes, Scenes, easy_scenes, preset, street_scenes, write_scenes

SMALL = GeneratedScenes(seed=3, height=160, width=192)


@pytest.fixture(scope="module")
def samples():
    scenes = Scenes(SMALL)
    return [scenes[i] for i in range(30)]


def test_the_same_scene_comes_back_pixel_by_pixel():
    one, two = Scenes(SMALL)[4], Scenes(SMALL)[4]
    assert np.array_equal(one.image, two.image)
    assert torch.equal(one.target.boxes, two.target.boxes) and torch.equal(one.target.masks.value, two.target.masks.value)


def test_other_numbers_and_other_seeds_give_other_scenes():
    first = Scenes(SMALL)[0].image
    assert not np.array_equal(first, Scenes(SMALL)[1].image)
    assert not np.array_equal(first, Scenes(GeneratedScenes(seed=4, height=160, width=192))[0].image)


def test_boxes_and_areas_are_those_of_the_visible_masks(samples):
    for sample in samples:
        t = sample.target
        for box, mask, area in zip(t.boxes.tolist(), t.masks.value, t.areas.tolist(), strict=True):
            ys, xs = mask.nonzero(as_tuple=True)
            assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] and area == mask.sum()


def test_no_pixel_belongs_to_two_people(samples):
    for sample in samples:
        assert sample.target.masks.value.sum(0).max() <= 1 if len(sample.target) else True


def test_joints_seen_lie_on_the_person_and_joints_outside_are_zero(samples):
    for sample in samples:
        t = sample.target
        for i in range(len(t)):
            x, y = t.keypoints.value[i].unbind(-1)
            seen, outside = t.visibility[i] == 2, t.visibility[i] == 0
            assert t.masks.value[i][y[seen].long(), x[seen].long()].all()
            assert (t.keypoints.value[i][outside] == 0).all()
            assert (x[~outside] < 192).all() and (y[~outside] < 160).all()


def test_everybody_is_seen_well_enough(samples):
    assert min(float(a) for s in samples for a in s.target.areas) > 40
    assert sum(len(s.target) for s in samples) > 50


def test_genders_and_ages_are_spread_over_the_whole_range():
    scenes = Scenes(easy_scenes(seed=5, size=96))
    targets = [scenes[i].target for i in range(120)]
    gender = torch.cat([t.gender.value for t in targets])
    age = torch.cat([t.age.value for t in targets])
    assert 0.35 < float(gender.mean()) < 0.65
    assert age.min() < 10 and age.max() > 75 and torch.equal(age[:, 0], age[:, 1])


def test_faces_lie_in_the_box_of_people_who_show_them(samples):
    shown = [(s.target.face_boxes.value[i], s.target.boxes[i]) for s in samples for i in s.target.face_boxes.valid.nonzero()[:, 0]]
    assert len(shown) > 20
    for face, box in shown:
        center = (face[:2] + face[2:]) / 2
        assert (center >= box[:2]).all() and (center <= box[2:]).all()


def test_left_is_on_the_right_of_the_picture_for_people_who_show_their_face(samples):
    votes = []
    for s in samples:
        for i in s.target.face_boxes.valid.nonzero()[:, 0]:
            left, right = s.target.keypoints.value[i, 5, 0], s.target.keypoints.value[i, 6, 0]
            if (s.target.visibility[i, 5:7] > 0).all():
                votes.append(bool(left > right))
    assert np.mean(votes) > 0.95


def test_a_scene_without_people_is_a_whole_target():
    sample = Scenes(GeneratedScenes(min_people=0, max_people=0, height=64, width=64))[0]
    assert len(sample.target) == 0 and sample.target.masks is not None and sample.target.keypoints is not None


def test_streets_are_crowded():
    assert len(Scenes(street_scenes(seed=1))[0].target) >= 4


def test_numbers_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="min_people <= max_people"):
        GeneratedScenes(min_people=3, max_people=1)
    with pytest.raises(ConfigError, match="expected 0 < min_height"):
        GeneratedScenes(min_height=0.9, max_height=0.5)
    with pytest.raises(ConfigError, match="at least 32 x 32"):
        GeneratedScenes(height=8)
    with pytest.raises(ConfigError, match="Did you mean 'street'"):
        preset("streets")
    with pytest.raises(IndexError):
        Scenes(GeneratedScenes(count=2))[2]


def test_written_scenes_are_read_back_as_they_were(tmp_path):
    config = GeneratedScenes(count=3, seed=1, height=96, width=96)
    path = write_scenes(config, tmp_path)
    source, scenes = CocoSourceConfig(str(path), str(tmp_path / "images")).build(), Scenes(config)
    for i in range(3):
        read, drawn = source[i], scenes[i]
        assert np.array_equal(read.image, drawn.image)
        torch.testing.assert_close(read.target.boxes, drawn.target.boxes)
        assert torch.equal(read.target.masks.value, drawn.target.masks.value)
        torch.testing.assert_close(read.target.keypoints.value, drawn.target.keypoints.value, atol=0.01, rtol=0)
        torch.testing.assert_close(read.target.age.value, drawn.target.age.value)
