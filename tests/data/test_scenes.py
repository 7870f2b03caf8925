import dataclasses

import numpy as np
import pytest
import torch

from humanquery.core.batch import Batch
from humanquery.core.config import from_plain, override, to_plain
from humanquery.core.errors import ConfigError
from humanquery.core.masks import mask_boxes
from humanquery.data.scenes import scenes
from humanquery.data.scenes.layers import Layer, compose
from humanquery.data.scenes.people_paint import PARTS, paint
from humanquery.data.scenes.people_shapes import (
    FEMALE,
    OLDEST,
    YOUNGEST,
    Pose,
    sample_look,
    sample_pose,
)
from humanquery.data.scenes.scenes import GeneratedScenes, easy_scenes, street_scenes

CROWD = GeneratedScenes(
    seed=11,
    count=14,
    size=(192, 224),
    people=(3, 8),
    overlap=0.8,
    truncation=0.5,
    occluders=(1, 3),
    min_pixels=24,
)


@pytest.fixture(scope="module")
def crowd():
    source = scenes.open(CROWD)
    return [source.scene(i) for i in range(len(source))]


def fields_of(target):
    flat = {}
    for name, _, value in target.filled():
        flat |= (
            {name: value}
            if isinstance(value, torch.Tensor)
            else {name: value.value, name + "_valid": value.valid}
        )
    return flat


def assert_same_target(a, b):
    a, b = fields_of(a), fields_of(b)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_the_same_seed_gives_the_same_pixels_and_truth_in_any_order():
    first, second = scenes.open(CROWD), scenes.open(CROWD)
    later = second[5], second[2]
    for index, again in ((5, later[0]), (2, later[1])):
        sample = first[index]
        assert np.array_equal(sample.image, again.image)
        assert_same_target(sample.target, again.target)


def test_other_indices_seeds_and_splits_give_other_pictures():
    here = scenes.open(CROWD)[0].image
    assert not np.array_equal(here, scenes.open(CROWD)[1].image)
    for change in ({"seed": 12}, {"split": "val"}, {"split": "test"}):
        assert not np.array_equal(here, scenes.open(dataclasses.replace(CROWD, **change))[0].image)


def test_boxes_are_the_hulls_of_the_visible_masks_and_areas_their_pixels(crowd):
    for scene in crowd:
        masks = scene.target.masks.value
        assert torch.equal(scene.target.boxes, mask_boxes(masks))
        assert torch.equal(scene.target.areas, masks.flatten(1).sum(1).float())


def test_no_pixel_belongs_to_two_people_and_maps_agree_with_masks(crowd):
    for scene in crowd:
        masks = scene.target.masks.value
        assert masks.sum(0).max() <= 1
        assert np.array_equal(scene.owners > 0, masks.any(0).numpy())
        assert np.array_equal(scene.parts > 0, scene.owners > 0)
        assert scene.parts.max() < len(PARTS)


def test_nobody_is_smaller_than_asked_for(crowd):
    for scene in crowd:
        assert (scene.target.areas >= CROWD.min_pixels).all()


def test_visible_joints_lie_on_their_own_mask_within_three_pixels(crowd):
    checked = 0
    for scene in crowd:
        target = scene.target
        for row in range(len(target)):
            ys, xs = np.nonzero(target.masks.value[row].numpy())
            seen = target.keypoints.value[row][target.visibility[row] == 2].numpy()
            for x, y in seen:
                assert np.hypot(xs + 0.5 - x, ys + 0.5 - y).min() <= 3
                checked += 1
    assert checked > 200


def test_a_crowd_shows_all_three_kinds_of_visibility_and_joints_outside_are_zero(crowd):
    kinds = set()
    for scene in crowd:
        target, (height, width) = scene.target, CROWD.size
        kinds |= set(target.visibility.unique().tolist())
        assert (target.keypoints.value[target.visibility == 0] == 0).all()
        inside = target.keypoints.value[target.visibility > 0]
        assert (inside >= 0).all() and (inside < torch.tensor([width, height])).all()
    assert kinds == {0, 1, 2}


def test_a_person_seen_from_behind_hides_its_nose_and_has_no_face_box():
    look = dataclasses.replace(sample_look(np.random.default_rng(0), 1), age=30, hair_style="short")
    front, back = paint(look, Pose(), 160), paint(look, Pose(yaw=180.0), 160)
    assert front.shows[:3].all() and front.face_box is not None
    assert not back.shows[:3].any() and back.face_box is None
    assert back.shows[5:7].all() and back.shows[15:].all()


