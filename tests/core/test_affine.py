import numpy as np
import pytest
import torch

from humanquery.core.affine import Affine2D, fit

SOME = Affine2D.translation(3, -7) @ Affine2D.rotation(25, (4, 5)) @ Affine2D.scaling(1.5, 0.75)


def test_composition_applies_the_right_one_first():
    points = torch.tensor([[1.0, 2.0], [-3.0, 4.0]], dtype=torch.float64)
    other = Affine2D.mirror(10)
    torch.testing.assert_close((SOME @ other).points(points), SOME.points(other.points(points)))
    assert (Affine2D.translation(1, 0) @ Affine2D.scaling(2)).points(
        torch.tensor([1.0, 1.0])
    ).tolist() == [3.0, 2.0]


def test_the_inverse_undoes():
    points = torch.rand(5, 2, dtype=torch.float64) * 100
    torch.testing.assert_close(SOME.inverse().points(SOME.points(points)), points)
    assert np.allclose((SOME @ SOME.inverse()).matrix3(), np.eye(3))


def test_a_flattening_matrix_has_no_inverse():
    with pytest.raises(ValueError, match="has no inverse"):
        Affine2D.scaling(1, 0).inverse()


def test_a_quarter_turn_is_clockwise_on_the_screen():
    turned = Affine2D.rotation(90, (10, 10)).points(torch.tensor([11.0, 10.0]))
    torch.testing.assert_close(turned, torch.tensor([10.0, 11.0]))


def test_mirror_and_determinant():
    assert Affine2D.mirror(8).points(torch.tensor([0.5, 3.0])).tolist() == [7.5, 3.0]
    assert Affine2D.mirror(8).is_mirror and not Affine2D.rotation(180).is_mirror
    assert Affine2D.scaling(2, 3).determinant == 6


def test_boxes_become_the_hull_of_their_corners():
    boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0]])
    assert Affine2D.mirror(10).boxes(boxes).tolist() == [[6.0, 0.0, 10.0, 2.0]]
    torch.testing.assert_close(
        Affine2D.rotation(90).boxes(boxes), torch.tensor([[-2.0, 0.0, 0.0, 4.0]])
    )
    assert Affine2D().boxes(torch.zeros(0, 4)).shape == (0, 4)


def _draw_matrix(seed: int) -> Affine2D:
    draw = np.random.default_rng(seed)
    scale = float(np.exp(draw.uniform(np.log(0.3), np.log(2.5))))
    matrix = Affine2D.scaling(scale, scale * draw.uniform(0.8, 1.25)) @ Affine2D.translation(
        -100, -80
    )
    if draw.random() < 0.5:
        matrix = Affine2D.mirror(0) @ matrix
    if draw.random() < 0.5:
        matrix = Affine2D.rotation(draw.uniform(-180, 180)) @ matrix
    return Affine2D.translation(*draw.uniform(240, 260, 2)) @ matrix


@pytest.mark.parametrize("seed", range(24))
def test_a_white_square_stays_under_its_moved_corners(seed):
    matrix = _draw_matrix(seed)
    picture = np.zeros((160, 200), np.uint8)
    picture[50:90, 70:130] = 255
    corners = torch.tensor([[70.0, 50.0], [130.0, 50.0], [130.0, 90.0], [70.0, 90.0]])
    moved = matrix.points(corners).numpy()
    canvas = matrix.image(picture, (500, 500)).astype(np.float64) / 255
    y, x = np.nonzero(canvas > 0.5)
    seen = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
    box = np.concatenate([moved.min(0), moved.max(0)])
    slack = (
        0.5 if matrix.b == 0 else 1.5
    )  # the tip of a turned square covers less than half of its last pixel
    assert np.abs(seen - box).max() <= slack + 0.51, (seen, box)
    ys, xs = np.mgrid[:500, :500] + 0.5
    center = np.array([(canvas * xs).sum(), (canvas * ys).sum()]) / canvas.sum()
    assert np.abs(center - moved.mean(0)).max() < 0.1
    assert canvas.sum() == pytest.approx(60 * 40 * abs(matrix.determinant), rel=0.03)


