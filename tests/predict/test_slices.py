"""Small people, found in slices of a picture."""

import numpy as np
import pytest
import torch

from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons
from humanquery.predict.base import BasePredictor
from humanquery.predict.slices import SliceConfig, Sliced, merged, slice_windows

TWO = SliceConfig(slices=2, overlap=0.5)


class Patches(BasePredictor):
    """Finds every bright patch of a picture, surer in smaller pictures."""

    card, outputs, path = {"name": "patches"}, {}, None

    def predict_many(self, pictures, *, score=None, tasks=None, attributes=True, batch_size=4):
        for picture in pictures:
            bright, boxes = picture[..., 0] > 128, []
            while bright.any():
                y1, x1 = np.argwhere(bright)[0]
                x2 = x1 + int(np.argmin([*bright[y1, x1:], False]))
                y2 = y1 + int(np.argmin([*bright[y1:, x1], False]))
                bright[y1:y2, x1:x2] = False
                boxes.append([x1, y1, x2, y2])
            yield people(boxes, picture.shape[:2], [1 - picture.shape[1] / 1000] * len(boxes))


def people(boxes: list, size: tuple[int, int], scores: list[float]) -> Persons:
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = True
    return Persons(
        image_size=size,
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores),
        masks=masks,
    )


def picture(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    image = np.zeros((100, 200, 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 255
    return image


@pytest.mark.parametrize("size", [(100, 200), (333, 101), (64, 64), (7, 500)])
@pytest.mark.parametrize("slices", [2, 3, 5])
def test_slices_cover_the_picture_and_overlap(size, slices):
    windows = slice_windows(size, SliceConfig(slices))
    covered = np.zeros(size, int)
    for x1, y1, x2, y2 in windows:
        assert 0 <= x1 < x2 <= size[1] and 0 <= y1 < y2 <= size[0]
        covered[y1:y2, x1:x2] += 1
    assert covered.min() >= 1 and (covered > 1).any() and len(windows) >= slices


def test_no_slice_is_longer_along_the_shorter_side():
    assert slice_windows((100, 200), TWO) == [(0, 0, 134, 100), (66, 0, 200, 100)]
    assert len(slice_windows((375, 500), SliceConfig(2))) == 4
    assert len(slice_windows((500, 375), SliceConfig(3))) == 9


def test_everybody_is_found_once_at_the_right_place():
    small, middle, large = (8, 10, 18, 30), (95, 40, 105, 60), (20, 10, 190, 95)
    found = Sliced(Patches(), TWO).predict(picture(small, middle))
    assert sorted(found.boxes.tolist()) == sorted([list(map(float, b)) for b in (small, middle)])
    assert found.masks.sum((1, 2)).tolist() == [200, 200]
    assert found.scores.tolist() == [pytest.approx(1 - 134 / 1000)] * 2  # the slices' are surer
    big = Sliced(Patches(), TWO).predict(picture(large))
    assert big.boxes.tolist() == [list(map(float, large))]
    assert big.scores.tolist() == [pytest.approx(0.8)]  # whole, although each slice saw a part


def test_who_is_cut_off_by_an_inner_edge_does_not_count_but_at_the_pictures_edge_does():
    window, size = (66, 0, 200, 100), (100, 200)
    part = people([[0, 10, 10, 20], [50, 80, 60, 100]], (100, 134), [0.9, 0.8])
    found = merged(people([], size, []), [part], [window], TWO)
    assert found.boxes.tolist() == [[116, 80, 126, 100]]


def test_nobody_is_nobody():
    assert len(Sliced(Patches()).predict(picture())) == 0


def test_the_surer_of_two_finds_stays():
    size = (100, 200)
    whole = people([[100, 40, 110, 60]], size, [0.5])
    part = people([[34, 41, 44, 61]], (100, 134), [0.7])
    found = merged(whole, [part], [(66, 0, 200, 100)], TWO)
    assert found.boxes.tolist() == [[100, 41, 110, 61]]
    part = people([[34, 41, 44, 61]], (100, 134), [0.3])
    assert merged(whole, [part], [(66, 0, 200, 100)], TWO).boxes.tolist() == whole.boxes.tolist()


def test_its_identity_tells_the_slices():
    said = Sliced(Patches(), SliceConfig(3)).identity()
    assert said["slices"] == 3 and said["name"] == "patches"


def test_numbers_that_make_no_sense_are_told():
    with pytest.raises(ConfigError, match="SliceConfig.slices: 1; expected at least 2"):
        SliceConfig(1)
    with pytest.raises(ConfigError, match="SliceConfig.overlap: 1.5; expected 0 to 0.9"):
        SliceConfig(overlap=1.5)
