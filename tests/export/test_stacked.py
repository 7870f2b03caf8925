"""A network of the shipped model's kind, small and with random weights: three backbones side by
side that propose people, their joints at several sizes of the picture, and their gender and age
from two views of each."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from humanquery.backbones import TimmBackbone
from humanquery.core.fields import FieldSpec
from humanquery.core.persons import Persons
from humanquery.engine.checkpoint import save_weights
from humanquery.experts import AttributesBackbone, MoveNetBackbone, RtmdetBackbone, StackedBackbone
from humanquery.export.graph import Graph
from humanquery.media.letterbox import LetterboxConfig
from humanquery.models.hqnet.hqnet import HQNet
from humanquery.nn.person_views import RegionConfig
from humanquery.predict import load
from humanquery.predict.exported_predictor import Canvases, ExportedPredictor, open_exported
from humanquery.tasks.keypoint_refinement import RefinementConfig
from humanquery.tasks.keypoints import KeypointsConfig
from humanquery.tasks.mask import MaskConfig
from humanquery.tasks.mask_refinement import MaskRefinementConfig
from tests.models.small import small_config

onnx = pytest.importorskip("onnx", reason="needs humanquery[export]")
pytest.importorskip("onnxscript", reason="needs humanquery[export]")
pytest.importorskip("onnxruntime", reason="needs humanquery[onnx]")

PARTS = (
    RtmdetBackbone(),
    MoveNetBackbone(width=0.35, frozen_blocks=7, heads=True, pose_scales=(0.6, 1.0)),
    AttributesBackbone(
        backbone=TimmBackbone("test_resnet", pretrained=False),
        regions=RegionConfig(
            whole=(64, 32), upper=(64, 64), head=32, whole_grid=(2, 1), channels=16, dim=16
        ),
    ),
)
JOINTS = KeypointsConfig(
    hidden=32,
    in_boxes=True,
    refinement=RefinementConfig(1, 32, 0.0, in_boxes=True, scores=True, local_features=True),
    heatmap=None,
)
MASKS = MaskConfig(
    num_points=64, in_boxes=True, refinement=MaskRefinementConfig(grid=8, width=8, layers=1)
)


@pytest.fixture(scope="module")
def stacked_weights(tmp_path_factory) -> Path:
    small = small_config(keypoints=JOINTS, mask=MASKS)
    config = replace(
        small,
        transformer=replace(small.transformer, decoder_layers=1),
        backbone=StackedBackbone(PARTS),
        denoising=None,
        priors=("person", "keypoints", "gender", "age"),
        num_queries=6,
        num_persons=4,
        input=LetterboxConfig(96, 128, zoom=2),
    )
    torch.manual_seed(0)
    system = HQNet(config)
    with (
        torch.no_grad()
    ):  # fresh heads say the same of every query; ties would hide what a graph does
        for weight in system.parameters():
            weight += 0.05 * torch.randn(weight.shape)
    path = tmp_path_factory.mktemp("stacked") / "stacked.safetensors"
    return save_weights(path, system, {"score_threshold": 0.0, "name": "stacked"})


@pytest.fixture(scope="module")
def exported(stacked_weights, tmp_path_factory) -> ExportedPredictor:
    """From a process of its own: the trace does not go through type checks."""
    out = tmp_path_factory.mktemp("exported") / "stacked.onnx"
    command = [
        sys.executable,
        "-m",
        "humanquery",
        "export",
        "--weights",
        str(stacked_weights),
        "--out",
        str(out),
    ]
    done = subprocess.run(
        [*command, "--no-verify"], capture_output=True, text=True, timeout=3600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kinds = {node.op_type for node in onnx.load(out).graph.node}
    assert not kinds & {"GridSample", "Loop", "If", "Scan"}
    return open_exported(out, "cpu", threads=1)


@pytest.mark.slow  # most of it is the trace and its translation
@pytest.mark.parametrize(
    ("count", "height", "width", "people"),
    [(2, 128, 160, 4), (1, 96, 224, 4), (2, 96, 128, 2), (1, 96, 128, 1)],
)
def test_a_stack_of_backbones_gives_the_same_from_its_file_for_every_canvas_and_crowd(
    stacked_weights, exported, count, height, width, people
):
    noise = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 3, height, width), generator=noise).to(torch.uint8)
    zoomed = torch.randint(0, 256, (count, 3, 2 * height, 2 * width), generator=noise).to(
        torch.uint8
    )
    sizes = torch.tensor([[height, width - 10], [height - 20, width]][:count])
    with torch.inference_mode():
        graph = Graph(load(stacked_weights, "cpu").system)
        scores = graph(images, sizes, torch.tensor(0.0), zoomed)["scores"]
        score = 0.0 if people == 4 else float(scores[:, people - 1 : people + 1].mean(1).max())
        network = graph(images, sizes, torch.tensor(score), zoomed)
    assert network["scores"].shape == (count, people)
    file = exported.run(Canvases(images.numpy(), sizes.numpy(), [], zoomed.numpy()), score)
    assert (
        network.keys() == file.keys()
        and {"keypoint_scores", "gender", "age", "mask_windows"} <= file.keys()
    )
    for name, said in network.items():
        reach = max(1.0, float(said.abs().max()))
        limit = Persons.specs().get(name, FieldSpec(name)).tolerance * reach
        np.testing.assert_allclose(file[name], said.numpy(), rtol=0, atol=limit, err_msg=name)
