import numpy as np
import pytest
import torch

from humanquery.core.masks import polygons_to_bitmap


def test_a_rectangle_covers_exactly_its_pixels():
    mask = polygons_to_bitmap([[10.0, 5, 30, 5, 30, 35, 10, 35]], (48, 64))
    assert mask.sum() == 600 and mask[5:35, 10:30].all()


def test_parts_outside_the_canvas_are_cut_and_parts_are_united():
    assert polygons_to_bitmap([[-5.0, -5, 3, -5, 3, 2, -5, 2]], (4, 6)).nonzero().tolist() == [
        [0, 0],
        [0, 1],
        [0, 2],
        [1, 0],
        [1, 1],
        [1, 2],
    ]
    assert (
        polygons_to_bitmap([[0.0, 0, 2, 0, 2, 2, 0, 2], [1.0, 0, 3, 0, 3, 2, 1, 2]], (4, 6)).sum()
        == 6
    )
    assert not polygons_to_bitmap([[9.0, 9, 12, 9, 12, 12]], (4, 6)).any()


def test_a_pixel_belongs_to_exactly_one_of_two_neighbours():
    rng = np.random.default_rng(0)
    for _ in range(20):
        p, q = rng.uniform(0, 30, (2, 2))
        left = polygons_to_bitmap([[0.0, 0, p[0], 0, q[0], 30, 0, 30]], (30, 40))
        right = polygons_to_bitmap([[float(p[0]), 0, 40, 0, 40, 30, float(q[0]), 30]], (30, 40))
        assert torch.equal(left ^ right, torch.ones(30, 40, dtype=torch.bool))


def test_areas_agree_with_the_official_masks_without_bias():
    official = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(1)
    ours = theirs = 0
    for _ in range(100):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
        radius = rng.uniform(8, 25, 12)
        ring = (
            np.stack([40 + radius * np.cos(angles), 30 + radius * np.sin(angles)], 1)
            .ravel()
            .tolist()
        )
        mask = polygons_to_bitmap([ring], (60, 80))
        reference = official.decode(official.merge(official.frPyObjects([ring], 60, 80))).astype(
            bool
        )
        ours, theirs = ours + int(mask.sum()), theirs + int(reference.sum())
        assert (mask.numpy() & reference).sum() / (mask.numpy() | reference).sum() > 0.9
    assert abs(ours / theirs - 1) < 0.01
