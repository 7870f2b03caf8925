import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from humanquery.core.config import from_plain, override
from humanquery.core.errors import ConfigError, TrainingError
from humanquery.engine.checkpoint import load_state, read_weights
from humanquery.engine.loop import TrainingInterrupted, train
from humanquery.engine.optim import OptimConfig
from humanquery.engine.state import (
    latest,
    random_state,
    read_metrics,
    read_state,
    seed_everything,
    set_random_state,
)
from humanquery.engine.train_config import EngineConfig
from humanquery.ops.depthwise import StridedDepthwise
from tests.engine.toy import LONG, LONG_TOY, Toy, ToyConfig, ToyLoader, toy_config


def learned(out: Path) -> dict:
    """Everything of a run that must not depend on interruptions: weights, state, metrics without
    times."""
    state = read_state(latest(out))
    del state["seconds"]
    for of_rank in state["ranks"]:
        del of_rank["random"]["python"]  # beartype, which checks shapes in tests, draws from it
    timed = ("time", "images_per_s")
    lines = [
        {k: v for k, v in r.items() if k not in timed} for r in read_metrics(out / "metrics.jsonl")
    ]
    return {"weights": load_file(out / "model.safetensors"), "state": state, "lines": lines}


def assert_same(a, b, where="run"):
    """Bit for bit, through nested dicts, lists and tensors."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_same(left, right, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    else:
        assert a == b, where


def test_a_run_learns_and_leaves_its_files(tmp_path, capsys):
    result = train(
        Toy(), ToyLoader(), toy_config(steps=40, log_every=10), tmp_path, card={"name": "toy"}
    )
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 10, 20, 30, 40]
    assert set(lines[0]) == {
        "step",
        "time",
        "total",
        "brightness",
        "people",
        "lr",
        "grad_norm",
        "images_per_s",
    }
    assert lines[-1]["total"] < 0.6 * lines[0]["total"]
    assert lines[-1]["total"] == pytest.approx(lines[-1]["brightness"] + lines[-1]["people"])
    assert result.losses == {name: lines[-1][name] for name in ("total", "brightness", "people")}
    weights = read_weights(result.weights)
    assert weights.card["name"] == "toy" and weights.card["training"]["steps"] == 40
    load_state(Toy(from_plain(ToyConfig, weights.config)), weights.state)
    plain = json.loads((tmp_path / "config.json").read_text())
    assert from_plain(EngineConfig, plain["engine"]) == toy_config(steps=40, log_every=10)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
        "state-00000040.pt",
    ]
    assert "step 40/40  loss" in capsys.readouterr().out


def test_a_run_of_no_steps_writes_the_first_weights(tmp_path):
    result = train(Toy(), ToyLoader(), toy_config(steps=0), tmp_path)
    assert result.steps == 0 and result.losses == {}
    assert_same(read_weights(result.weights).state, dict(Toy().state_dict()))


def test_logged_losses_are_means_since_the_last_line(tmp_path):
    config = toy_config(steps=4, optim=OptimConfig(lr=0.0))
    train(Toy(), ToyLoader(), replace(config, log_every=1), tmp_path / "each")
    train(Toy(), ToyLoader(), replace(config, log_every=4), tmp_path / "all")
    each = [line["people"] for line in read_metrics(tmp_path / "each" / "metrics.jsonl")]
    last = read_metrics(tmp_path / "all" / "metrics.jsonl")[-1]
    assert last["people"] == pytest.approx(
        sum(each[1:]) / 3
    )  # the first step has a line of its own


def test_two_micro_batches_equal_one_of_twice_the_size(tmp_path):
    plain = toy_config(steps=5, log_every=1)
    big = ToyLoader(batch_size=4, same_people=True)

    class Halves:
        def batches(self, start):
            for i in range(start, 10_000):
                whole = big.batch(i // 2)
                part = slice(0, 2) if i % 2 == 0 else slice(2, 4)
                yield replace(
                    whole,
                    images=whole.images[part],
                    padding=whole.padding[part],
                    metas=whole.metas[part],
                    targets=whole.targets[part],
                )

    train(Toy(), big, plain, tmp_path / "big")
    train(Toy(), Halves(), replace(plain, accumulate=2), tmp_path / "halves")
    ours, theirs = learned(tmp_path / "halves"), learned(tmp_path / "big")
    for name, value in theirs["weights"].items():
        torch.testing.assert_close(ours["weights"][name], value, atol=1e-5, rtol=1e-5)
    for a, b in zip(ours["lines"], theirs["lines"], strict=True):
        assert a == pytest.approx(b, rel=1e-4)


STOCHASTIC = toy_config(steps=11, accumulate=2, log_every=3)


@pytest.mark.parametrize("stop_after", [1, 4, 6])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, stop_after):
    def noise(i):
        random.random(), np.random.rand(), torch.rand(1 + i % 2)

    def stop(i):
        noise(i)
        if i == 2 * stop_after - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    train(Toy(LONG_TOY), ToyLoader(act=noise), STOCHASTIC, tmp_path / "whole")
    with pytest.raises(TrainingInterrupted) as left:
        train(Toy(LONG_TOY), ToyLoader(act=stop), STOCHASTIC, tmp_path / "parts")
    assert f"stopped by SIGTERM after step {stop_after} of 11" in str(left.value)
    assert "--resume" in str(left.value)
    seed_everything(99)
    train(Toy(LONG_TOY), ToyLoader(act=noise), STOCHASTIC, tmp_path / "parts", resume=True)
    assert_same(learned(tmp_path / "parts"), learned(tmp_path / "whole"))


def test_every_generator_goes_on_where_its_state_was_taken():
    seed_everything(3)
    random.gauss(0, 1), np.random.randn()  # leaves the second number of a pair behind in each
    state = random_state(torch.device("cpu"))

    def draw():
        return [
            random.gauss(0, 1),
            random.random(),
            np.random.randn(),
            np.random.rand(),
            torch.rand(1).item(),
        ]

    first = draw()
    seed_everything(4)
    assert draw() != first
    set_random_state(state, torch.device("cpu"))
    assert draw() == first


def test_looking_at_a_run_does_not_change_it(tmp_path):
    def look(system):
        torch.rand(1), random.random(), np.random.rand()
        assert not system.training
        return {"AP": float("nan"), "box": {"AP50": torch.tensor(0.5)}}

    def paint(system):
        return {"noise": np.random.randint(0, 255, (4, 6, 3), np.uint8)}

    config = toy_config(steps=6, evaluate_every=2, pictures_every=3)
    train(Toy(LONG_TOY), ToyLoader(), config, tmp_path / "blind")
    result = train(
        Toy(LONG_TOY), ToyLoader(), config, tmp_path / "seen", evaluate=look, illustrate=paint
    )
    seen, blind = learned(tmp_path / "seen"), learned(tmp_path / "blind")
    assert [r["step"] for r in seen["lines"] if "evaluation" in r] == [2, 4, 6]
    assert result.evaluation == {"AP": None, "box": {"AP50": 0.5}}
    assert sorted(p.name for p in (tmp_path / "seen/pictures").iterdir()) == [
        "00000003-noise.png",
        "00000006-noise.png",
    ]
    seen["lines"] = [r for r in seen["lines"] if "evaluation" not in r]
    assert_same(seen, blind)


def test_evaluation_sees_the_weights_that_are_shipped(tmp_path):
    seen = {}

    def look(system):
        seen.update({name: value.clone() for name, value in system.state_dict().items()})
        return {}

    toy = Toy(LONG_TOY)
    result = train(toy, ToyLoader(), toy_config(), tmp_path, evaluate=look)
    shipped = read_weights(result.weights).state
    assert_same(seen, shipped)
    assert not torch.equal(toy.head.weight, shipped["head.weight"])  # averaged, not the last


def test_a_run_killed_at_any_moment_goes_on_as_if_nothing_had_happened(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    threads = f"--threads={torch.get_num_threads()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.engine.toy", str(killed), threads],
        stdout=subprocess.DEVNULL,
    )
    try:
        train(Toy(LONG_TOY), ToyLoader(), toy_config(**LONG), whole)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and (
            latest(killed) is None or latest(killed).stem < "state-00000012"
        ):
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert latest(killed).stem < "state-00000060", "the run ended before it could be killed"
    with open(killed / "metrics.jsonl", "a") as metrics:
        metrics.write(
            '{"step": 59, "total": 1.0}\n{"step": 60, "to'
        )  # written after the last state; cut off
    train(Toy(LONG_TOY), ToyLoader(), toy_config(**LONG), killed, resume=True)
    assert_same(learned(killed), learned(whole))
    steps = [line["step"] for line in read_metrics(killed / "metrics.jsonl")]
    assert steps == [1, *range(2, 61, 2)]


def test_a_broken_newest_state_costs_only_the_steps_since_the_one_before(tmp_path):
    config = toy_config(steps=10, checkpoint_steps=4)
    train(Toy(LONG_TOY), ToyLoader(), config, tmp_path / "whole")
    train(Toy(LONG_TOY), ToyLoader(), config, tmp_path / "broken")
    path = latest(tmp_path / "broken")
    path.write_bytes(path.read_bytes()[:1000])
    (tmp_path / "broken" / ".state-00000012.pt.unfinished").write_bytes(b"half")
    train(Toy(LONG_TOY), ToyLoader(), config, tmp_path / "broken", resume=True)
    assert_same(learned(tmp_path / "broken"), learned(tmp_path / "whole"))
    assert not list((tmp_path / "broken").glob(".*"))


def test_a_finished_run_resumed_writes_its_weights_again_and_can_be_made_longer(tmp_path):
    config = toy_config(
        steps=4, optim=OptimConfig(lr=1e-2, schedule="constant", ema=0.5), log_every=1
    )
    train(Toy(), ToyLoader(), config, tmp_path / "a")
    first = learned(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").unlink()
    train(Toy(), ToyLoader(), config, tmp_path / "a", resume=True)
    assert_same(learned(tmp_path / "a"), first)
    train(Toy(), ToyLoader(), replace(config, steps=7), tmp_path / "a", resume=True)
    train(Toy(), ToyLoader(), replace(config, steps=7), tmp_path / "b")
    assert_same(learned(tmp_path / "a"), learned(tmp_path / "b"))


def test_resuming_nothing_begins_and_beginning_twice_is_refused(tmp_path):
    train(Toy(), ToyLoader(), toy_config(steps=1), tmp_path, resume=True)
    with pytest.raises(
        ConfigError, match="a run is here already; go on with --resume, or choose another --out"
    ):
        train(Toy(), ToyLoader(), toy_config(steps=1), tmp_path)


def test_resuming_with_another_config_names_what_changed(tmp_path):
    train(Toy(), ToyLoader(), toy_config(steps=1), tmp_path)
    other = override(toy_config(steps=9, log_every=5), ["optim.lr=0.5", "seed=3"])
    with pytest.raises(ConfigError) as refused:
        train(Toy(ToyConfig(width=9)), ToyLoader(), other, tmp_path, resume=True)
    message = str(refused.value)
    assert "system.width: 8 -> 9" in message
    assert "engine.optim.lr: 0.01 -> 0.5" in message and "engine.seed: 0 -> 3" in message
    assert "log_every" not in message
    assert "engine.steps: 1 -> 9" in message  # a cosine over nine steps is another schedule


def test_a_loss_that_is_not_finite_stops_before_the_step_and_is_named(tmp_path):
    toy, good = Toy(), Toy()
    train(good, ToyLoader(), toy_config(steps=2), tmp_path / "good")
    with pytest.raises(TrainingError) as stopped:
        train(toy, ToyLoader(poison=2), toy_config(), tmp_path / "bad")
    message = str(stopped.value)
    assert message.startswith("step 3: not finite: brightness = nan, people = nan")
    assert "photo-2-0.jpg, photo-2-1.jpg" in message
    assert all(p.isfinite().all() and p.grad is None for p in toy.parameters())


def test_infinite_gradients_of_finite_losses_stop_the_run_too(tmp_path):
    class Steep(Toy):
        def forward(self, batch):
            return {"root": (self.answer(batch.images) * 0).abs().sqrt().sum()}

    toy = Steep()
    before = toy.head.weight.clone()
    with pytest.raises(
        TrainingError, match="all losses are finite, but the norm of their gradients is nan"
    ):
        train(toy, ToyLoader(), toy_config(), tmp_path)
    assert torch.equal(toy.head.weight, before)


@pytest.mark.parametrize(
    "losses, message",
    [
        (lambda answers: {}, "at least one"),
        (
            lambda answers: {"each": answers},
            r"every loss must be one number, but each has shape \[2\]",
        ),
        (
            lambda answers: {"one": answers.sum().detach()},
            "no trainable parameter has a part in the losses one",
        ),
    ],
)
def test_what_is_no_loss_is_refused(tmp_path, losses, message):
    class Wrong(Toy):
        def forward(self, batch):
            return losses(self.answer(batch.images))

    with pytest.raises(TrainingError, match=message):
        train(Wrong(), ToyLoader(), toy_config(), tmp_path)


def test_loss_names_that_change_and_loaders_that_end_are_refused(tmp_path):
    class Fickle(Toy):
        calls = 0

        def forward(self, batch):
            self.calls += 1
            return {f"loss{self.calls // 2}": self.answer(batch.images).sum()}

    with pytest.raises(TrainingError, match=r"step 2: losses \['loss1'\], expected \['loss0'\]"):
        train(Fickle(), ToyLoader(), toy_config(), tmp_path / "a")

    class Short:
        def batches(self, start):
            yield from (ToyLoader().batch(i) for i in range(start, 3))

    with pytest.raises(TrainingError, match="step 4: the loader has no more batches"):
        train(Toy(), Short(), toy_config(), tmp_path / "b")


def test_ctrl_c_while_the_loader_fails_saves_the_finished_steps(tmp_path):
    def act(i):
        if i == 5:
            os.kill(os.getpid(), signal.SIGINT)
            raise RuntimeError("DataLoader worker (pid 1) exited unexpectedly")

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted, match="SIGINT after step 5 of 12"):
        train(Toy(LONG_TOY), ToyLoader(act=act), toy_config(), tmp_path / "a")
    assert signal.getsignal(signal.SIGINT) is handler
    train(Toy(LONG_TOY), ToyLoader(), toy_config(), tmp_path / "a", resume=True)
    train(Toy(LONG_TOY), ToyLoader(), toy_config(), tmp_path / "b")
    assert_same(learned(tmp_path / "a"), learned(tmp_path / "b"))


def test_bf16_and_channels_last_learn_nearly_the_same(tmp_path):
    steps = {"steps": 10, "log_every": 5}
    exact = train(Toy(), ToyLoader(), toy_config(**steps), tmp_path / "fp32")
    rough = train(
        Toy(),
        ToyLoader(),
        toy_config(precision="bf16", channels_last=True, deterministic=True, **steps),
        tmp_path / "b",
    )
    assert rough.losses["total"] == pytest.approx(exact.losses["total"], rel=0.05)
    assert rough.losses["total"] != exact.losses["total"]
    assert not torch.are_deterministic_algorithms_enabled()
    assert all(v.dtype == torch.float32 for v in read_weights(rough.weights).state.values())


def test_states_are_written_by_the_clock(tmp_path):
    config = toy_config(steps=4, checkpoint_minutes=1e-9)
    seen = []
    train(Toy(), ToyLoader(act=lambda i: seen.append(latest(tmp_path))), config, tmp_path)
    assert [path and path.name for path in seen] == [None] + [
        f"state-0000000{i}.pt" for i in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"steps": -1}, "engine.steps: got -1, expected at least 0"),
        ({"accumulate": 0}, "engine.accumulate: got 0, expected at least 1"),
        ({"evaluate_every": -5}, "engine.evaluate_every: got -5, expected 0"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        EngineConfig(**fields)


def test_a_device_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="got 'gpu', expected auto, cpu, cuda or cuda:N"):
        train(Toy(), ToyLoader(), toy_config(device="gpu"), tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="finds no CUDA device here"):
            train(Toy(), ToyLoader(), toy_config(device="cuda"), tmp_path)


@pytest.mark.slow
def test_tensorboard_gets_the_same_numbers(tmp_path):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    train(
        Toy(),
        ToyLoader(),
        toy_config(tensorboard=True, steps=4),
        tmp_path,
        evaluate=lambda system: {"AP": 0.25},
    )
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    totals = [(e.step, e.value) for e in events.Scalars("total")]
    assert totals == [(r["step"], pytest.approx(r["total"])) for r in lines if "total" in r]
    assert [e.value for e in events.Scalars("evaluation/AP")] == [0.25]


@pytest.mark.parametrize("capability, kind", [("AVX512", StridedDepthwise), ("AVX2", nn.Conv2d)])
def test_training_takes_the_depthwise_convolutions_that_are_fast_here(
    tmp_path, monkeypatch, capability, kind
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    system, width = Toy(), Toy().config.width
    system.backbone.append(nn.Conv2d(width, width, 1, stride=2, groups=width))
    train(system, ToyLoader(), toy_config(steps=1), tmp_path)
    assert type(system.backbone[-1]) is kind
