"""Masks in C give what numpy and torch give."""

import numpy as np
import pytest
import torch

from humanquery.core.masks import _compress, _counts, bitmaps_to_rles, rle_to_bitmap
from humanquery.ops import native
from humanquery.ops.native import masks as native_masks
from tests.ops.test_deformable import needs_native
from tests.ops.test_native import known_capabilities

pytestmark = needs_native


def by_numpy(bitmaps):
    return _compress(*_counts(bitmaps))


def blobs(draw, count, height, width):
    """Discs of any size anywhere, some cut by the border, some with holes and crumbs."""
    y, x = np.ogrid[:height, :width]
    made = np.zeros((count, height, width), bool)
    for bitmap in made:
        for turn in range(draw.integers(1, 4)):
            cy, cx = draw.uniform(-5, height + 5), draw.uniform(-5, width + 5)
            inside = ((y - cy) / draw.uniform(1, height)) ** 2 + (
                (x - cx) / draw.uniform(1, width)
            ) ** 2 < 0.5
            bitmap[inside] = turn != 1
        bitmap ^= draw.random((height, width)) < draw.choice([0, 0, 0.02])
    return torch.from_numpy(made)


def cases():
    draw = np.random.default_rng(0)
    for size in [(1, 1), (1, 9), (9, 1), (5, 6), (7, 63), (3, 64), (4, 65), (50, 129), (31, 200)]:
        yield blobs(draw, 12, *size)
        yield torch.from_numpy(draw.random((6, *size)) < draw.random((6, 1, 1)))
        corners = torch.zeros(4, *size, dtype=torch.bool)
        for i, (y, x) in enumerate([(0, 0), (0, -1), (-1, 0), (-1, -1)]):
            corners[i, y, x] = True  # one pixel only
        yield torch.cat([corners, ~corners, torch.zeros(1, *size) > 0, torch.ones(1, *size) > 0])


def test_run_lengths_equal_numpys_and_pycocotools_and_come_back():
    theirs = pytest.importorskip("pycocotools.mask")
    for bitmaps in cases():
        texts = native_masks.run_lengths(bitmaps)
        assert texts == by_numpy(bitmaps)
        coded = theirs.encode(
            np.asfortranarray(bitmaps.numpy().transpose(1, 2, 0).astype(np.uint8))
        )
        assert texts == [one["counts"].decode() for one in coded]
        back = [rle_to_bitmap({"size": list(bitmaps.shape[1:]), "counts": text}) for text in texts]
        assert torch.equal(torch.stack(back), bitmaps)


def test_a_large_picture_has_long_numbers():
    bitmaps = torch.zeros(2, 5000, 3000, dtype=torch.bool)
    bitmaps[0, 17, 2990] = bitmaps[1, :, 3:2995] = True
    assert native_masks.run_lengths(bitmaps) == by_numpy(bitmaps)


def test_masks_may_lie_in_memory_as_they_like():
    bitmaps = blobs(np.random.default_rng(1), 8, 70, 90)
    for view in [
        bitmaps.transpose(1, 2),
        bitmaps[:, 3:40, 7:81],
        bitmaps[::2, ::3],
        bitmaps[:, :, ::2],
        bitmaps.permute(1, 0, 2),
        bitmaps[:1].expand(5, -1, -1),
        bitmaps[0].expand(2, -1, -1)[:, 5:6],
    ]:
        assert native_masks.run_lengths(view) == by_numpy(view.contiguous())


def test_no_masks_and_masks_without_pixels_are_coded_too():
    assert native_masks.run_lengths(torch.zeros(0, 4, 5, dtype=torch.bool)) == []
    for size in [(0, 5), (5, 0), (0, 0)]:
        assert native_masks.run_lengths(torch.zeros(2, *size, dtype=torch.bool)) == ["0", "0"]


def test_every_instruction_set_codes_the_same():
    bitmaps = blobs(np.random.default_rng(2), 5, 60, 150)
    for name in known_capabilities():
        assert native_masks.run_lengths(bitmaps, capability=name) == by_numpy(bitmaps)


def test_the_number_of_threads_changes_nothing(monkeypatch):
    bitmaps = blobs(np.random.default_rng(3), 7, 60, 150)
    for threads in (1, 2, 3, 7, 100):
        monkeypatch.setattr(native_masks, "_threads", lambda pixels, threads=threads: threads)
        assert native_masks.run_lengths(bitmaps) == by_numpy(bitmaps)


