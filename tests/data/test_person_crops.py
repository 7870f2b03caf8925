"""Person regions: one labelled person at a time on a small canvas."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from humanquery.core.config import from_plain, to_plain
from humanquery.core.errors import ConfigError
from humanquery.core.rows import Labelled
from humanquery.core.skeleton import COCO17
from humanquery.core.target import Target
from humanquery.data.augment.person_crops import (
    RegionAugmentConfig,
    RegionsConfig,
    augment_region,
    head_squares,
    labelled,
)
from humanquery.data.augment.photometric import PhotometricConfig
from humanquery.data.loading.loader import MixConfig, MixPart, TrainLoader
from humanquery.data.readers.coco import CocoSourceConfig
from humanquery.data.readers.crops import PetaConfig
from humanquery.data.readers.sources import SourceConfig, open_source
from tests.data.coco_files import person, write_file
from tests.data.test_crops import crop_folder

STILL = RegionAugmentConfig(
    canvas=(96, 64),
    scale=(1.0, 1.0),
    close=0.0,
    mirror=0.0,
    rotation=0.0,
    jitter=0.0,
    colours=PhotometricConfig(chance=0.0),
    grey=0.0,
    blur=0.0,
    compress=0.0,
    noise=0.0,
    erase=0.0,
)


def photos(folder) -> RegionsConfig:
    """Two pictures of 48 × 64: persons 1 and 3 are labelled, large and no fragments."""
    people = [
        person(1, box=(10, 5, 20, 30), gender=1, age=30),
        person(2, box=(40, 5, 20, 30)),
        person(3, image_id=2, box=(5, 5, 40, 40), age_range=[20, 40]),
        person(4, image_id=2, box=(50, 20, 5, 9), gender=0),
        person(5, image_id=2, box=(5, 5, 30, 40), gender=0, look="fragment"),
        person(6, image_id=2, box=(5, 5, 35, 40), gender=0, iscrowd=1),
    ]
    return RegionsConfig(
        CocoSourceConfig(write_file(folder, people, pictures=2), fragments="ignore")
    )


def test_every_large_labelled_person_is_one_sample_and_stands_first(tmp_path):
    source = photos(tmp_path).build()
    assert len(source) == 2
    assert [source[i].target.annotation_ids for i in range(2)] == [None, None]
    assert [source[i].target.boxes[0].tolist() for i in range(2)] == [
        [10, 5, 30, 35],
        [5, 5, 45, 45],
    ]
    assert (
        source[1].target.age.value[0].tolist() == [20, 40] and not source[1].target.gender.valid[0]
    )
    assert labelled(source[1].target).tolist() == [True, True, False, False]
    assert source[0].image is source[0].image, "a picture is decoded once"
    with pytest.raises(IndexError):
        source[2]


def test_decoded_pictures_are_kept_up_to_a_number_of_bytes_and_the_oldest_goes_first(tmp_path):
    config = photos(tmp_path)
    small, none = config.build(), replace(config, cache_mb=0).build()
    picture = small[0].image.nbytes
    assert none[0].image is not none[0].image and not none._decoded
    large = replace(config, cache_mb=1.5 * picture / 1_000_000).build()
    first = large[0].image
    assert large[0].image is first
    large[1]
    assert list(large._decoded) == [1] and large._decoded_bytes == picture
    assert large[0].image is not first
    with pytest.raises(ConfigError, match="RegionsConfig.cache_mb: got -1, expected 0"):
        replace(config, cache_mb=-1)


def test_large_pictures_are_kept_small_with_their_boxes(tmp_path):
    source = replace(photos(tmp_path), longest_picture=32, smallest=10.0).build()
    sample = source[0]
    assert sample.image.shape == (24, 32, 3) and sample.target.boxes[0].tolist() == [
        5,
        2.5,
        15,
        17.5,
    ]
    assert sample.meta.to_canvas.a == 0.5


def test_crops_are_regions_too_and_unlabelled_ones_are_left_out(tmp_path):
    config = RegionsConfig(PetaConfig(crop_folder(tmp_path)))
    source = open_source(config)
    assert [source[i].target.boxes[0].tolist() for i in range(len(source))] == [
        [0, 0, 20, 40],
        [0, 0, 20, 41],
    ]
    assert from_plain(SourceConfig, to_plain(config)) == config


def test_the_meant_person_fills_the_canvas_when_nothing_is_drawn(tmp_path):
    sample = photos(tmp_path).build()[0]
    canvas = augment_region(sample, STILL, np.random.default_rng(0))
    assert canvas.image.shape == (96, 64, 3)
    assert torch.allclose(canvas.target.boxes, torch.tensor([[0.0, 0.0, 64.0, 96.0]]))
    assert torch.allclose(canvas.meta.to_canvas.boxes(sample.target.boxes[:1]), canvas.target.boxes)
    assert canvas.target.gender.value.tolist() == [1.0], (
        "the neighbour has no label and is left out"
    )


def test_the_drawn_scale_is_kept_and_the_box_stays_on_the_canvas(tmp_path):
    sample = photos(tmp_path).build()[0]
    for seed in range(20):
        boxes = augment_region(
            sample, replace(STILL, scale=(0.4, 0.6)), np.random.default_rng(seed)
        ).target.boxes
        assert 0.4 <= float(boxes[0, 3] - boxes[0, 1]) / 96 <= 0.6
        assert boxes[0].min() >= 0 and boxes[0, 2] <= 64 and boxes[0, 3] <= 96


def test_a_close_view_cuts_the_lower_part_and_still_knows_the_person(tmp_path):
    sample = photos(tmp_path).build()[0]
    for seed in range(20):
        close = replace(STILL, close=1.0, close_scale=(1.5, 1.5))
        canvas = augment_region(sample, close, np.random.default_rng(seed))
        assert len(canvas.target) == 1 and canvas.target.gender.valid[0]
        top = canvas.meta.to_canvas.boxes(sample.target.boxes[:1])[0, 1]
        assert -0.13 * 144 <= top <= 1e-3


def test_a_mirrored_picture_moves_the_box_with_the_pixels(tmp_path):
    sample = photos(tmp_path).build()[0]
    image = np.zeros_like(sample.image)
    image[5:35, 10:20] = 255  # left half of the box
    rng = np.random.default_rng(0)
    canvas = augment_region(replace(sample, image=image), replace(STILL, mirror=1.0), rng)
    assert canvas.image[40, 60].min() > 200 and canvas.image[40, 4].max() < 50


def test_jitter_stays_within_its_share_of_the_sides(tmp_path):
    sample = photos(tmp_path).build()[0]
    config = replace(STILL, scale=(0.5, 0.5), jitter=0.1)
    for seed in range(20):
        canvas = augment_region(sample, config, np.random.default_rng(seed))
        moved = canvas.target.boxes[0] - canvas.meta.to_canvas.boxes(sample.target.boxes[:1])[0]
        assert (
            moved.abs() <= 0.1 * torch.tensor([32.0, 48, 32, 48]) + 1e-3
        ).all() and moved.abs().max() > 0


def test_everything_drawn_gives_the_same_picture_for_the_same_draws(tmp_path):
    sample = photos(tmp_path).build()[1]
    wild = RegionAugmentConfig(grey=0.5, blur=0.9, compress=0.9, noise=0.9, erase=0.9)
    for seed in range(5):
        a, b = (augment_region(sample, wild, np.random.default_rng(seed)) for _ in range(2))
        assert np.array_equal(a.image, b.image) and torch.equal(a.target.boxes, b.target.boxes)
        assert a.image.shape == (*wild.canvas, 3) and a.image.dtype == np.uint8
    assert not np.array_equal(
        a.image, augment_region(sample, wild, np.random.default_rng(99)).image
    )


def test_neighbours_are_seen_and_not_learned_from(tmp_path):
    sample = photos(tmp_path).build()[0]
    both = sample.target.replace(
        gender=Labelled(torch.tensor([1.0, 0.0]), torch.tensor([True, True]))
    )
    small = replace(STILL, scale=(0.35, 0.35))
    assert (
        len(both) == 2
        and len(
            augment_region(replace(sample, target=both), small, np.random.default_rng(0)).target
        )
        == 1
    )


def test_a_sample_without_anybody_and_an_impossible_canvas_say_what_is_wrong(tmp_path):
    sample = photos(tmp_path).build()[0]
    with pytest.raises(ValueError, match="no person; expected the meant one in row 0"):
        augment_region(replace(sample, target=sample.target[:0]), STILL, np.random.default_rng(0))
    with pytest.raises(ConfigError, match=r"canvas \(0, 64\)"):
        RegionAugmentConfig(canvas=(0, 64))


def test_the_loader_mixes_regions_each_with_its_own_augmentation(tmp_path):
    parts = (
        MixPart(photos(tmp_path / "photos")),
        MixPart(
            RegionsConfig(PetaConfig(crop_folder(tmp_path))),
            augment=replace(STILL, scale=(0.5, 0.5)),
        ),
    )
    loader = TrainLoader(MixConfig(parts), STILL, 24, seed=1)
    batch = next(loader.batches(3))
    assert batch.images.shape == (24, 3, 96, 64)
    heights = {round(float(t.boxes[0, 3] - t.boxes[0, 1])) for t in batch.targets}
    assert 48 in heights and max(heights) > 60
    assert torch.equal(
        batch.images, next(TrainLoader(MixConfig(parts), STILL, 24, seed=1).batches(3)).images
    )


def joints(**places: tuple[float, float]) -> Target:
    """One person of whom these joints are labelled."""
    coco = COCO17
    points, seen = torch.zeros(1, 17, 2), torch.zeros(1, 17, dtype=torch.long)
    for name, place in places.items():
        points[0, coco.index(name)], seen[0, coco.index(name)] = torch.tensor(place), 2
    return Target(
        image_size=(200, 200),
        boxes=torch.tensor([[10.0, 10.0, 110.0, 190.0]]),
        ignore=torch.zeros(1, dtype=torch.bool),
        areas=torch.ones(1),
        keypoints=Labelled(points, torch.ones(1, dtype=torch.bool)),
        visibility=seen,
        skeleton=coco,
    )


FACE = {"nose": (50.0, 42.0), "left_eye": (55.0, 36.0), "right_eye": (45.0, 36.0)}
EARS = {"left_ear": (60.0, 38.0), "right_ear": (40.0, 38.0)}
SHOULDERS = {"left_shoulder": (80.0, 88.0), "right_shoulder": (20.0, 88.0)}


@pytest.mark.parametrize(
    ("places", "middle", "side"),
    [
        (FACE | EARS, (50.0, 38.0), 40.0),
        (FACE, (50.0, 38.0), 36.0),
        (FACE | EARS | SHOULDERS, (50.0, 38.0), 65.0),
        (EARS | SHOULDERS, (50.0, 38.0), 65.0),
        ({"nose": (50.0, 38.0), "left_ear": (50.0, 38.0)} | SHOULDERS, (50.0, 38.0), 65.0),
    ],
    ids=["ears and eyes", "eyes", "shoulders", "from behind", "from the side"],
)
def test_a_heads_square_comes_from_ears_eyes_or_shoulders_whichever_is_widest(places, middle, side):
    squares = head_squares(joints(**places))
    x, y = middle
    assert squares.valid.tolist() == [True]
    expected = [x - side / 2, y - side / 2, x + side / 2, y + side / 2]
    torch.testing.assert_close(squares.value[0], torch.tensor(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "places",
    [
        {},
        SHOULDERS,
        {"nose": (50.0, 38.0)} | SHOULDERS,
        {"nose": (5.0, 3.0), "left_eye": (6.0, 2.0)},
    ],
)
def test_a_head_of_which_too_little_is_known_is_not_valid(places):
    assert head_squares(joints(**places)).valid.tolist() == [False]


def test_without_joints_there_are_no_squares():
    target = joints(**FACE)
    assert head_squares(replace(target, keypoints=None, visibility=None, skeleton=None)) is None


def test_the_known_head_moves_with_the_person(tmp_path):
    face = {"nose": (20, 15), "left_eye": (24, 12), "right_eye": (16, 12)}
    coco = COCO17
    flat = [0] * 51
    for name, (x, y) in face.items():
        flat[3 * coco.index(name) : 3 * coco.index(name) + 3] = [x, y, 2]
    people = [person(1, box=(10, 5, 20, 30), gender=1, age=30, keypoints=flat)]
    source = RegionsConfig(CocoSourceConfig(write_file(tmp_path, people, pictures=1))).build()
    square = source[0].target.face_boxes
    assert square.valid.tolist() == [True]
    turned = replace(STILL, mirror=1.0)
    sample = augment_region(source[0], turned, np.random.default_rng(0))
    moved = sample.target.face_boxes.value[0]
    matrix = sample.meta.to_canvas
    middle = (square.value[0, :2] + square.value[0, 2:]) / 2
    torch.testing.assert_close(
        (moved[:2] + moved[2:]) / 2, matrix.points(middle[None])[0], atol=1e-3, rtol=1e-4
    )
    scale = abs(matrix.determinant) ** 0.5
    torch.testing.assert_close(
        moved[2:] - moved[:2],
        (square.value[0, 2:] - square.value[0, :2]) * scale,
        atol=1e-3,
        rtol=1e-4,
    )
