"""The pixel-wise regressor as a graph of tensors."""

from dataclasses import replace

import pytest
import torch

from humanquery.core.errors import ConfigError
from humanquery.export.graph import Graph, example, trace
from humanquery.models.pixelwise.config import OksNMSConfig
from humanquery.models.pixelwise.system import PixelWise
from tests.models.pixelwise_small import Pyramid, small_config, small_model


def test_a_trace_says_what_the_network_says_on_pictures_of_another_number_and_size():
    model = small_model(flip_test=True).eval()
    program = trace(model).module()
    images = torch.randint(0, 256, (3, 3, 96, 64), dtype=torch.uint8)
    given = images, torch.tensor([[96, 64], [80, 50], [64, 64]]), torch.tensor(0.0)
    with torch.inference_mode():
        said, found = Graph(model)(*given), program(*given)
    assert said.keys() == found.keys() == {"scores", "boxes", "keypoints", "queries", "tokens"}
    for name, values in said.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-4)
    few = program(*given[:2], torch.tensor(0.999))  # a graph gives one row at least
    assert few["scores"].shape == (3, 1)


def test_what_a_graph_cannot_hold_is_refused():
    config = replace(small_config(), pose_nms=OksNMSConfig())
    model = PixelWise(config, backbone=Pyramid()).eval()
    with pytest.raises(ConfigError, match="no pose NMS.*export it with scales"):
        trace(model)
    Graph(model)(*example(64))  # it is only refused in a trace
