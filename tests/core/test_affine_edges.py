import numpy as np
import pytest

from humanquery.core.affine import Affine2D


@pytest.mark.parametrize(
    "matrix, size",
    [
        (Affine2D.resize((6, 9), (60, 90)), (60, 90)),
        (Affine2D.resize((6, 9), (2, 3)), (2, 3)),
        (Affine2D.mirror(9), (6, 9)),
        (Affine2D.scaling(3) @ Affine2D.translation(-2, -1), (9, 12)),
    ],
)
def test_a_picture_that_fills_the_canvas_keeps_its_edges(matrix, size):
    assert (matrix.image(np.full((6, 9, 3), 200, np.uint8), size) == 200).all()


def test_what_the_picture_does_not_reach_is_filled():
    canvas = Affine2D.translation(2, 1).image(np.full((6, 9, 3), 200, np.uint8), (8, 12), 50)
    assert (
        (canvas[:, :2] == 50).all() and (canvas[0] == 50).all() and (canvas[1:7, 2:11] == 200).all()
    )
