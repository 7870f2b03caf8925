import json

import pytest
import torch

from humanquery.core.crops import crop_box, crop_matrix
from humanquery.core.errors import AnnotationError
from tests.paths import DATA


def test_the_example_of_the_specification():
    assert crop_box([100, 50, 160, 170], (256, 192)) == (73.75, 35.0, 186.25, 185.0)
    back = crop_matrix([100, 50, 160, 170], (256, 192)).inverse()
    cell = torch.tensor([[10.25, 20.0]], dtype=torch.float64)
    found = back.points(cell * 4 + 0.5) - 0.5  # counts of pixels, as in the specification
    assert found[0].tolist() == pytest.approx([97.7734375, 81.875])
    path = DATA.parent / "specs" / "alphapose_constants.json"
    if path.exists():
        vector = json.loads(path.read_text())["test_vectors"]["crop"]
        assert found[0].tolist() == pytest.approx(vector["image_xy"])


def test_a_wide_box_grows_in_height_and_the_centre_stays():
    x1, y1, x2, y2 = crop_box([0, 0, 120, 20], (256, 192), padding=1.0)
    assert (x1, x2, y2 - y1, (y1 + y2) / 2) == (0, 120, 160, 10)


def test_a_turned_crop_turns_about_the_centre():
    matrix = crop_matrix([10, 10, 40, 50], (64, 48), rotation=90)
    centre = torch.tensor([[25.5, 30.5], [25.5, 20.5]], dtype=torch.float64)
    middle, above = matrix.points(centre).tolist()
    assert middle == pytest.approx([24.5, 32.5])
    assert above[0] > middle[0] and above[1] == pytest.approx(middle[1]), "up becomes right"


@pytest.mark.parametrize("box", [[5, 5, 5, 9], [0, 0, float("nan"), 1], [9, 0, 1, 5]])
def test_boxes_without_area_are_named(box):
    with pytest.raises(AnnotationError, match="a crop of the box .*x2 > x1 and y2 > y1"):
        crop_matrix(box, (64, 48))
