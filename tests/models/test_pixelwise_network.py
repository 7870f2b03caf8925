"""Keypoint and Pose Query Encoding against the paper's equations, written out."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from humanquery.backbones import TimmBackbone
from humanquery.models.pixelwise.config import (
    InstanceBranchConfig,
    KeypointBranchConfig,
    PixelWiseConfig,
)
from humanquery.models.pixelwise.network import (
    InstanceBranch,
    KeypointBranches,
    first_points,
    summed_at,
)
from humanquery.models.pixelwise.system import PixelWise

B, K, H, W = 2, 3, 5, 7


def sampled(maps: torch.Tensor, displacements: torch.Tensor) -> torch.Tensor:
    """Bilinear values of b c h w at every cell plus its displacement, b h w 2."""
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    at = torch.stack([x, y], -1) + displacements
    grid = 2 * (at + 0.5) / torch.tensor([W, H]) - 1
    return F.grid_sample(maps, grid, align_corners=False)


def branch(maps: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """One keypoint's own convolution: b outputs h w."""
    return F.conv2d(maps, weight, bias, padding=weight.shape[-1] // 2)


def scrambled(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return module.eval()


def test_a_displacement_of_whole_cells_reads_those_cells_exactly():
    maps = torch.rand(1, 2, H, W)
    shift = torch.zeros(1, H, W, 2, 1, 2)
    shift[..., 0] = 1.0
    assert torch.equal(summed_at(maps, torch.zeros_like(shift)), maps)
    seen = summed_at(maps, shift)
    torch.testing.assert_close(seen[..., :-1], maps[..., 1:])
    assert seen[..., -1].eq(0).all()  # outside of the map


@pytest.mark.parametrize("points", [0, 1, 9])
@pytest.mark.parametrize("points_from", ["cell", "query"])
def test_all_branches_at_once_say_what_the_paper_says_one_branch_at_a_time(points, points_from):
    c = 4
    config = KeypointBranchConfig(c, semantic_points=points, points_from=points_from)
    branches = scrambled(KeypointBranches(6, K, config))
    maps = torch.randn(B, 6, H, W)
    found = branches(maps)
    features = branches.reduce(maps)

    def part(reader: torch.nn.Conv2d, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return reader.weight.chunk(K)[i], reader.bias.chunk(K)[i]

    for i in range(K):
        own = features[:, c * i : c * (i + 1)]
        located = branch(own, *part(branches.locate, i)).permute(0, 2, 3, 1)
        query = located[..., :2]
        if points and points_from == "cell":
            spread = located[..., 2:]
        elif points:
            at_query = sampled(own, query)
            spread = branch(at_query, *part(branches.spread, i)).permute(0, 2, 3, 1)
        else:
            spread = torch.zeros(B, H, W, 2)
        # R'(c) = sum over n of R(c + D_cq + D_qq'n)
        summed = sum(sampled(own, query + step) for step in spread.split(2, -1))
        to_keypoint = branch(summed, *part(branches.regress, i)).permute(0, 2, 3, 1)
        torch.testing.assert_close(found.queries[..., i, :], query)
        torch.testing.assert_close(
            found.keypoints[..., i, :], query + to_keypoint, rtol=1e-4, atol=1e-4
        )


def test_without_query_encoding_the_displacement_is_read_at_the_cell():
    branches = scrambled(KeypointBranches(6, K, KeypointBranchConfig(4, query_encoding=False)))
    maps = torch.randn(B, 6, H, W)
    found = branches(maps)
    plain = branches.regress(branches.reduce(maps)).permute(0, 2, 3, 1).unflatten(-1, (K, 2))
    torch.testing.assert_close(found.keypoints, plain)
    assert found.queries is None and found.points is None


@pytest.mark.parametrize("query", ["query", "keypoints", "semantic", "auto", "none"])
@pytest.mark.parametrize("hidden", [0, 3])
def test_the_score_is_a_layer_on_the_concatenated_features_of_the_pose(query, hidden):
    pose = scrambled(KeypointBranches(6, K, KeypointBranchConfig(4, semantic_points=2)))
    config = InstanceBranchConfig(5, pose_query=query, hidden=hidden, quality_branch=True)
    instance = scrambled(InstanceBranch(6, K, 2, config))
    maps = torch.randn(B, 6, H, W)
    said = pose(maps)
    scores = instance(maps, said)
    features = instance.reduce(maps)
    where = {
        "query": lambda: said.queries,
        "keypoints": lambda: said.keypoints,
        "semantic": lambda: said.points.flatten(3, 4),
        "auto": lambda: instance.locate(features).permute(0, 2, 3, 1).unflatten(-1, (-1, 2)),
        "none": lambda: torch.zeros(B, H, W, 1, 2),
    }[query]()
    joined = torch.cat([sampled(features, at) for at in where.unbind(3)], 1)
    # the layer that sees the concatenation: its part for each point stands in `project`
    width = hidden or 2
    weight = instance.project.weight.view(-1, width, 5).permute(1, 0, 2).reshape(width, -1, 1, 1)
    out = F.conv2d(joined, weight, instance.bias)
    out = instance.read(out.relu()) if hidden else out
    torch.testing.assert_close(scores.score_logit, out[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores.quality_logit, out[:, 1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        scores.values(), out[:, 0].sigmoid() * out[:, 1].sigmoid(), rtol=1e-4, atol=1e-4
    )


def test_queries_start_on_the_cell_and_semantic_points_on_the_window_around_it():
    found = KeypointBranches(6, K, KeypointBranchConfig(4))(torch.randn(B, 6, H, W))
    assert found.queries.eq(0).all()
    window = {(x, y) for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)}
    assert {tuple(p) for p in found.points[0, 2, 3, 1].tolist()} == window
    assert first_points(0).shape == (0, 2) and first_points(3)[0].tolist() == [0, 0]


@pytest.mark.parametrize("detach", [False, True])
def test_the_score_moves_the_queries_unless_it_is_told_not_to(detach):
    pose = scrambled(KeypointBranches(6, K, KeypointBranchConfig(4)))
    instance = scrambled(InstanceBranch(6, K, 9, InstanceBranchConfig(5, detach_queries=detach)))
    maps = torch.randn(B, 6, H, W)
    instance(maps, pose(maps)).score_logit.sum().backward()
    assert (pose.locate.weight.grad is None) == detach


@pytest.mark.parametrize(
    ("name", "side", "params", "gflops"),
    [
        ("hrnet_w32", 512, 29.7, 46.4),
        pytest.param("hrnet_w48", 640, 65.8, 143.4, marks=pytest.mark.slow),
    ],
)
def test_parameters_and_multiply_adds_are_those_of_table_1(name, side, params, gflops):
    """Counted on 64 × 64 px: every map shrinks alike. A multiply-add counts two; what reads values
    at points has none."""
    backbone = TimmBackbone(
        name, frozen_stages=0, frozen_norm=False, options={"feature_location": ""}
    )
    model = PixelWise(PixelWiseConfig(backbone=backbone)).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        nothing = torch.zeros(1, 64, 64, dtype=torch.bool)
        model.read(model.features(torch.zeros(1, 3, 64, 64), nothing))
    counted = counter.get_total_flops() / 2e9 * (side / 64) ** 2
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(params, rel=0.02)
    assert counted == pytest.approx(gflops, rel=0.02)
