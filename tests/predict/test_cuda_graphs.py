"""CUDA graphs: keeping them by size, with a stand-in for the capture on the CPU; on a GPU, the same
people."""

import dataclasses

import pytest
import torch
from torch import Tensor

from humanquery.core.errors import ConfigError
from humanquery.predict import cuda_graphs as graphs
from humanquery.predict import load
from humanquery.predict.cuda_graphs import Graphed
from tests.models.small import batch, crowd, nobody, small_model


def tensors(result) -> list[Tensor]:
    """All tensors of nested results, in order."""
    if isinstance(result, Tensor):
        return [result]
    if dataclasses.is_dataclass(result):
        result = [getattr(result, f.name) for f in dataclasses.fields(result)]
    parts = result.values() if isinstance(result, dict) else result
    return (
        [t for part in parts for t in tensors(part)]
        if isinstance(result, dict | list | tuple)
        else []
    )


@pytest.fixture
def captures(monkeypatch) -> list:
    """Stands for the GPU: a replay works out everything anew and writes it where the first results
    are."""
    made = []

    def capture(run):
        first = run()
        made.append(first)

        def replay():
            for there, here in zip(tensors(first), tensors(run()), strict=True):
                there.copy_(here)

        return replay, first

    monkeypatch.setattr(graphs, "capture", capture)
    return made


def test_a_size_is_captured_once_and_its_result_follows_the_inputs(captures):
    double = Graphed(lambda x, add, name: {name: 2 * x + (0 if add is None else add)})
    for x in (torch.ones(2, 3), torch.zeros(2, 3), torch.full((2, 3), 5.0)):
        assert torch.equal(double(x, None, "twice")["twice"], 2 * x)
    assert len(captures) == 1
    assert torch.equal(double(torch.ones(4), None, "twice")["twice"], torch.full((4,), 2.0))
    assert torch.equal(
        double(torch.ones(4), torch.ones(4), "twice")["twice"], torch.full((4,), 3.0)
    )
    double(torch.ones(4), None, "other")
    double(torch.ones(4, dtype=torch.float64), None, "other")
    assert len(captures) == 5


def test_the_size_that_was_not_used_for_longest_makes_room(captures):
    same = Graphed(lambda x: x + 0, most=2)
    for n in (1, 2, 1, 3, 1):
        same(torch.zeros(n))
    assert len(captures) == 3
    same(torch.zeros(2))
    assert len(captures) == 4


def test_people_are_the_same_with_graphs_in_every_order(captures):
    pictures = [batch([crowd()]), batch([nobody()]), batch([crowd(), nobody()])]
    pictures.append(dataclasses.replace(pictures[0], images=pictures[0].images.flip(-1)))
    model = small_model().eval()
    wanted = [model.predict(b) for b in pictures]
    model.first_look = Graphed(model.first_look)
    for i in (0, 3, 1, 2, 3, 0):
        for found, true in zip(model.predict(pictures[i]), wanted[i], strict=True):
            assert all(
                torch.equal(a, b) for a, b in zip(tensors(found), tensors(true), strict=True)
            )
    assert len(captures) == 2


def test_graphs_without_a_gpu_are_refused():
    with pytest.raises(
        ConfigError, match="CUDA graphs need a CUDA device and an HQNet; this is cpu, HQNet"
    ):
        load("hqnet-small", device="cpu", graphs=True)
    with pytest.raises(ConfigError, match=r"model\.onnx: graphs=True is for weights"):
        load("model.onnx", graphs=True)


@pytest.mark.gpu
def test_on_a_gpu_people_are_the_same_with_graphs():
    scenes = [
        torch.randint(0, 256, (h, 320, 3), dtype=torch.uint8).numpy() for h in (240, 320, 240)
    ]
    plain, fast = (
        load("hqnet-small", device="cuda"),
        load("hqnet-small", device="cuda", graphs=True),
    )
    for picture in (*scenes, *scenes):
        found, true = fast.predict(picture, score=0.05), plain.predict(picture, score=0.05)
        assert len(found) == len(true)
        torch.testing.assert_close(found.boxes, true.boxes, atol=0.05, rtol=1e-3)
