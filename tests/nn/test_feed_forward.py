"""`FeedForward` goes in parts where nobody learns, and says the same."""

import pytest
import torch

from humanquery.nn import transformer
from humanquery.nn.transformer import FeedForward, LayerConfig


@pytest.mark.parametrize("shape", [(2, 7, 8), (1, 3, 8), (5, 8), (1, 0, 8)])
def test_parts_say_what_the_whole_says(monkeypatch, shape):
    monkeypatch.setattr(transformer, "TOGETHER", 3)
    layer, x = FeedForward(LayerConfig(dim=8, heads=2, feedforward=16)).eval(), torch.randn(shape)
    whole, calls = layer(x).detach(), []
    moved = layer._moved
    monkeypatch.setattr(layer, "_moved", lambda rows: calls.append(len(rows)) or moved(rows))
    with torch.no_grad():
        torch.testing.assert_close(layer(x), whole)
    most = 3 * torch.get_num_threads()
    assert sum(calls) == x[..., 0].numel() and max(calls) <= most
    assert len(calls) == max(1, -(-x[..., 0].numel() // most))
