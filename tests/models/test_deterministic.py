"""`engine.deterministic`: the same run gives the same weights to the last bit."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from humanquery.core.batch import Batch
from humanquery.engine.loop import TrainingInterrupted, train
from humanquery.engine.optim import OptimConfig
from humanquery.engine.train_config import EngineConfig
from tests.models.small import SIZE, batch, crowd, nobody, person, small_model

STEPS = 3
PEOPLE = (crowd(), person(SIZE, (5.0, 4.0, 30.0, 60.0), gender=None), nobody())


class Pictures:
    """Batch i depends on i alone; the process is asked to stop while batch `stop_at` is made."""

    def __init__(self, stop_at: int = -1):
        self.stop_at = stop_at

    def batches(self, start: int) -> Iterator[Batch]:
        for i in range(start, STEPS):
            if i == self.stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch([PEOPLE[i % 3], PEOPLE[(i + 1) % 3]], seed=i)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def run(
    out: Path, *, stop_at: int = -1, resume: bool = False, **settings
) -> dict[str, torch.Tensor]:
    fixed = {
        "steps": STEPS,
        "deterministic": True,
        "device": "cpu",
        "tensorboard": False,
        "seed": 3,
    }
    config = EngineConfig(optim=OptimConfig(lr=1e-3, ema=0.9), **(fixed | settings))
    train(small_model(), Pictures(stop_at), config, out, resume=resume)
    return load_file(out / "model.safetensors")


def test_two_runs_and_one_that_is_stopped_and_resumed_end_with_the_same_bits(tmp_path, threads):
    runs = [run(tmp_path / str(i)) for i in range(2)]
    with pytest.raises(TrainingInterrupted):
        run(tmp_path / "stopped", stop_at=1)
    runs.append(run(tmp_path / "stopped", resume=True))
    start = small_model().state_dict()
    assert any(
        not torch.equal(value, start[name]) for name, value in runs[0].items() if name in start
    )
    for other in runs[1:]:
        assert other.keys() == runs[0].keys()
        for name, value in runs[0].items():
            assert torch.equal(value, other[name]), name


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_three_runs_end_with_the_same_bits(tmp_path, precision):
    runs = [run(tmp_path / str(i), device="cuda", precision=precision) for i in range(3)]
    for other in runs[1:]:
        assert all(torch.equal(value, other[name]) for name, value in runs[0].items())


def test_afterwards_torch_is_as_it_was_before(tmp_path):
    torch.manual_seed(0)
    run(tmp_path)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
