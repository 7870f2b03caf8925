import numpy as np
import pytest
import torch

from humanquery.core.batch import Batch, Meta, Sample
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


def _with_finer(height: int, width: int, tall: int, wide: int) -> Sample:
    plain = _sample(height, width)
    return Sample(plain.image, plain.meta, finer=np.full((tall, wide, 3), 51, np.uint8))


def test_finer_pictures_are_padded_to_the_same_multiple():
    batch = Batch.collate([_with_finer(4, 6, 12, 18), _with_finer(5, 3, 15, 9)], divisor=4)
    assert batch.images.shape == (2, 3, 8, 8) and batch.finer.shape == (2, 3, 24, 24)
    assert float(batch.finer[0, :, :12, :18].min()) == pytest.approx(0.2)
    assert batch.finer[0, :, 12:].sum() == 0 and batch.finer[1, :, :, 9:].sum() == 0
    assert batch.to("cpu").finer is not None
    assert Batch.collate([_sample(4, 6)]).finer is None


@pytest.mark.parametrize(
    "samples",
    [
        [_with_finer(4, 6, 8, 12), _sample(4, 6)],
        [_with_finer(4, 6, 8, 12), _with_finer(4, 6, 12, 18)],
        [_with_finer(4, 6, 9, 12)],
    ],
    ids=["not all", "two multiples", "no multiple"],
)
def test_finer_pictures_that_do_not_fit_their_canvases_say_so(samples):
    with pytest.raises(ValueError, match="expected the same whole multiple of the canvas for all"):
        Batch.collate(samples)
