from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed.fsdp  # here once, not in each of two forks
from safetensors.torch import load_file

from humanquery.core import ranks
from humanquery.core.errors import ConfigError, TrainingError
from humanquery.engine.distributed import any_rank, gathered, joined_ranks, placed_like, share
from humanquery.engine.loop import train
from humanquery.engine.state import latest, read_metrics, read_state
from tests.engine.toy import STEADY, Toy, ToyLoader, toy_config
from tests.engine.two_ranks import run_in_two_ranks


def test_one_process_is_a_world_of_its_own():
    with joined_ranks("cpu") as device:
        assert device.type == "cpu"
        assert (ranks.rank(), ranks.world_size()) == (0, 1)
        count = torch.tensor(3.0, requires_grad=True)
        assert ranks.sum_over_ranks(count).item() == 3.0
        assert not ranks.sum_over_ranks(count).requires_grad
        assert gathered("mine") == ["mine"]
        assert any_rank([False, True], torch.tensor(False), device) == [False, False, True]
        toy = Toy()
        assert share(toy, "ddp", device) is toy
        assert placed_like(torch.ones(2), torch.zeros(2)).tolist() == [1, 1]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The folder of what one process learned from the joint batches."""
    out = tmp_path_factory.mktemp("alone")
    train(Toy(), ToyLoader(batch_size=4), toy_config(steps=4, log_every=1), out)
    return out


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, alone) -> Path:
    """The folder of the runs of `train_in_ranks`."""
    out = tmp_path_factory.mktemp("ranks")
    # `alone` comes first: what torch imports in its first step is then imported once
    run_in_two_ranks(train_in_ranks, out)
    return out


def train_in_ranks(out: Path) -> None:
    """One rank of runs with DDP, with FSDP and with a loss that is not finite."""
    with joined_ranks("cpu"):
        loader = ToyLoader(rank=ranks.rank(), world=ranks.world_size())
        steps = toy_config(steps=4, log_every=1)
        train(Toy(), loader, steps, out / "ddp", evaluate=lambda system: {"one": 1})
        sharded = toy_config(
            optim=STEADY,
            steps=4,
            log_every=1,
            parallel="fsdp",
            fsdp_units=("layers.*",),
            accumulate=2,
        )
        train(Toy(), loader, replace(sharded, steps=2), out / "fsdp")
        train(Toy(), loader, sharded, out / "fsdp", resume=True)
        try:
            train(Toy(), replace(loader, poison=1), toy_config(), out / "poisoned")
        except TrainingError as problem:
            (out / f"poisoned-{ranks.rank()}.txt").write_text(str(problem))


def compare(two: Path, one: Path) -> None:
    """Two ranks learned what one process learned from the joint batches: same losses, gradient
    norms, weights, moments."""
    theirs = [r for r in read_metrics(one / "metrics.jsonl") if "total" in r]
    ours = [r for r in read_metrics(two / "metrics.jsonl") if "total" in r]
    for a, b in zip(ours, theirs, strict=True):
        for name in ("step", "total", "brightness", "people", "lr", "grad_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-4), (a["step"], name)
    weights = load_file(one / "model.safetensors")
    for name, value in load_file(two / "model.safetensors").items():
        torch.testing.assert_close(value, weights[name], atol=2e-5, rtol=1e-4)
    ours, theirs = (
        read_state(latest(two))["optimizer"]["state"],
        read_state(latest(one))["optimizer"]["state"],
    )
    for i, moments in theirs.items():
        torch.testing.assert_close(ours[i]["exp_avg"], moments["exp_avg"], atol=2e-5, rtol=1e-3)


def test_ddp_over_two_ranks_equals_one_process_with_the_double_batch(two_ranks, alone):
    compare(two_ranks / "ddp", alone)
    assert read_metrics(two_ranks / "ddp" / "metrics.jsonl")[-1] == {
        "step": 4,
        "evaluation": {"one": 1},
    }


def test_fsdp_resumed_halfway_equals_one_process_with_the_double_batch(two_ranks, tmp_path):
    loader = ToyLoader(batch_size=4)
    halves = {"optim": STEADY, "log_every": 1, "accumulate": 2}
    train(Toy(), loader, toy_config(steps=2, **halves), tmp_path)
    train(Toy(), loader, toy_config(steps=4, **halves), tmp_path, resume=True)
    compare(two_ranks / "fsdp", tmp_path)


def test_a_state_of_two_ranks_can_be_resumed_by_one(two_ranks, tmp_path):
    out = tmp_path / "fsdp"
    out.mkdir()
    for name in ("metrics.jsonl", "state-00000004.pt"):
        (out / name).write_bytes((two_ranks / "fsdp" / name).read_bytes())
    result = train(
        Toy(),
        ToyLoader(batch_size=4),
        toy_config(optim=STEADY, steps=6, log_every=1, accumulate=2),
        out,
        resume=True,
    )
    assert result.steps == 6


def test_a_loss_that_is_not_finite_on_one_rank_stops_all_with_the_same_message(two_ranks):
    said = [(two_ranks / f"poisoned-{rank}.txt").read_text() for rank in range(2)]
    assert said[0] == said[1]
    assert said[0].startswith("step 2: not finite: brightness = nan") and "photo-1-3.jpg" in said[0]
    assert "photo-1-0.jpg" not in said[0]  # that one was on the healthy rank


def test_units_that_do_not_exist_are_named(monkeypatch):
    from humanquery.engine import distributed

    monkeypatch.setattr(distributed, "world_size", lambda: 1)
    monkeypatch.setattr(distributed.dist, "broadcast", lambda tensor, src: None)
    monkeypatch.setattr("torch.distributed.device_mesh.init_device_mesh", lambda *a: None)
    with pytest.raises(ConfigError, match="no module of Toy is called 'encoder.*'"):
        distributed._shard(Toy(), torch.device("cpu"), ("encoder.*",))
