"""From mask logits to the picture's pixels."""

import pytest
import torch
import torch.nn.functional as F

from humanquery.core.affine import Affine2D
from humanquery.core.batch import Meta
from humanquery.ops import native
from humanquery.tasks.paint_masks import paint_masks

pytestmark = pytest.mark.usefixtures("kernels")
CANVAS, PADDED, IMAGE = (88, 110), (96, 120), (143, 201)


@pytest.fixture(params=["C", "torch"])
def kernels(request, monkeypatch):
    """Everything here holds with and without the kernel in C."""
    if request.param == "torch":
        monkeypatch.setattr(native, "missing", lambda capability="": "no C compiler found")
    elif native.missing():
        pytest.skip(native.missing())


def decode(logits, to_canvas=None):
    """What is painted of `logits` (n h w, stride 4), of people of score 0.5."""
    matrix = to_canvas or Affine2D.resize(IMAGE, CANVAS)
    masks, inside = paint_masks(logits, Meta(IMAGE, CANVAS, matrix), PADDED)
    return {"masks": masks, "mask_scores": 0.5 * inside}


def whole(logits):
    """What grid_sample says at every pixel of the picture."""
    y, x = torch.meshgrid(torch.arange(IMAGE[0]) + 0.5, torch.arange(IMAGE[1]) + 0.5, indexing="ij")
    at = torch.stack([x * CANVAS[1] / IMAGE[1] / 4, y * CANVAS[0] / IMAGE[0] / 4], -1)
    at = at.minimum(torch.tensor([CANVAS[1] / 4 - 0.5, CANVAS[0] / 4 - 0.5]))
    grid = (at / torch.tensor([30, 24]) * 2 - 1).expand(len(logits), -1, -1, -1)
    return F.grid_sample(logits[:, None], grid, "bilinear", "border", align_corners=False)[:, 0]


def blobs():
    """Noise, a small person, one at each corner, a single cell, one who fills the map and
    nobody."""
    y, x = torch.arange(24)[:, None], torch.arange(30)[None]
    made = [torch.randn(24, 30, generator=torch.Generator().manual_seed(0))]
    for cy, cx in ((9, 12), (0, 0), (23, 29), (0, 29), (21, 0)):
        made.append(4.3 - ((y - cy) ** 2 + (x - cx) ** 2).sqrt())
    made.append(torch.where((y == 7) & (x == 9), 2.0, -3.0))
    return torch.stack([*made, torch.ones(24, 30), -torch.ones(24, 30)])


def test_masks_equal_those_of_sampling_the_whole_picture():
    fields, values = decode(blobs()), whole(blobs())
    clear = values.abs() > 1e-4  # what is nearer to the edge may fall on either side of it
    assert clear.float().mean() > 0.999
    assert torch.equal(fields["masks"][clear], (values > 0)[clear])


def test_mask_scores_are_score_times_mean_probability_inside():
    values = whole(blobs())
    inside = torch.where(values > 0, values.sigmoid(), 0.0).sum((1, 2)) / (
        (values > 0).sum((1, 2)) + 1e-6
    )
    torch.testing.assert_close(decode(blobs())["mask_scores"], 0.5 * inside, atol=1e-5, rtol=1e-4)


def test_nobody_gets_no_mask_and_a_positive_map_fills_the_picture():
    fields = decode(blobs())
    assert fields["masks"][-2].all() and not fields["masks"][-1].any()
    assert fields["mask_scores"][-1] == 0
    nothing = decode(torch.zeros(0, 24, 30))
    assert nothing["masks"].shape == (0, *IMAGE) and nothing["mask_scores"].shape == (0,)


def test_a_mirrored_canvas_mirrors_masks():
    plain = decode(blobs())["masks"]
    mirror = Affine2D.mirror(CANVAS[1]) @ Affine2D.resize(IMAGE, CANVAS)
    mirrored = decode(blobs(), mirror)["masks"]
    assert 0.1 < plain.float().mean() < 0.9  # neither empty masks nor full ones tell sides apart
    assert not torch.equal(mirrored, plain)
    assert (mirrored.flip(2) == plain).float().mean() > 0.9999


def test_a_rotated_canvas_is_refused():
    with pytest.raises(ValueError, match="upright canvases only"):
        decode(blobs(), Affine2D.rotation(10))