@pytest.mark.parametrize(("view", "away"), [("front", 0), ("side", 90), ("back", 180)])
def test_a_chosen_view_is_the_only_one_seen(view, away):
    rng = np.random.default_rng(0)
    look = sample_look(rng, 1)
    turns = [sample_pose(rng, look, views=(view,)).yaw for _ in range(50)]
    off = [abs((turn + 180) % 360 - 180) - away for turn in turns]  # degrees from the camera
    assert all(abs(degrees) <= 40 for degrees in off) and len(set(turns)) == 50


def test_left_is_on_the_right_of_the_picture_when_a_person_faces_the_camera():
    look = sample_look(np.random.default_rng(3), 1)
    front, back = paint(look, Pose(), 120), paint(look, Pose(yaw=180.0), 120)
    for left, right in ((1, 2), (3, 4), (5, 6), (11, 12), (15, 16)):
        assert front.joints[left, 0] > front.joints[right, 0]
        assert back.joints[left, 0] < back.joints[right, 0]


def test_a_person_in_front_hides_the_one_behind():
    look = sample_look(np.random.default_rng(1), 1)
    far, near = paint(look, Pose(), 90), paint(dataclasses.replace(look, identity=2), Pose(), 90)
    background = np.zeros((120, 120, 3), np.uint8)
    alone = compose(background, [Layer(far, 20, 10)]).target
    both = compose(background, [Layer(far, 20, 10), Layer(near, 26, 12)]).target
    assert both.track_ids.tolist() == [1, 2]
    assert both.areas[0] < 0.6 * alone.areas[0]
    assert (both.visibility[0] == 1).sum() > (alone.visibility[0] == 1).sum()
    assert torch.equal(both.keypoints.value[0], alone.keypoints.value[0])


def test_a_face_box_holds_the_face_and_is_not_valid_when_the_face_is_covered():
    look = dataclasses.replace(sample_look(np.random.default_rng(1), 1), age=30)
    person = paint(look, Pose(), 100)
    background = np.zeros((130, 130, 3), np.uint8)
    scene = compose(background, [Layer(person, 20, 10)])
    x1, y1, x2, y2 = scene.target.face_boxes.value[0].tolist()
    assert scene.target.face_boxes.valid.all()
    ys, xs = np.nonzero(scene.parts == PARTS.index("face"))
    assert (
        x1 - 1 <= xs.min()
        and xs.max() + 1 <= x2 + 1
        and y1 - 1 <= ys.min()
        and ys.max() + 1 <= y2 + 1
    )
    off_frame = compose(background, [Layer(person, 20, 10 - int(y2))])
    assert not off_frame.target.face_boxes.valid.any()
    assert (off_frame.target.face_boxes.value == 0).all()


def test_mirroring_a_target_agrees_with_the_mirrored_picture(crowd):
    for scene in crowd[:6]:
        mirrored = scene.target.mirror()
        flipped = torch.from_numpy(scene.owners[:, ::-1].copy())
        for row in range(len(mirrored)):
            assert torch.equal(mirrored.masks.value[row], flipped == row + 1)
            assert torch.equal(
                mirrored.boxes[row], mask_boxes(mirrored.masks.value[row : row + 1])[0]
            )
        assert torch.equal(mirrored.visibility[:, 5], scene.target.visibility[:, 6])


def test_gender_is_even_and_age_covers_the_whole_range():
    rng = np.random.default_rng(0)
    looks = [sample_look(rng, i) for i in range(2000)]
    ages = np.array([look.age for look in looks])
    assert 0.46 < np.mean([look.gender == FEMALE for look in looks]) < 0.54
    assert (ages.min(), ages.max()) == (YOUNGEST, OLDEST)
    assert np.histogram(ages, bins=6, range=(1, 85))[0].min() > 250


