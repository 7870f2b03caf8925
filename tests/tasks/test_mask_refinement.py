"""The second look at masks on a grid over each person's box."""

from dataclasses import replace

import pytest
import torch

from humanquery.core.affine import Affine2D
from humanquery.core.batch import Meta
from humanquery.core.errors import ConfigError
from humanquery.core.persons import Persons
from humanquery.core.target import empty_target
from humanquery.tasks.base import Draws, Matches, Truth, Truths
from humanquery.tasks.decode import decode
from humanquery.tasks.mask import MaskConfig, MaskPrediction, PixelMap
from humanquery.tasks.mask_refinement import MaskRefinement, MaskRefinementConfig
from humanquery.tasks.paint_masks import _window_patches
from tests.models.small import SIZE, batch, crowd, person, small_config, small_model

SMALL = MaskRefinementConfig(grid=8, width=8, layers=2)
CONFIG = MaskConfig(num_points=64, in_boxes=True, refinement=SMALL)
NAMES = ("refined_mask_bce", "refined_mask_dice")


def net(config: MaskConfig = CONFIG):
    return small_model(small_config(mask=config))


def test_it_needs_masks_in_boxes():
    with pytest.raises(ConfigError, match="set tasks.mask.in_boxes=true, or refinement=none"):
        MaskConfig(refinement=SMALL)


def test_an_untrained_second_look_reads_the_logits_on_the_grid():
    torch.manual_seed(0)
    refinement = MaskRefinement(replace(SMALL, margin=0.0), 4)
    cells, fine = torch.randn(2, 1, 4, 16, 16)
    x = (torch.arange(16) + 0.5).expand(1, 1, 16, 16)  # logits that tell the column
    windows = refinement.windows(torch.tensor([[[0.5, 0.5, 0.5, 0.25]]]))
    assert windows.tolist() == [[[0.25, 0.375, 0.75, 0.625]]]
    found = refinement(cells, fine, x, windows)
    assert found.shape == (1, 1, 8, 8)
    torch.testing.assert_close(found[0, 0], (4.5 + torch.arange(8.0)).expand(8, 8))


def test_windows_have_a_margin_on_each_side():
    refinement = MaskRefinement(replace(SMALL, margin=0.1), 4)
    found = refinement.windows(torch.tensor([0.5, 0.5, 0.2, 0.4]))
    torch.testing.assert_close(found, torch.tensor([0.38, 0.26, 0.62, 0.74]))


def test_an_untrained_second_look_gives_nearly_the_same_masks():
    model = net(replace(CONFIG, refinement=replace(SMALL, grid=64, margin=0.8))).eval()
    encoded, task = model.encode(batch([crowd()])), model.tasks["mask"]
    cells = torch.ones(1, 32, *encoded.fine.shape[-2:])
    prepared = PixelMap(cells, encoded.padded_size, torch.ones(1, 2))
    prediction = MaskPrediction(
        torch.full((1, 1, 32), 0.2), prepared, torch.tensor([[[0.5, 0.5, 0.5, 0.5]]])
    )

    def people() -> Persons:
        chosen = torch.zeros(1, 1, dtype=torch.long)
        found = task.tensors(prediction, chosen, encoded, prepared)
        box = torch.tensor([[[20.0, 16.0, 60.0, 48.0]]])
        found |= {"scores": torch.full((1, 1), 0.5), "boxes": box}
        return decode(found, [reading(size=SIZE, canvas=SIZE)], encoded.padded_size, skeleton=None)[
            0
        ]

    with torch.no_grad():
        refined = people()
        task.refinement = None
        coarse = people()
    both = (refined.masks & coarse.masks).sum()
    either = (refined.masks | coarse.masks).sum()
    assert either > 1000 and both / either > 0.95
    torch.testing.assert_close(refined.mask_scores, coarse.mask_scores, atol=0.02, rtol=0)
    assert not torch.equal(refined.mask_scores, coarse.mask_scores)  # the two ways were taken


