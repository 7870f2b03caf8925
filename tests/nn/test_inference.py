"""Networks that only predict: norms folded into convolutions."""

import pytest
import timm
import torch
from torch import nn

from humanquery.nn.inference import fold_norms
from humanquery.predict import load


def settled(net: nn.Module) -> nn.Module:
    """Norms with statistics and scales of their own, eval mode."""
    draw = torch.Generator().manual_seed(0)
    for norm in [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]:
        for values, low, high in (
            (norm.running_mean, -1, 1),
            (norm.running_var, 0.5, 2),
            (norm.weight, 0.5, 2),
            (norm.bias, -1, 1),
        ):
            values.data.copy_(torch.rand(values.shape, generator=draw) * (high - low) + low)
    return net.eval()


def norms(net: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())


def test_timm_backbones_say_the_same_without_their_norms():
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()
    for name, count in (("resnet18", 20), ("mobilenetv2_050", 52)):
        net = settled(
            timm.create_model(name, pretrained=False, features_only=name == "resnet18")
        ).double()
        with torch.no_grad():
            before = net(images)
            assert norms(net) == fold_norms(
                net, lambda net=net: net(images[:1])
            ) == count and not norms(net)
            torch.testing.assert_close(net(images), before)


class Odd(nn.Module):
    """Norms that are not to be folded: of a sum, of a convolution that is used twice, without
    statistics; and one that is."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.sum_norm, self.twice_norm, self.bare_norm, self.good_norm = (
            nn.BatchNorm2d(4) for _ in range(4)
        )
        self.third, self.fourth = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, bias=False)
        self.bare_norm = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x):
        x = self.sum_norm(self.first(x) + 1)
        x = self.second(self.twice_norm(self.second(x)))
        return self.good_norm(self.fourth(self.bare_norm(self.third(x))))


def test_only_a_norm_that_takes_what_one_convolution_gave_is_folded():
    net = Odd()
    net.bare_norm.weight.data.fill_(1)
    kept = net.bare_norm
    settled_norms = [net.sum_norm, net.twice_norm, net.good_norm]
    for norm in settled_norms:
        settled(norm)
    net.eval()
    images = torch.rand(1, 3, 9, 9)
    with torch.no_grad():
        before = net(images)
        assert fold_norms(net, lambda: net(images)) == 1
        torch.testing.assert_close(net(images), before, rtol=1e-4, atol=1e-4)
    assert net.bare_norm is kept and isinstance(net.good_norm, nn.Identity) and norms(net) == 3


def test_a_network_without_norms_is_not_run():
    assert fold_norms(nn.Conv2d(3, 4, 1), lambda: pytest.fail("there is nothing to see")) == 0


def test_loaded_weights_have_no_norms_left():
    assert norms(load("hqnet-small", device="cpu").system) == 0
