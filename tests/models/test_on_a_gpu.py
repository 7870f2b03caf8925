"""The network on CUDA says what it says on the CPU. Run with `pytest -m gpu`."""

import copy

import pytest
import torch

from humanquery.core.batch import Batch
from humanquery.evaluation.evaluate import evaluate
from humanquery.tasks.base import Draws
from tests.models.small import batch, crowd, nobody, small_model

WHERE = "cuda"
pytestmark = pytest.mark.gpu


class SameDraws(Draws):
    """Random numbers that are drawn on the CPU, whatever the device."""

    def uniform(self, name: str, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(sum(name.encode()))
        return torch.rand(shape, generator=generator, dtype=like.dtype).to(like.device)


@pytest.fixture
def pictures() -> Batch:
    return batch([crowd(), nobody()])


@pytest.fixture
def models() -> tuple[torch.nn.Module, torch.nn.Module]:
    """The same on the CPU and on the GPU."""
    here = small_model()
    return here, copy.deepcopy(here).to(WHERE)


def test_losses_and_gradients_are_those_of_the_cpu(models, pictures):
    here, there = models
    losses = [m.train()(b, SameDraws()) for m, b in ((here, pictures), (there, pictures.to(WHERE)))]
    assert losses[0].keys() == losses[1].keys()
    for name, loss in losses[0].items():
        torch.testing.assert_close(losses[1][name].cpu(), loss, rtol=1e-3, atol=1e-4, msg=name)
    for found in losses:
        torch.stack(list(found.values())).sum().backward()
    for (name, a), b in zip(here.named_parameters(), there.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(
                b.grad.cpu(),
                a.grad,
                rtol=1e-2,
                atol=1e-3 * (a.grad.abs().max().item() + 1e-3),
                msg=name,
            )


def test_people_are_those_of_the_cpu(models, pictures):
    here, there = (m.eval() for m in models)
    for a, b in zip(here.predict(pictures), there.predict(pictures.to(WHERE)), strict=True):
        torch.testing.assert_close(b.to("cpu").boxes, a.boxes, atol=0.05, rtol=1e-3)
        torch.testing.assert_close(b.to("cpu").age, a.age, atol=0.05, rtol=1e-3)


def test_scores_are_those_of_the_cpu(models, pictures):
    pairs = [(pictures, pictures.targets)]
    here, there = (evaluate(m.eval(), pairs, progress=False).numbers() for m in models)
    assert here["box/ap"] == pytest.approx(there["box/ap"], abs=0.02)
