import pytest
import torch

from humanquery.core.skeleton import COCO17
from humanquery.nn.integral import (
    IntegralConfig,
    flip_test,
    heatmap_joints,
    integral_joints,
    symmetric_mean,
    unmirrored,
)

LOGITS = [[-2.0, 0.0, 1.0, -1.0], [-1.0, 0.5, 3.0, 0.0]]
TRUE = torch.tensor([0.10, 0.05], dtype=torch.float64)
SYMMETRIC = [
    [0.04773157, 0.11365354, 0.03977290, 0.03977290],
    [-0.00983677, -0.01175756, -0.01365935, -0.07558854],
]
INTEGRAL = [
    [0.01919233, 0.02992864, 0.0111349, -0.00126752],
    [0.0111349, -0.00151502, -0.00314102, -0.03315205],
]


def _gradient(config: IntegralConfig):
    logits = torch.tensor(LOGITS, dtype=torch.float64)[None, None].requires_grad_()
    joints = integral_joints(logits, config)
    loss = (joints.unit[0, 0] - TRUE).abs().sum()
    loss.backward()
    return joints, loss.item(), logits.grad[0, 0]


@pytest.mark.parametrize(
    ("gradient", "expected"), [("symmetric", SYMMETRIC), ("integral", INTEGRAL)]
)
def test_the_test_vector_of_the_specification(gradient, expected):
    joints, loss, grad = _gradient(IntegralConfig(gradient=gradient))
    assert joints.scores.item() == pytest.approx(0.9525741268224334)
    assert joints.cells(2, 4)[0, 0].tolist() == pytest.approx(
        [1.714924070221552, 0.5914382338729717]
    )
    assert joints.unit[0, 0].tolist() == pytest.approx([-0.071268982444612, -0.20428088306351416])
    assert loss == pytest.approx(0.4255498655081261)
    torch.testing.assert_close(grad, torch.tensor(expected, dtype=torch.float64), atol=1e-8, rtol=0)


def test_an_eighth_of_the_map_is_the_papers_amplitude():
    """Linear in A, here 4 / 8 and 2 / 8 cells for the two axes."""
    (_, _, eighth) = _gradient(IntegralConfig(amplitude="eighth"))
    logits = torch.tensor(LOGITS, dtype=torch.float64)
    confidence = logits.sigmoid()
    share = confidence / confidence.sum()
    sign_x = torch.tensor([-1.0, -1, 1, 1], dtype=torch.float64)
    sign_y = torch.tensor([-1.0, 1], dtype=torch.float64)
    g = -sign_x * (0.5 / 4) - sign_y[:, None] * (0.25 / 2)
    expected = confidence * (1 - confidence) / confidence.sum() * (g - (share * g).sum())
    torch.testing.assert_close(eighth, expected)


def test_a_cell_at_the_mean_counts_as_right_of_it():
    marginal = torch.tensor([0.25, 0.5, 0.25], requires_grad=True)
    symmetric_mean(marginal, 3).backward()
    assert marginal.grad.tolist() == [-3.0, 3.0, 3.0]


def test_softmax_scores_shrink_with_the_size_of_the_peak_and_two_step_scores_do_not():
    logits = torch.full((1, 2, 8, 8), -9.0)
    logits[0, 0, 4, 4] = 3.0
    logits[0, 1, 3:6, 3:6] = 3.0
    two, one = (
        integral_joints(logits, IntegralConfig(normalisation=n)).scores[0]
        for n in ("two-step", "softmax")
    )
    assert two[0] == two[1] and one[0] > 5 * one[1]


def test_heatmap_decoding_by_hand():
    maps = torch.zeros(1, 3, 6, 8)
    maps[0, 0, 3, 4], maps[0, 0, 3, 5], maps[0, 0, 2, 4] = 0.9, 0.5, 0.4
    maps[0, 1, 1, 4], maps[0, 1, 1, 5] = 0.8, 0.3  # next to the border: as it is
    maps[0, 2] = -1.0
    places, scores = heatmap_joints(maps)
    assert places[0].tolist() == [[4.25, 2.75], [4.0, 1.0], [0.0, 0.0]]
    assert scores[0].tolist() == pytest.approx([0.9, 0.8, -1.0])


def test_no_crops_give_no_joints():
    assert heatmap_joints(torch.zeros(0, 17, 4, 3))[0].shape == (0, 17, 2)
    assert integral_joints(torch.zeros(0, 17, 4, 3)).unit.shape == (0, 17, 2)


def test_unmirroring_swaps_sides_and_shifts_by_a_column():
    maps = torch.rand(1, 17, 2, 4)
    plain = unmirrored(maps, COCO17.mirror_order, shift=False)
    assert torch.equal(plain[0, 1], maps[0, 2].flip(-1))
    shifted = unmirrored(maps, COCO17.mirror_order)
    assert torch.equal(shifted[..., 1:], plain[..., :-1]) and torch.equal(
        shifted[..., 0], plain[..., 0]
    )


def test_the_flip_test_of_a_symmetric_picture_changes_nothing():
    class Brightness(torch.nn.Module):
        def forward(self, crops):
            return crops.mean(1, keepdim=True).expand(-1, 17, -1, -1)

    half = torch.rand(1, 3, 4, 3)
    crops = torch.cat([half, half.flip(-1)], -1)
    network = Brightness()
    torch.testing.assert_close(
        flip_test(network, crops, COCO17.mirror_order, shift=False), network(crops)
    )
