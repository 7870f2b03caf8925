import numpy as np
import pytest
import torch

from humanquery.core.affine import Affine2D
from humanquery.core.batch import ZOOM, Batch, Cutout, Meta, Sample
from humanquery.core.target import empty_target


def _sample(height: int, width: int, value: int = 255, *, with_target: bool = False) -> Sample:
    image = np.full((height, width, 3), value, np.uint8)
    target = empty_target((height, width)) if with_target else None
    return Sample(image, Meta((height, width), (height, width)), target)


def test_pictures_are_padded_right_and_bottom():
    batch = Batch.collate([_sample(3, 5), _sample(4, 2, 51)], divisor=4)
    assert batch.images.shape == (2, 3, 4, 8) and len(batch) == 2
    assert (batch.images[0, :, :3, :5] == 1).all() and batch.images[0].sum() == 45
    assert (
        torch.allclose(batch.images[1, :, :, :2], torch.tensor(0.2))
        and not batch.images[1, :, :, 2:].any()
    )
    assert (
        torch.equal(batch.padding[0], ~(batch.images[0, 0] > 0)) and batch.padding[1, :, 2:].all()
    )
    assert batch.targets is None


def test_one_picture_is_not_padded():
    assert not Batch.collate([_sample(3, 5)]).padding.any()


def test_a_read_only_mirrored_picture_can_be_batched():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)[:, ::-1]
    image.flags.writeable = False
    batch = Batch.collate([Sample(image, Meta((2, 2), (2, 2)))])
    assert torch.equal(
        (batch.images[0] * 255).round().permute(1, 2, 0).byte(), torch.tensor(image.copy())
    )


def test_pictures_move_and_targets_stay_on_the_host():
    batch = Batch.collate([_sample(3, 5, with_target=True)] * 2).to("meta")
    assert len(batch.targets) == 2 and batch.targets[0].boxes.device.type == "cpu"
    assert batch.images.device.type == batch.padding.device.type == "meta"


def test_what_cannot_be_a_batch_says_why():
    with pytest.raises(ValueError, match="at least one sample"):
        Batch.collate([])
    with pytest.raises(ValueError, match="1 of 2 samples have a target; all or none must"):
        Batch.collate([_sample(3, 5), _sample(3, 5, with_target=True)])


def _zoomed(height: int, width: int, tall: int, wide: int) -> Sample:
    plain = _sample(height, width)
    cutout = Cutout(np.full((tall, wide, 3), 51, np.uint8), Affine2D.scaling(tall / height))
    return Sample(plain.image, plain.meta, views={ZOOM: (cutout,)})


def test_zoomed_views_are_padded_to_the_same_multiple():
    batch = Batch.collate([_zoomed(4, 6, 12, 18), _zoomed(5, 3, 15, 9)], divisor=4)
    zoomed = batch.zoomed()
    assert batch.images.shape == (2, 3, 8, 8) and zoomed.shape == (2, 3, 24, 24)
    assert float(zoomed[0, :, :12, :18].min()) == pytest.approx(0.2)
    assert zoomed[0, :, 12:].sum() == 0 and zoomed[1, :, :, 9:].sum() == 0
    assert batch.to("cpu").zoomed() is not None
    assert Batch.collate([_sample(4, 6)]).zoomed() is None


@pytest.mark.parametrize(
    "samples",
    [
        [_zoomed(4, 6, 8, 12), _sample(4, 6)],
        [_zoomed(4, 6, 8, 12), _zoomed(4, 6, 12, 18)],
        [_zoomed(4, 6, 9, 12)],
    ],
    ids=["not all", "two multiples", "no multiple"],
)
def test_zoomed_views_that_do_not_fit_their_canvases_say_so(samples):
    with pytest.raises(
        ValueError, match="expected one each, the same whole multiple of the canvas"
    ):
        Batch.collate(samples)


def test_crops_keep_their_owners_and_the_way_back_to_the_picture():
    """Two people of the second of two pictures, cut out as a top-down system does."""
    picture = np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3).astype(np.uint8)
    boxes = torch.tensor([[10.0, 5.0, 30.0, 35.0], [35.0, 10.0, 55.0, 30.0]])
    cutouts = []
    for person, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        to_crop = Affine2D(a=16 / (x2 - x1), c=-16 * x1 / (x2 - x1)) @ Affine2D(
            e=24 / (y2 - y1), f=-24 * y1 / (y2 - y1)
        )
        cutouts.append(Cutout(to_crop.image(picture, (24, 16)), to_crop, person))
    second = Sample(picture, Meta((40, 60), (40, 60)), views={"crops": tuple(cutouts)})
    crops = Batch.collate([_sample(8, 8), second], divisor=8).to("cpu").views["crops"]
    assert crops.images.shape == (2, 3, 24, 16)
    assert crops.owners.tolist() == [[1, 0], [1, 1]] and len(crops) == 2
    corners = torch.tensor([[0.0, 0.0], [16.0, 24.0]])
    for matrix, box in zip(crops.to_view, boxes, strict=True):
        torch.testing.assert_close(matrix.inverse().points(corners).flatten(), box)
