"""The same numbers in fewer passes over memory, for networks that only predict."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights


@torch.no_grad()
def fold_norms(net: nn.Module, run: Callable[[], Any]) -> int:
    """Folds in place what `run()`, which calls all of `net` in eval mode, shows to be pairs, and
    gives their number.

    A pair is a `Conv2d` and a batch norm that takes the very tensor which the convolution gave,
    whenever one of them is called. What timm's norms do besides (their activation) stays.
    Afterwards weights have other values and `net` must not be trained.
    """
    if not any(isinstance(m, _BatchNorm) for m in net.modules()):
        return 0
    made: dict[
        int, tuple[nn.Conv2d, Tensor]
    ] = {}  # the tensors too, so that no other gets the same id
    called: Counter[nn.Module] = Counter()
    pairs: Counter[tuple[nn.Conv2d, _BatchNorm]] = Counter()

    def after_conv(conv: nn.Module, _: tuple, out: Tensor) -> None:
        called[conv] += 1
        made[id(out)] = (conv, out)

    def before_norm(norm: nn.Module, inputs: tuple) -> None:
        called[norm] += 1
        if id(inputs[0]) in made:
            pairs[made[id(inputs[0])][0], norm] += 1

    hooks = [m.register_forward_hook(after_conv) for m in net.modules() if isinstance(m, nn.Conv2d)]
    hooks += [
        m.register_forward_pre_hook(before_norm) for m in net.modules() if isinstance(m, _BatchNorm)
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    sure = [
        (conv, norm)
        for (conv, norm), times in pairs.items()
        if called[conv] == called[norm] == times
    ]
    sure = [
        (conv, norm) for conv, norm in sure if not norm.training and norm.running_mean is not None
    ]
    parents = {
        child: (parent, name) for parent in net.modules() for name, child in parent.named_children()
    }
    for conv, norm in sure:
        statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
        parent, name = parents[norm]
        setattr(parent, name, getattr(norm, "act", nn.Identity()))
    net.folded_norms = len(sure)  # `engine.checkpoint` refuses to save what cannot be loaded
    return len(sure)
