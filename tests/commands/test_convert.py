"""`humanquery convert` of other people's checkpoints."""

import pytest
import torch

from humanquery import load
from humanquery.commands.convert import convert
from humanquery.core.errors import CheckpointError, ConfigError
from humanquery.models.topdown.config import LiteHRNetConfig, SimplePoseConfig
from humanquery.models.topdown.convert import released_config
from humanquery.models.topdown.lite_hrnet import LiteHRNet
from humanquery.models.topdown.networks import SimplePose
from humanquery.predict.whole_body import WholeBodyPredictor
from tests.models.test_tinypose import write_ncnn


def test_a_released_simple_pose_becomes_a_model_that_loads(tmp_path):
    torch.manual_seed(0)
    ours = SimplePose(SimplePoseConfig(50), 17).state_dict()
    names = {"backbone.": "preact.", "upsample.": "deconv_layers.", "head.": "final_layer."}
    released = {}
    for name, value in ours.items():
        start = next(own for own in names if name.startswith(own))
        released[names[start] + name.removeprefix(start)] = value
    torch.save(released, tmp_path / "simple.pth")
    out = tmp_path / "simple.safetensors"
    (notice,) = convert(tmp_path / "simple.pth", out, "alphapose")
    assert "coco17, joints read as heatmap" in notice
    predictor = load(out, "cpu", boxes=_Nobody())
    assert isinstance(predictor, WholeBodyPredictor)
    for name, value in predictor.system.network.state_dict().items():
        assert torch.equal(value, ours[name]), name
    assert "non-commercial" in predictor.card["licences"]["weights"]


class _Nobody:
    def find(self, picture, name, score): ...

    def identity(self):
        return {}


def test_tinypose_becomes_a_body_model_that_loads(tmp_path):
    torch.manual_seed(0)
    network = LiteHRNet(LiteHRNetConfig(), 17)
    write_ncnn(tmp_path / "pose.bin", network, half=False)
    convert(tmp_path / "pose.bin", tmp_path / "pose.safetensors", "tinypose")
    system = load(tmp_path / "pose.safetensors", "cpu", boxes=_Nobody()).system
    assert system.skeleton.name == "coco17" and system.input_size == (256, 192)


def test_joints_are_read_by_their_number_unless_told():
    kind = SimplePoseConfig()
    assert released_config(kind, 136, "auto").joints_by == "integral"
    assert released_config(kind, 26, "auto").joints_by == "heatmap"
    combined = released_config(kind, 136, "combined")
    assert (combined.heatmap_loss, combined.coordinate_loss) == (100, 0.01)
    with pytest.raises(CheckpointError, match=r"99 joints, expected one of \[17, 21"):
        released_config(kind, 99, "auto")
    with pytest.raises(ConfigError, match="--joints-by heatmp: unknown.*heatmap"):
        released_config(kind, 17, "heatmp")


def test_an_unknown_kind_and_an_option_of_another_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--kind alfapose: unknown.*alphapose"):
        convert(tmp_path / "a", tmp_path / "b", "alfapose")
    with pytest.raises(ConfigError, match="--joints-by heatmap: is for --kind alphapose"):
        convert(tmp_path / "a", tmp_path / "b", "hqnet", "heatmap")