def test_age_and_gender_show_in_shape_and_colour():
    rng = np.random.default_rng(0)
    looks = [sample_look(rng, i) for i in range(600)]
    children = [look.build.head for look in looks if look.age < 8]
    adults = [look.build.head for look in looks if look.age > 20]
    assert min(children) > 1.2 * max(adults)
    hair = [(look.age, sum(look.hair)) for look in looks if look.age >= 20]
    assert np.corrcoef(np.array(hair).T)[0, 1] > 0.99
    ratio = {
        g: [k.build.shoulder / k.build.hip for k in looks if k.gender == g and k.age > 18]
        for g in (0, 1)
    }
    assert np.quantile(ratio[0], 0.02) > np.quantile(ratio[1], 0.98)


def test_a_scene_without_people_has_an_empty_target_that_knows_every_field():
    sample = scenes.open(GeneratedScenes(people=(0, 0), size=(64, 80)))[3]
    target = sample.target
    assert (
        len(target) == 0
        and target.masks.value.shape == (0, 64, 80)
        and target.keypoints.value.shape == (0, 17, 2)
    )
    assert target.face_boxes.value.shape == (0, 4) and target.age.value.shape == (0, 2)
    assert sample.image.shape == (64, 80, 3) and sample.image.std() > 1


def test_samples_collate_and_carry_their_place():
    source = scenes.open(easy_scenes(seed=1, count=3, size=(96, 128)))
    batch = Batch.collate([source[i] for i in range(3)], divisor=32)
    assert batch.images.shape == (3, 3, 96, 128) and len(batch.targets) == 3
    assert [meta.image_id for meta in batch.metas] == [1, 2, 3]
    assert len({i for t in batch.targets for i in t.track_ids.tolist()}) == sum(
        map(len, batch.targets)
    )


def test_easy_scenes_hold_large_whole_people():
    source = scenes.open(easy_scenes(seed=2, count=16))
    targets = [source[i].target for i in range(16)]
    heights = torch.cat([t.boxes[:, 3] - t.boxes[:, 1] for t in targets])
    assert all(1 <= len(t) <= 4 for t in targets)
    assert heights.quantile(0.05) >= 0.4 * 160
    assert torch.cat([t.visibility for t in targets]).min() >= 1


def test_street_scenes_are_crowded():
    source = scenes.open(street_scenes(seed=2, count=6))
    assert np.mean([len(source[i].target) for i in range(6)]) >= 5


def test_a_config_survives_json_and_takes_overrides():
    config = street_scenes(seed=4)
    assert from_plain(GeneratedScenes, to_plain(config)) == config
    assert override(config, ["people=(2, 3)", "split=val"]).people == (2, 3)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("people", (3, 1), "0 <= least <= most"),
        ("size", (8, 200), "at least 32 px"),
        ("overlap", 1.5, "from 0 to 1"),
        ("split", "training", "train, val, test"),
        ("poses", ("stand", "fly"), "walk"),
        ("poses", (), "stand"),
        ("views", ("above",), "front, side, back"),
        ("height_fraction", (0.0, 0.5), "0 < least"),
        ("seed", -1, "at least 0"),
        ("noise", -2.0, "at least 0"),
        ("occluders", (2, 1), "least <= most"),
    ],
)
def test_an_impossible_field_is_named_with_what_came_and_what_was_expected(field, value, expected):
    with pytest.raises(ConfigError) as problem:
        GeneratedScenes(**{field: value})
    message = str(problem.value)
    assert f"GeneratedScenes.{field}" in message and repr(value) in message and expected in message


def test_presets_go_by_name_and_an_unknown_one_names_the_nearest():
    assert scenes.preset("street", seed=3, count=5) == street_scenes(seed=3, count=5)
    with pytest.raises(
        ConfigError, match="unknown kind of scenes 'streets'. Did you mean 'street'"
    ):
        scenes.preset("streets")


def test_scenes_become_pictures_and_a_coco_file(tmp_path):
    path = scenes.write_scenes(GeneratedScenes(count=3, size=(64, 96), people=(1, 3)), tmp_path)
    assert path.is_file() and len(list((tmp_path / "images").iterdir())) == 3


def test_an_index_outside_says_how_many_scenes_there_are():
    with pytest.raises(IndexError, match="scene 3 asked for, there are 3"):
        scenes.open(GeneratedScenes(count=3))[3]


@pytest.mark.parametrize("size", [(32, 32), (40, 300), (300, 40)])
def test_odd_canvases_work(size):
    source = scenes.open(
        GeneratedScenes(size=size, people=(1, 5), truncation=0.6, occluders=(0, 3))
    )
    for i in range(8):
        assert source[i].image.shape == (*size, 3)
