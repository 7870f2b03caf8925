"""One launch in place of hundreds: a function of tensors as CUDA graphs, one for each size of its
inputs.

Captured and replayed as in PyTorch's notes on CUDA graphs; **nobody has run it on a GPU yet**
(`pytest -m gpu tests/predict`).
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

MOST = 8
"""sizes that are kept; each holds the memory of its results, and pictures of one folder rarely have
more"""
WARM_UP = (
    3  # calls before the capture: libraries choose their kernels, and constants reach the device
)


class Graphed:
    """`run`, which takes tensors and things that can be hashed, and asks nothing of the host once
    it is warm.

    Results are the graph's own memory: the next call with inputs of the same sizes writes over
    them.
    """

    def __init__(self, run: Callable, most: int = MOST):
        self.run = run
        self.most = most
        self._kept: OrderedDict[Hashable, tuple[list[Tensor], Callable[[], None], Any]] = (
            OrderedDict()
        )

    @torch.inference_mode()
    def __call__(self, *inputs: Any) -> Any:
        key = tuple(
            (tuple(x.shape), x.stride(), x.dtype) if isinstance(x, Tensor) else x for x in inputs
        )
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            while len(self._kept) >= self.most:
                self._kept.popitem(last=False)
            copies = [x.clone() if isinstance(x, Tensor) else x for x in inputs]
            self._kept[key] = (
                [x for x in copies if isinstance(x, Tensor)],
                *capture(lambda: self.run(*copies)),
            )
        own, replay, result = self._kept[key]
        for there, here in zip(own, (x for x in inputs if isinstance(x, Tensor)), strict=True):
            there.copy_(here)
        replay()
        return result


def capture(run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """What repeats everything that `run` does on the GPU, and the result, whose tensors each
    repetition writes anew."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph.replay, result
