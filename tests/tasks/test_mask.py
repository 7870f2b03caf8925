import torch

from humanquery.tasks.base import Draws, Matches, Reference, Truth, Truths
from humanquery.tasks.mask import MaskConfig, MaskPrediction, PixelMap, _fall, _fall_on_cells
from tests.models.small import batch, crowd, person, small_config, small_model

BOX = torch.tensor([[0.5, 0.5, 0.4, 0.2]])


def test_logits_fall_beyond_the_margin_of_the_box_by_three_per_tenth_of_half_a_side():
    x = torch.tensor([0.5, 0.31, 0.7 + 0.02, 0.7 + 0.04, 0.1])
    found = _fall(BOX, x, torch.full((5,), 0.5))
    torch.testing.assert_close(
        found, torch.tensor([[0.0, 0.0, 0.0, -3.0, -30 * 0.9]]), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        _fall(BOX, torch.tensor([0.5]), torch.tensor([0.7])), torch.tensor([[-30 * 0.9]])
    )


def test_cells_fall_off_as_their_centres_do():
    cells = _fall_on_cells(BOX, (5, 8))
    for line in range(5):
        x = (torch.arange(8) + 0.5) / 8
        torch.testing.assert_close(
            cells[:, line], _fall(BOX, x, torch.full((8,), (line + 0.5) / 5))
        )


def test_a_mask_stays_near_its_box_whatever_the_map_says():
    pixel_map = PixelMap(torch.ones(1, 1, 20, 20), (80, 80), torch.ones(1, 2))
    logits = MaskPrediction(torch.full((1, 1, 1), 5.0), pixel_map, BOX[None]).logits(
        torch.tensor([[0]])
    )[0]
    rows, columns = (logits[0] > 0).nonzero().unbind(1)
    assert (rows.min(), rows.max()) == (7, 12) and (columns.min(), columns.max()) == (5, 14)
    assert (
        MaskPrediction(torch.full((1, 1, 1), 5.0), pixel_map).logits(torch.tensor([[0]])) > 0
    ).all()


def test_boxes_count_on_the_padded_canvas():
    task = small_model(small_config(mask=MaskConfig(num_points=64, in_boxes=True))).tasks["mask"]
    prepared = PixelMap(torch.ones(1, 32, 8, 8), (32, 32), torch.tensor([[0.5, 1.0]]))
    prediction = task.read(0, torch.zeros(1, 1, 32), Reference(torch.logit(BOX)[None]), prepared)
    torch.testing.assert_close(prediction.boxes, torch.tensor([[[0.25, 0.5, 0.2, 0.2]]]))


def test_cost_and_losses_see_the_fall():
    truth = Truth.of(person((64, 64), (16.0, 16.0, 48.0, 48.0)), (64, 64))
    truths, matches = (
        Truths.of([truth], "cpu"),
        Matches.to_device(torch.zeros(1, 3, 1, dtype=torch.long), "cpu")[0],
    )
    told = {}
    for in_boxes in (False, True):
        task = small_model(small_config(mask=MaskConfig(num_points=256, in_boxes=in_boxes))).tasks[
            "mask"
        ]
        everything = PixelMap(torch.ones(1, 32, 16, 16), (64, 64), torch.ones(1, 2))
        boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5]]]) if in_boxes else None
        prediction = MaskPrediction(torch.ones(1, 1, 32), everything, boxes)
        draws = Draws(torch.Generator().manual_seed(0))
        losses = task.losses(prediction, matches, truths, draws, "layer0")
        told[in_boxes] = (
            task.cost(prediction, 0, truth, draws, "layer0").item(),
            losses["mask_bce"].item(),
        )
    assert told[True][0] < 0.7 * told[False][0] and told[True][1] < 0.7 * told[False][1]


def test_a_model_with_masks_in_boxes_trains_and_predicts():
    model = small_model(small_config(mask=MaskConfig(num_points=64, in_boxes=True)))
    losses = model(batch([crowd()]), Draws())
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert model.eval().predict(batch([crowd()]))[0].persons.masks is not None