def test_its_losses_reach_all_its_weights_and_are_zero_where_nobody_drew_a_mask():
    model = net()
    losses = model(batch([crowd(), person((64, 80), (5.0, 4.0, 30.0, 60.0))]), Draws())
    assert all(losses[name] > 0 for name in NAMES)
    sum(losses[name] for name in NAMES).backward()
    refinement = model.tasks["mask"].refinement
    assert refinement.correct[-1].weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in refinement.parameters())
    bare = crowd().replace(masks=None)
    for targets in ([bare], [empty_target((64, 80))]):
        losses = model(batch(targets), Draws())
        assert [float(losses[name].detach()) for name in NAMES] == [0.0, 0.0]
        sum(losses.values()).backward()


def test_it_learns_a_mask_by_heart():
    """On what the network says at first: only the second look is trained."""
    model, truth = net(), batch([crowd()])
    task = model.tasks["mask"]
    with torch.no_grad():
        encoded = model.encode(truth)
        prepared = model.prepare(encoded)
        prediction = model.read_queries(encoded, prepared, every_stage=False).layers[-1]["mask"]
    truths = Truths.of([Truth.of(truth.targets[0], SIZE)], encoded.memory.device)
    everybody = Matches.to_device(torch.tensor([[[0, 0], [0, 1], [0, 1]]]), "cpu")[0]
    optimizer = torch.optim.Adam(task.refinement.parameters(), 1e-2)
    sums = []
    for _ in range(60):
        optimizer.zero_grad()
        losses = task.finish(prediction, everybody, truths, encoded, prepared["mask"])
        loss = sum(losses[name] for name in NAMES)
        loss.backward()
        optimizer.step()
        sums.append(loss.item())
    assert sums[-1] < 0.5 * sums[0]


def reading(to_canvas: Affine2D = Affine2D(), size=(40, 60), canvas=(40, 60)) -> Meta:
    return Meta(size, canvas, to_canvas)


def patch_of(window, place: Meta, padded=(64, 64), grid=8):
    return next(_window_patches(torch.tensor([window]) * padded[0], grid, place))


def test_a_patch_holds_the_pixels_of_the_window_and_their_places_on_the_grid():
    lines, columns, down, right = patch_of((0.25, 0.125, 0.5, 0.375), reading())
    assert (lines, columns) == (slice(8, 24), slice(16, 32))
    torch.testing.assert_close(down, ((torch.arange(16) + 0.5) / 2 - 0.5).clamp(0, 7))
    torch.testing.assert_close(right, down)


def test_a_patch_ends_where_the_picture_or_the_valid_canvas_ends():
    lines, columns, *_ = patch_of((-0.5, 0.5, 2.0, 2.0), reading())
    assert (lines, columns) == (slice(32, 40), slice(0, 60))
    lines, *_ = patch_of((0.0, 0.9, 0.1, 1.0), reading())
    assert lines == slice(0, 0)


def test_a_mirrored_picture_is_read_backwards_and_a_turned_one_is_refused():
    mirrored = Affine2D.translation(60.0, 0.0) @ Affine2D.scaling(-1.0, 1.0)
    _, columns, _, right = patch_of((0.0, 0.0, 0.25, 0.25), reading(mirrored))
    assert columns == slice(44, 60) and right[0] == 7 and right[-1] == 0
    with pytest.raises(ValueError, match="upright canvases only"):
        patch_of((0.0, 0.0, 0.25, 0.25), reading(Affine2D.rotation(10.0)))


def test_the_graph_gives_logits_on_windows_in_canvas_px():
    model = net().eval()
    with torch.no_grad():
        encoded = model.encode(batch([crowd()]))
        prepared = model.prepare(encoded)
        task, mask = (
            model.tasks["mask"],
            model.read_queries(encoded, prepared, every_stage=False).layers[-1]["mask"],
        )
        chosen = torch.tensor([[0, 3]])
        found = task.tensors(mask, chosen, encoded, prepared["mask"])
        logits, windows = task.refined(mask, chosen, encoded)
    assert torch.equal(found["mask_logits"], logits) and logits.shape == (1, 2, 8, 8)
    height, width = encoded.padded_size
    torch.testing.assert_close(
        found["mask_windows"], windows * torch.tensor([width, height, width, height])
    )
