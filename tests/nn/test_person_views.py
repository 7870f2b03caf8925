"""Region attributes: views of the people in given boxes, and gender and age logits from them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from humanquery.nn.person_views import (
    HeadFinder,
    RegionAttributes,
    RegionConfig,
    cut_views,
    head_squares,
    read_people,
)

CONFIG = RegionConfig(
    whole=(64, 32),
    upper=(32, 32),
    channels=6,
    whole_grid=(2, 1),
    upper_grid=(1, 1),
    dim=16,
    dropout=0.0,
)
WITH_HEAD = replace(CONFIG, head=32, head_grid=(1, 1))
BOX = torch.tensor([[8.0, 10.0, 40.0, 80.0]])


class Strided(nn.Module):
    """A backbone of one convolution of stride 32."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 32, stride=32)

    def forward(self, images):
        return [self.conv(images)]


def parts(config: RegionConfig = CONFIG) -> tuple[Strided, RegionAttributes]:
    torch.manual_seed(0)
    return Strided(), RegionAttributes(8, config).eval()


def pictures(count: int = 1, height: int = 96, width: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def ramps(height: int = 96, width: int = 64) -> torch.Tensor:
    """A picture whose channels are x, y and 1 at the pixels' centres."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)])[None]


def test_one_box_in_one_picture_gives_one_row_and_gradients_to_all_weights():
    backbone, regions = parts()
    reading = read_people(pictures(), [BOX], backbone, regions)
    assert reading.vectors.shape == (1, 16) and reading.gender_logit.shape == (1,)
    assert reading.age_logits.shape == (1, 85) and regions.ages.tolist() == list(range(85))
    (reading.gender_logit.sum() + reading.age_logits[:, 3].sum()).backward()
    weights = [*backbone.parameters(), *regions.parameters()]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in weights)


@pytest.mark.parametrize("config", [CONFIG, WITH_HEAD])
def test_nobody_anywhere_gives_no_rows_and_keeps_the_graph(config):
    backbone, regions = parts(config)
    reading = read_people(pictures(2), [torch.zeros(0, 4), torch.zeros(0, 4)], backbone, regions)
    assert reading.gender_logit.shape == (0,) and reading.age_logits.shape == (0, 85)
    reading.gender_logit.sum().backward()
    assert regions.gender.weight.grad.abs().sum() == 0


def test_the_views_show_the_box_and_the_square_at_its_top():
    views = cut_views(ramps(), [BOX], replace(CONFIG, margin=0.0))
    whole, upper = views.whole[0], views.upper[0]
    # x runs over 8 .. 40 in 32 columns, y over 10 .. 80 in 64 rows
    torch.testing.assert_close(whole[0, 0], torch.arange(8.0, 40.0) + 0.5)
    torch.testing.assert_close(whole[1, :, 0], 10 + (torch.arange(64) + 0.5) * 70 / 64)
    # the square is as wide as the box and as high as wide
    torch.testing.assert_close(upper[0, 0], torch.arange(8.0, 40.0) + 0.5)
    torch.testing.assert_close(upper[1, :, 0], torch.arange(10.0, 42.0) + 0.5)
    assert views.aspect.item() == pytest.approx(torch.tensor(70 / 32).log().item())


def test_the_square_of_a_wide_box_is_in_its_middle():
    upper = cut_views(
        ramps(), [torch.tensor([[4.0, 20.0, 60.0, 36.0]])], replace(CONFIG, margin=0.0)
    ).upper[0]
    assert upper[0, 0, 0] > 24 and upper[0, 0, -1] < 40 and upper[0, 0].mean() == pytest.approx(32)


def test_a_margin_shows_more_and_what_is_outside_the_canvas_is_the_mean_colour():
    box = torch.tensor([[0.0, 0.0, 64.0, 96.0]])
    whole = cut_views(ramps(), [box], replace(CONFIG, margin=0.25)).whole[0]
    inside = whole[2] == 1
    assert not inside[0].any() and not inside[:, 0].any() and inside[32, 16]
    assert inside.float().mean() == pytest.approx(1 / 1.5**2, abs=0.05)


def test_small_and_large_people_of_one_look_give_nearly_the_same_view():
    large = torch.nn.functional.interpolate(ramps(), scale_factor=2, mode="bilinear")
    one = cut_views(ramps(), [BOX], CONFIG).whole
    other = cut_views(large, [BOX * 2], CONFIG).whole
    assert (one - other).abs().max() < 0.5


def test_rows_follow_the_boxes_picture_after_picture_and_do_not_depend_on_each_other():
    backbone, regions = parts()
    images, others = pictures(3), BOX + torch.tensor([[4.0, 2.0, 8.0, 6.0]])
    together = read_people(
        images, [torch.cat([BOX, others]), torch.zeros(0, 4), others], backbone, regions
    )
    for row, picture, box in [(0, 0, BOX), (1, 0, others), (2, 2, others)]:
        alone = read_people(images[picture : picture + 1], [box], backbone, regions)
        assert torch.allclose(together.vectors[row], alone.vectors[0], atol=1e-6)


@pytest.mark.parametrize("config", [CONFIG, WITH_HEAD])
def test_mirrored_views_are_heard_too_so_that_left_and_right_do_not_matter(config):
    backbone, regions = parts(config)
    images = pictures()
    box = torch.tensor([[16.0, 10.0, 48.0, 80.0]])  # in the middle of the picture's width
    there, back = (
        read_people(view, [box], backbone, regions, mirrored=True)
        for view in (images, images.flip(-1))
    )
    torch.testing.assert_close(there.gender_logit, back.gender_logit, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(there.age_logits, back.age_logits, atol=1e-4, rtol=1e-4)
    plain = read_people(images, [box], backbone, regions)
    assert not torch.allclose(plain.gender_logit, there.gender_logit, atol=1e-3)


def test_as_many_boxes_in_each_picture_may_come_as_one_tensor():
    backbone, regions = parts()
    images, boxes = pictures(2), torch.stack([BOX, BOX + 3.0])
    one = read_people(images, boxes, backbone, regions).vectors
    assert torch.allclose(one, read_people(images, list(boxes), backbone, regions).vectors)


@pytest.mark.parametrize("config", [CONFIG, WITH_HEAD])
def test_what_lies_outside_the_canvas_is_cut_off_and_every_box_gives_finite_numbers(config):
    backbone, regions = parts(config)
    wide = read_people(pictures(), [torch.tensor([[-30.0, -5.0, 200.0, 300.0]])], backbone, regions)
    whole = read_people(pictures(), [torch.tensor([[0.0, 0.0, 64.0, 96.0]])], backbone, regions)
    assert torch.equal(wide.vectors, whole.vectors)
    odd = torch.tensor(
        [[500.0, 500, 600, 600], [-90, -90, -50, -50], [5, 5, 5, 5], [40, 60, 10, 20]]
    )
    reading = read_people(pictures(), [odd], backbone, regions)
    assert all(
        t.isfinite().all() for t in (reading.vectors, reading.gender_logit, reading.age_logits)
    )


def test_the_first_guess_of_an_age_is_in_the_middle_of_life():
    probabilities = parts()[1].age.bias.detach().softmax(-1)
    assert 28 < float((probabilities * torch.arange(85)).sum()) < 34


def test_another_number_of_pictures_than_of_boxes_says_what_was_expected():
    with pytest.raises(
        ValueError, match="2 pictures and boxes of 1; expected one tensor of boxes each"
    ):
        cut_views(pictures(2), [BOX], CONFIG)


def test_a_heads_square_follows_from_shares_of_the_box_and_the_root_of_its_area():
    boxes = torch.tensor([[10.0, 20.0, 50.0, 110.0], [0.0, 0.0, 30.0, 30.0]])
    places = torch.tensor([[0.5, 0.25, 0.0], [0.0, 1.0, float(torch.tensor(0.5).log())]])
    expected = [[0.0, 12.5, 60.0, 72.5], [-7.5, 22.5, 7.5, 37.5]]
    torch.testing.assert_close(head_squares(places, boxes), torch.tensor(expected))


def test_before_it_has_learned_anything_the_finder_looks_at_the_top_of_the_box():
    torch.manual_seed(0)
    find = HeadFinder(8, ((64, 32), (32, 32)))
    places = find([torch.randn(50, 8, 2, 1), torch.randn(50, 8, 1, 1)], torch.zeros(50, 1)).detach()
    assert places.shape == (50, 3)
    assert 0.3 < float(places[:, 0].mean()) < 0.7 and float(places[:, 1].mean()) < 0.3


def test_the_head_view_shows_what_is_in_the_found_square_and_teaches_the_finder_nothing_by_itself():
    backbone, regions = parts(WITH_HEAD)
    images = pictures()
    seen = []
    reading = read_people(
        images, [BOX], lambda views: seen.append(views) or backbone(views), regions
    )
    assert [tuple(views.shape[2:]) for views in seen] == [(64, 32), (32, 32), (32, 32)]
    square = reading.heads
    side = square[:, 2:] - square[:, :2]
    wide = torch.cat(
        [square[:, :2] - side * CONFIG.margin, square[:, 2:] + side * CONFIG.margin], 1
    ).detach()
    again = cut_views(images, [BOX], CONFIG)
    from torchvision.ops import roi_align

    torch.testing.assert_close(seen[2], roi_align(images, [wide], (32, 32), aligned=True))
    torch.testing.assert_close(seen[0], again.whole)
    reading.gender_logit.sum().backward()
    assert all(p.grad is None for p in regions.find.parameters())
    read_people(images, [BOX], backbone, regions).heads.sum().backward()
    assert all(p.grad is not None for p in regions.find.parameters())


def test_known_heads_may_take_the_place_of_found_ones():
    backbone, regions = parts(WITH_HEAD)
    found = read_people(pictures(), [BOX], backbone, regions)
    same = read_people(pictures(), [BOX], backbone, regions, heads=lambda squares: squares)
    other = read_people(pictures(), [BOX], backbone, regions, heads=lambda squares: squares + 9.0)
    assert torch.equal(found.vectors, same.vectors) and not torch.allclose(
        found.vectors, other.vectors
    )
    assert torch.equal(found.heads, other.heads), (
        "what is found is still told, so that it can be taught"
    )


def test_maps_of_another_number_of_views_say_what_was_expected():
    _, regions = parts(WITH_HEAD)
    maps = torch.zeros(1, 8, 2, 1), torch.zeros(1, 8, 1, 1)
    with pytest.raises(ValueError, match="maps of 2 views; expected 3"):
        regions(*maps, torch.zeros(1, 1))


def test_in_training_some_views_go_unheard_and_in_prediction_none():
    _, regions = parts(replace(CONFIG, view_dropout=0.25))
    cells = torch.ones(400, 5)
    assert torch.equal(regions._heard(cells), cells)
    heard = regions.train()._heard(cells)
    assert set(heard[:, 0].tolist()) == {0.0, float(torch.tensor(1.0) / 0.75)}
    assert 0.15 < float((heard == 0).all(1).float().mean()) < 0.35
