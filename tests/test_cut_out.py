"""Each person as a picture of its own."""

import numpy as np
import pytest
import torch
from PIL import Image

from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons
from humanquery.cut_out import crop, cut_out, write_rgba

SIZE = (20, 30)


def someone(box=(4.0, 5.0, 14.0, 15.0)) -> Persons:
    masks = torch.zeros(1, *SIZE, dtype=torch.bool)
    masks[0, 6:10, 5:8], masks[0, 6, 5] = True, False
    return Persons(image_size=SIZE, boxes=torch.tensor([box]), scores=torch.ones(1), masks=masks)


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 255, (*SIZE, 3)).astype(np.uint8)


def test_a_cut_out_is_transparent_and_black_outside_of_the_mask(tmp_path):
    image, person = picture(), someone()
    found = cut_out(image, person, 0)
    assert found.shape == (4, 3, 4)
    assert found[0, 0].tolist() == [0, 0, 0, 0]
    assert (found[1:, :, :3] == image[7:10, 5:8]).all() and (found[1:, :, 3] == 255).all()
    write_rgba(tmp_path / "a.png", found)
    assert (np.array(Image.open(tmp_path / "a.png")) == found).all()


def test_a_crop_is_the_box_with_its_margin_inside_the_picture():
    assert (crop(picture(), someone(), 0, margin=0.0) == picture()[5:15, 4:14]).all()
    assert crop(picture(), someone(), 0, margin=0.1).shape == (12, 12, 3)
    assert crop(picture(), someone((-9.0, -9.0, 99.0, 99.0)), 0).shape == (20, 30, 3)


def test_people_of_no_area_still_give_a_picture():
    assert crop(picture(), someone((29.99, 3.0, 29.99, 3.0)), 0).shape == (1, 1, 3)
    nothing = someone().replace(masks=torch.zeros(1, *SIZE, dtype=torch.bool))
    assert cut_out(picture(), nothing, 0).tolist() == [[[0, 0, 0, 0]]]


def test_cut_outs_without_masks_are_refused():
    with pytest.raises(ConfigError, match="cut-outs need masks"):
        cut_out(picture(), someone().replace(masks=None), 0)
