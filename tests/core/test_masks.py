import numpy as np
import pytest
import torch

from humanquery.core.errors import AnnotationError
from humanquery.core.masks import (
    bitmap_to_counts,
    bitmap_to_rle,
    bitmaps_to_rles,
    mask_boxes,
    polygons_to_bitmap,
    rle_to_bitmap,
)


def _bitmaps():
    draw = np.random.default_rng(0)
    for share in np.linspace(0, 1, 40):
        yield draw.random(draw.integers(1, 40, 2)) < share
    for size in ((1, 1), (1, 7), (7, 1), (5, 6)):
        yield np.zeros(size, bool)
        yield np.ones(size, bool)
        one = np.zeros(size, bool)
        one[-1, -1] = True
        yield one
    for _ in range(40):
        bitmap = np.zeros(draw.integers(2, 60, 2), bool)
        y, x, bottom, right = draw.integers(0, 60, 4)
        bitmap[y:bottom, x:right] = True
        yield bitmap
    long = np.zeros((3000, 700), bool)
    long[:, 1:600] = True
    long[17, 650] = True
    yield long


def test_run_lengths_equal_pycocotools_both_ways():
    mask = pytest.importorskip("pycocotools.mask")
    for bitmap in _bitmaps():
        ours = bitmap_to_rle(torch.from_numpy(bitmap))
        theirs = mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))
        assert ours == {"size": list(bitmap.shape), "counts": theirs["counts"].decode()}
        assert (rle_to_bitmap(theirs).numpy() == bitmap).all()


def test_uncompressed_counts_come_back():
    for bitmap in _bitmaps():
        counts = bitmap_to_counts(torch.from_numpy(bitmap))
        assert min(counts[1:], default=1) > 0 and all(type(count) is int for count in counts)
        assert (
            rle_to_bitmap({"size": list(bitmap.shape), "counts": counts}).numpy() == bitmap
        ).all()


def test_counts_by_hand():
    bitmap = torch.tensor([[False, True], [True, True]])
    assert bitmap_to_counts(bitmap) == [1, 3]
    assert bitmap_to_counts(~bitmap) == [0, 1, 3]
    assert bitmap_to_counts(torch.zeros(2, 3, dtype=torch.bool)) == [6]
    assert bitmap_to_counts(torch.zeros(0, 3, dtype=torch.bool)) == [0]


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [2, 2], "counts": [1, 2]}, "counts 3 pixels, expected 2 x 2 = 4"),
        ({"size": [2, 2], "counts": [5, -1]}, "a run of -1 pixels"),
        ({"size": [2, 2], "counts": []}, "counts 0 pixels, expected 2 x 2 = 4"),
        ({"size": [2, 2], "counts": "P"}, "not a COCO run-length string"),
        ({"size": [2, 2], "counts": "é!"}, "not a COCO run-length string|counts"),
        ({"size": [2, 2]}, "must be {'size': .height, width., 'counts': ...}: 'counts'"),
        ({"size": 4, "counts": [4]}, "an RLE mask must be"),
        ({"size": [2, 2], "counts": None}, "an RLE mask must be"),
    ],
)
def test_damaged_run_lengths_are_named(rle, message):
    with pytest.raises(AnnotationError, match=message):
        rle_to_bitmap(rle)


def test_a_polygon_covers_the_pixels_whose_centre_it_holds():
    square = polygons_to_bitmap([[1, 1, 4, 1, 4, 3, 1, 3]], (5, 6))
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[1:3, 1:4] = True
    assert torch.equal(square, expected)
    assert polygons_to_bitmap([[-9, -9, 99, -9, 99, 99, -9, 99]], (5, 6)).all()
    assert not polygons_to_bitmap([], (5, 6)).any()
    assert not polygons_to_bitmap([[10, 10, 12, 10, 12, 12]], (5, 6)).any()


def test_polygons_lie_close_to_pycocotools():
    mask = pytest.importorskip("pycocotools.mask")
    draw = np.random.default_rng(2)
    for _ in range(20):
        angle = np.sort(draw.uniform(0, 2 * np.pi, 12))
        radius = draw.uniform(20, 40, 12)
        polygon = (
            np.stack([50 + radius * np.cos(angle), 45 + radius * np.sin(angle)], 1).ravel().tolist()
        )
        theirs = mask.decode(mask.frPyObjects([polygon], 90, 100)[0]).astype(bool)
        ours = polygons_to_bitmap([polygon], (90, 100)).numpy()
        assert (ours & theirs).sum() / (ours | theirs).sum() > 0.97


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([1, 1, 2, 2], "has 4 numbers, expected an even count of at least 6"),
        ([1, 1, 2, 2, 3, 3, 4], "has 7 numbers"),
        ([1, 1, 2, float("nan"), 3, 3], "NaN or infinity"),
    ],
)
def test_bad_polygons_are_named(polygon, message):
    with pytest.raises(AnnotationError, match=message):
        polygons_to_bitmap([[1, 1, 4, 1, 4, 3], polygon], (5, 6))


def test_mask_boxes_are_tight():
    masks = torch.zeros(3, 8, 9, dtype=torch.bool)
    masks[0, 2:5, 3:7] = True
    masks[2, 7, 8] = True
    assert mask_boxes(masks).tolist() == [[3, 2, 7, 5], [0, 0, 0, 0], [8, 7, 9, 8]]
    assert mask_boxes(masks[:0]).shape == (0, 4)


def test_bitmaps_are_coded_together_as_one_by_one():
    draw = np.random.default_rng(1)
    masks = torch.from_numpy(draw.random((30, 9, 13)) < draw.random((30, 1, 1)))
    masks[3], masks[4], masks[29] = False, True, False
    assert bitmaps_to_rles(masks) == [bitmap_to_rle(mask) for mask in masks]
    assert bitmaps_to_rles(masks.transpose(1, 2)) == [
        bitmap_to_rle(mask) for mask in masks.transpose(1, 2)
    ]


def test_no_bitmaps_and_bitmaps_without_pixels_are_coded_too():
    assert bitmaps_to_rles(torch.zeros(0, 4, 5, dtype=torch.bool)) == []
    assert (
        bitmaps_to_rles(torch.zeros(2, 0, 5, dtype=torch.bool))
        == [{"size": [0, 5], "counts": "0"}] * 2
    )