def test_the_identity_and_the_mirror_copy_pixels_exactly():
    picture = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    assert (Affine2D().image(picture, (9, 14)) == picture).all()
    assert (Affine2D.mirror(14).image(picture, (9, 14)) == picture[:, ::-1]).all()
    shifted = Affine2D.translation(2, 1).image(picture, (9, 14), fill=(1, 2, 3))
    assert (shifted[1:, 2:] == picture[:-1, :-2]).all()
    assert (shifted[0] == [1, 2, 3]).all() and (shifted[:, :2] == [1, 2, 3]).all()


@pytest.mark.parametrize("scale", [0.1, 0.37, 0.7, 1.0, 3.0])
def test_a_plain_picture_stays_plain_up_to_its_edge(scale):
    picture = np.full((60, 100, 3), 200, np.uint8)
    size = (round(60 * scale), round(100 * scale))
    assert (Affine2D.resize((60, 100), size).image(picture, size, fill=0) == 200).all()


def test_fill_lies_outside_only_also_when_turned():
    picture = np.full((40, 40), 200, np.uint8)
    turned = Affine2D.rotation(45, (20, 20)).image(picture, (40, 40), fill=7)
    assert set(np.unique(turned)) == {7, 200}
    assert turned[0, 0] == 7 and turned[20, 20] == 200


@pytest.mark.parametrize("scale", [(0.1, 0.1), (0.1, 1.0), (1.0, 0.1)])
def test_shrinking_is_anti_aliased_on_each_axis(scale):
    stripes = np.zeros((200, 200), np.uint8)
    stripes[::2] = 255  # lines
    stripes = np.where(np.arange(200) % 2, stripes, 255 - stripes).astype(
        np.uint8
    )  # a fine chequerboard
    size = (round(200 * scale[1]), round(200 * scale[0]))
    small = Affine2D.scaling(*scale).image(stripes, size)
    assert np.abs(small.astype(int) - 127).max() <= 2


def test_shrinking_one_axis_keeps_the_other_sharp():
    lines = np.repeat(np.arange(200, dtype=np.uint8)[:, None] % 2 * 255, 200, 1)
    assert (Affine2D.scaling(0.1, 1.0).image(lines, (200, 20)) == lines[:, :20]).all()


def test_channel_axes_are_kept():
    picture = np.zeros((10, 10, 1), np.uint8)
    assert Affine2D().image(picture, (5, 5)).shape == (5, 5, 1)
    assert Affine2D.scaling(0.2).image(picture, (2, 2)).shape == (2, 2, 1)


def test_extreme_sizes():
    one = np.full((1, 1, 3), 9, np.uint8)
    assert (Affine2D.scaling(50).image(one, (50, 50)) == 9).all()
    long = np.full((20, 40000, 3), 9, np.uint8)
    assert (Affine2D.resize((20, 40000), (1, 1333)).image(long, (1, 1333)) == 9).all()
    with pytest.raises(ValueError, match="no side may reach 32768"):
        Affine2D().image(long, (20, 40000))
    with pytest.raises(ValueError, match="a side is empty"):
        Affine2D().image(np.zeros((0, 5, 3), np.uint8), (5, 5))


def test_masks_follow_the_picture():
    masks = torch.zeros(2, 30, 40, dtype=torch.bool)
    masks[0, 10:20, 4:24] = True
    masks[1, :, :] = True
    moved = Affine2D.scaling(2).masks(masks, (60, 80))
    assert torch.equal(moved, masks.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert Affine2D.scaling(0.5).masks(masks, (15, 20))[0].sum() == 50
    assert Affine2D().masks(masks[:0], (7, 8)).shape == (0, 7, 8)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((100, 1000), (133, 1333)),
        ((1000, 100), (1333, 133)),
        ((1, 1), (800, 800)),
    ],
)
def test_fit_keeps_the_aspect_within_both_limits(size, expected):
    assert fit(size, 800, 1333) == expected


def test_fit_never_gives_an_empty_side():
    assert fit((1, 100_000), 800, 1333) == (1, 1333)
