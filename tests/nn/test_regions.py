"""Region attributes: gender and age logits of the people in given boxes."""

import pytest
import torch

from humanquery.nn.regions import RegionAttributes, RegionConfig

CHANNELS = (4, 6, 8)
CONFIG = RegionConfig(widths=(3, 3, 3), dim=16, dropout=0.0)


def head() -> RegionAttributes:
    torch.manual_seed(0)
    return RegionAttributes(CHANNELS, CONFIG).eval()


def maps(pictures: int = 1, height: int = 96, width: int = 64) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [
        torch.randn(pictures, c, height // stride, width // stride, generator=draw, requires_grad=True)
        for c, stride in zip(CHANNELS, (8, 16, 32), strict=True)
    ]


BOX = torch.tensor([[8.0, 10.0, 40.0, 80.0]])


def test_one_box_in_one_picture_gives_one_row_and_gradients_to_all_maps_and_weights():
    features, regions = maps(), head()
    reading = regions(features, [BOX])
    assert reading.vectors.shape == (1, 16) and reading.gender_logit.shape == (1,)
    assert reading.age_logits.shape == (1, 85) and regions.ages.tolist() == list(range(85))
    (reading.gender_logit.sum() + reading.age_logits[:, 3].sum()).backward()
    assert all(f.grad.abs().sum() > 0 for f in features)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in regions.parameters())


def test_nobody_anywhere_gives_no_rows_and_keeps_the_graph():
    features, regions = maps(2), head()
    reading = regions(features, [torch.zeros(0, 4), torch.zeros(0, 4)])
    assert reading.gender_logit.shape == (0,) and reading.age_logits.shape == (0, 85)
    reading.gender_logit.sum().backward()
    assert regions.gender.weight.grad.abs().sum() == 0


def test_rows_follow_the_boxes_picture_after_picture_and_do_not_depend_on_each_other():
    features, regions = maps(3), head()
    others = BOX + torch.tensor([[4.0, 2.0, 8.0, 6.0]])
    together = regions(features, [torch.cat([BOX, others]), torch.zeros(0, 4), others])
    for row, picture, box in [(0, 0, BOX), (1, 0, others), (2, 2, others)]:
        alone = regions([f[picture : picture + 1] for f in features], [box])
        assert torch.allclose(together.vectors[row], alone.vectors[0], atol=1e-6)


def test_what_lies_outside_the_canvas_is_cut_off_and_every_box_gives_finite_numbers():
    features, regions = maps(), head()
    wide = regions(features, [torch.tensor([[-30.0, -5.0, 200.0, 300.0]])])
    whole = regions(features, [torch.tensor([[0.0, 0.0, 64.0, 96.0]])])
    assert torch.equal(wide.vectors, whole.vectors)
    odd = torch.tensor([[500.0, 500, 600, 600], [-90, -90, -50, -50], [5, 5, 5, 5], [40, 60, 10, 20]])
    assert all(
        t.isfinite().all() for t in (lambda r: (r.vectors, r.gender_logit, r.age_logits))(regions(features, [odd]))
    )


def test_a_constant_map_reads_the_same_wherever_a_box_of_that_shape_lies():
    features = [torch.ones_like(f) for f in maps()]
    regions = head()
    here = regions(features, [BOX]).vectors
    assert torch.allclose(here, regions(features, [BOX + 6.0]).vectors, atol=1e-6)


def test_the_first_guess_of_an_age_is_in_the_middle_of_life():
    probabilities = head().age.bias.detach().softmax(-1)
    assert 28 < float((probabilities * torch.arange(85)).sum()) < 34


def test_wrong_numbers_of_maps_channels_and_boxes_say_what_was_expected():
    with pytest.raises(ValueError, match=r"got 4 channels .* strides \(8, 16, 32\)"):
        RegionAttributes((1, 2, 3, 4))
    with pytest.raises(ValueError, match="got 2 maps of 1 pictures and boxes of 1"):
        head()(maps()[:2], [BOX])
    with pytest.raises(ValueError, match="one tensor of boxes per picture"):
        head()(maps(2), [BOX])
