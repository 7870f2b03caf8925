"""TensorFlow's padding, against timm's."""

import pytest
import torch
from timm.layers import Conv2dSame

from humanquery.nn.same_padding import SameConv2d


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (6, 11), (1, 2)])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"),
    [(3, 2, 1), (5, 2, 1), (3, 1, 1), (7, 4, 1), (2, 2, 1), (3, 2, 2), (1, 2, 1)],
)
def test_same_padding_is_that_of_tensorflow(size, kernel, stride, dilation, monkeypatch):
    theirs = Conv2dSame(4, 6, kernel, stride, dilation=dilation, groups=2)
    ours = SameConv2d(4, 6, kernel, stride, dilation=dilation, groups=2)
    ours.load_state_dict(theirs.state_dict())
    maps = torch.rand(2, 4, *size)
    with torch.no_grad():
        wanted = theirs(maps)
        torch.testing.assert_close(ours(maps), wanted)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        torch.testing.assert_close(ours(maps), wanted)