def test_threads_follow_torch_and_few_pixels_get_one(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    counts = {
        n: native_masks._threads(torch.empty(n, 1024, 1024, dtype=torch.bool))
        for n in (0, 1, 3, 100)
    }
    assert counts == {0: 1, 1: 1, 3: 3, 100: 4}


def test_without_a_library_masks_are_coded_all_the_same(monkeypatch):
    bitmaps = blobs(np.random.default_rng(4), 3, 20, 30)
    coded = bitmaps_to_rles(bitmaps)
    monkeypatch.setattr(native, "missing", lambda: "no C compiler found")
    monkeypatch.setattr(
        native_masks, "run_lengths", lambda bitmaps: pytest.fail("there is no library")
    )
    assert bitmaps_to_rles(bitmaps) == coded


def lines_and_columns(height, width, cells):
    """Places of a picture's pixels on a map, some on its border."""
    return [
        ((torch.arange(n) + 0.5) * c / n - 0.5).clamp(0, c - 1.2)
        for n, c in zip((height, width), cells, strict=True)
    ]


@pytest.mark.parametrize(
    ("cells", "size"),
    [((1, 1), (3, 5)), ((6, 9), (23, 40)), ((40, 30), (19, 7)), ((8, 50), (33, 301))],
)
def test_painted_masks_are_where_interpolated_logits_are_positive(cells, size):
    logits = torch.randn(9, *cells, generator=torch.Generator().manual_seed(0)) * 3
    logits[0], logits[1], logits[2] = 500.0, -1.0, float("nan")
    down, right = (places.clamp(min=0) for places in lines_and_columns(*size, cells))
    values = bilinear(logits.double(), down.double(), right.double())
    for name in known_capabilities():
        masks = torch.zeros(9, *size, dtype=torch.bool)
        inside = native_masks.painted(logits, down, right, masks, capability=name)
        clear = ~(values.abs() < 1e-4)
        assert torch.equal(masks[clear], (values > 0)[clear])
        mean = torch.where(masks, values.sigmoid(), 0.0).sum((1, 2)) / (masks.sum((1, 2)) + 1e-6)
        torch.testing.assert_close(inside, mean.float(), atol=1e-6, rtol=1e-6)
        assert masks[0].all() and inside[1] == 0 and not masks[1:3].any()


def bilinear(cells, down, right):
    y, x = down.long(), right.long()
    below, after = (y + 1).clamp(max=cells.shape[1] - 1), (x + 1).clamp(max=cells.shape[2] - 1)
    v, u = (down - y)[:, None], right - x
    upper = cells[:, y][:, :, x] * (1 - u) + cells[:, y][:, :, after] * u
    lower = cells[:, below][:, :, x] * (1 - u) + cells[:, below][:, :, after] * u
    return upper * (1 - v) + lower * v


def test_the_number_of_threads_changes_no_bit_of_painted_masks(monkeypatch):
    logits = torch.randn(5, 12, 20, generator=torch.Generator().manual_seed(1))
    down, right = (places.clamp(min=0) for places in lines_and_columns(50, 70, (12, 20)))
    results = []
    for threads in (1, 2, 5, 100):
        monkeypatch.setattr(native_masks, "_threads", lambda pixels, threads=threads: threads)
        masks = torch.zeros(5, 50, 70, dtype=torch.bool)
        results.append((native_masks.painted(logits, down, right, masks), masks))
    for inside, masks in results[1:]:
        assert torch.equal(inside, results[0][0]) and torch.equal(masks, results[0][1])


def test_a_part_of_a_larger_mask_is_painted_and_nothing_beside_it():
    logits, down, right = (
        torch.ones(2, 3, 4),
        torch.tensor([0.0, 1.5]),
        torch.tensor([0.2, 1.0, 3.0]),
    )
    masks = torch.zeros(2, 7, 9, dtype=torch.bool)
    native_masks.painted(logits, down, right, masks[:, 2:4, 5:8])
    assert masks[:, 2:4, 5:8].all() and masks.sum() == 12


def test_nobody_is_painted_and_on_no_pixels():
    none = native_masks.painted(
        torch.zeros(0, 3, 4), torch.zeros(5), torch.zeros(6), torch.zeros(0, 5, 6) > 0
    )
    assert none.shape == (0,)
    nowhere = native_masks.painted(
        torch.ones(2, 3, 4), torch.zeros(0), torch.zeros(6), torch.zeros(2, 0, 6) > 0
    )
    assert nowhere.tolist() == [0, 0]
