"""Our MobileNetV2 against timm's."""

import pytest
import timm
import torch

from humanquery.backbones import TimmBackbone, build
from humanquery.backbones.mobilenet import MobileNetFeatures, MobileNetV2, round_channels
from humanquery.backbones.timm_features import TimmFeatures
from humanquery.nn.same_padding import SameConv2d


def test_it_is_timms_network_under_timms_names():
    config = TimmBackbone("mobilenetv2_100")
    theirs, ours = TimmFeatures(config), build(config)
    assert isinstance(ours, MobileNetFeatures) and ours.channels == theirs.channels
    assert (ours.mean, ours.std) == (theirs.mean, theirs.std)
    ours.load_state_dict(theirs.state_dict())
    frozen = [
        {n for n, p in net.named_parameters() if not p.requires_grad} for net in (ours, theirs)
    ]
    assert frozen[0] == frozen[1]
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for mine, other in zip(ours.eval()(images), theirs.eval()(images), strict=True):
            torch.testing.assert_close(mine, other)


def test_the_width_and_padding_of_movenet():
    theirs = timm.models.efficientnet._gen_mobilenet_v2(
        "mobilenetv2_100", 1.5, pad_type="same", num_classes=0
    )
    ours = MobileNetV2(1.5, SameConv2d)
    own = ours.state_dict()
    ours.load_state_dict({n: t for n, t in theirs.state_dict().items() if n in own})
    assert {n.split(".")[0] for n in theirs.state_dict()} - {n.split(".")[0] for n in own} == {
        "conv_head",
        "bn2",
    }
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        x = theirs.eval().blocks(theirs.bn1(theirs.conv_stem(images)))
        torch.testing.assert_close(ours.eval()(images)[-1], x)


def test_its_start_is_spread_as_timms():
    ours, theirs = (
        dict(net.named_parameters())
        for net in (MobileNetV2(), timm.create_model("mobilenetv2_100", num_classes=0))
    )
    for name in ("conv_stem.weight", "blocks.5.1.conv_dw.weight", "blocks.5.1.conv_pw.weight"):
        assert ours[name].std().item() == pytest.approx(theirs[name].std().item(), rel=0.15)


def test_what_only_timm_has_comes_from_timm():
    for config in (
        TimmBackbone("mobilenetv2_100", options={"drop_path_rate": 0.1}),
        TimmBackbone("mobilenetv2_050"),
    ):
        assert isinstance(build(config), TimmFeatures)


def test_channels_are_multiples_of_eight_and_never_lose_a_tenth():
    assert [round_channels(c) for c in (3, 16, 24 * 1.5, 33, 12 * 0.75)] == [8, 16, 40, 32, 16]
