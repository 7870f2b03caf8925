"""Losses that are absent, and parameters that learn from some data sets alone; in one process and
in two."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from humanquery.core.errors import ConfigError, TrainingError
from humanquery.core.ranks import rank
from humanquery.engine.distributed import joined_ranks
from humanquery.engine.optim import OptimConfig, SharedBy
from humanquery.engine.train_config import EngineConfig
from humanquery.engine.trainer import Trainer
from tests.engine.two_ranks import run_in_two_ranks

CPU = torch.device("cpu")
ONLY_B = SharedBy("heads.b", ("b",))
A, B = ("a", torch.tensor([1.0, 0.0])), ("b", torch.tensor([0.0, 2.0]))
"""two data sets, of which each has labels for its own head alone"""


class TwoHeads(nn.Module):
    """One loss per head: trunk · head · what the batch has for that head."""

    loss_names = ("a", "b", "never")

    def __init__(self, **names):
        super().__init__()
        self.trunk = nn.Parameter(torch.tensor(2.0))
        heads = {"a": nn.Parameter(torch.tensor(3.0)), "b": nn.Parameter(torch.tensor(5.0))}
        self.heads = nn.ParameterDict(heads)
        self.names = names
        """of the losses, where they are not the heads'"""

    def forward(self, given: Tensor) -> dict[str, Tensor]:
        return {
            self.names.get(name, name): self.trunk * self.heads[name] * value
            for name, value in zip("ab", given, strict=True)
            if value != 0
        }


def trainer_of(system: nn.Module, *shared: SharedBy, **optim) -> Trainer:
    config = OptimConfig(shared=shared, clip=0.0, lr=0.1, **optim)
    trainer = Trainer(system, EngineConfig(optim=config, find_unused_parameters=True), CPU)
    trainer.begin()
    return trainer


def gradients(trainer: Trainer, batches: list) -> dict[str, float | None]:
    """What the optimizer is given in one step."""
    found = {}

    def look(optimizer, *_):
        named = trainer.system.named_parameters()
        found.update({n: None if p.grad is None else p.grad.item() for n, p in named})

    hook = trainer.optimizer.register_step_pre_hook(look)
    trainer.step(batches)
    hook.remove()
    return found


def test_a_loss_that_a_batch_lacks_counts_nothing():
    trainer = trainer_of(TwoHeads())
    step = trainer.step([A[1]])
    assert trainer.names == ("a", "b", "never")
    assert step.losses.tolist() == [6.0, 0.0, 0.0]


def test_means_over_micro_batches_count_those_that_lack_the_loss():
    trainer = trainer_of(TwoHeads())
    found = gradients(trainer, [A[1], B[1], 4 * A[1]])
    # losses a: 6 and 24 of three micro-batches, b: 20 of three
    assert found["heads.a"] == pytest.approx(2 * (1 + 4) / 3)
    assert found["heads.b"] == pytest.approx(2 * 2 / 3)
    assert found["trunk"] == pytest.approx((3 * 1 + 5 * 2 + 3 * 4) / 3)


def test_a_loss_that_was_not_declared_is_refused_before_the_step():
    trainer = trainer_of(TwoHeads(a="mask"))
    with pytest.raises(TrainingError, match=r"step 1: losses \['mask'\] of TwoHeads are not among"):
        trainer.step([A[1]])
    trainer = trainer_of(TwoHeads(a="mask"))
    with pytest.raises(TrainingError, match=r"\['a', 'b', 'never'\]; declare them there"):
        trainer.step([A[1] + B[1]])
    assert trainer.system.trunk.item() == 2.0 and trainer.system.trunk.grad is None
    assert trainer.step([B[1]]).losses.tolist() == [0.0, 20.0, 0.0]  # the next may go on


def test_a_batch_without_any_loss_is_refused():
    with pytest.raises(TrainingError, match="TwoHeads gave no loss; expected at least one of its"):
        trainer_of(TwoHeads()).step([torch.zeros(2)])


def test_a_group_learns_from_its_data_sets_alone_and_with_their_weights():
    batches = [A, B, ("a", torch.tensor([4.0, 7.0]))]
    plain = gradients(trainer_of(TwoHeads(), ONLY_B), batches)
    assert plain["heads.b"] == pytest.approx(2 * 2 / 3)  # the 7 came from the other data set
    assert plain["heads.a"] == pytest.approx(2 * (1 + 4) / 3)
    assert plain["trunk"] == pytest.approx((3 * (1 + 4) + 5 * (2 + 7)) / 3)
    weighed = gradients(
        trainer_of(TwoHeads(), SharedBy("heads.*", ("b", "a"), (0.5, 2.0))), batches
    )
    assert weighed["heads.b"] == pytest.approx(0.5 * 2 * 2 + 2.0 * 2 * 7)
    assert weighed["heads.a"] == pytest.approx(2.0 * 2 * (1 + 4))
    assert weighed["trunk"] == pytest.approx(plain["trunk"])


def test_the_first_group_that_matches_counts():
    shared = (SharedBy("heads.a", ("b",), (9.0,)), SharedBy("heads.*", ("a",), (1.0,)))
    found = gradients(trainer_of(TwoHeads(), *shared), [A, ("b", torch.tensor([1.0, 2.0]))])
    assert found["heads.a"] == pytest.approx(9.0 * 2 * 1)
    assert found["heads.b"] == 0.0


def test_a_group_without_data_in_a_step_stands_still_in_spite_of_momentum_and_decay():
    trainer = trainer_of(TwoHeads(), ONLY_B, weight_decay=0.5)
    trainer.step([A, B])
    before = {name: value.item() for name, value in trainer.system.named_parameters()}
    assert gradients(trainer, [A])["heads.b"] is None
    after = {name: value.item() for name, value in trainer.system.named_parameters()}
    assert after["heads.b"] == before["heads.b"] and after["heads.a"] != before["heads.a"]


def test_another_data_sets_broken_gradient_does_not_reach_a_group():
    class Steep(TwoHeads):
        def forward(self, given):
            root = (self.heads["b"] * 0).abs().sqrt()  # its gradient is NaN
            return super().forward(given) | {"never": root}

    assert gradients(trainer_of(Steep(), ONLY_B), [A, A])["heads.b"] is None
    shared = SharedBy("heads.b", ("a",), (0.0,))
    assert gradients(trainer_of(Steep(), shared), [A])["heads.b"] == 0.0


def test_groups_need_the_names_of_data_sets_and_are_not_for_fsdp(monkeypatch):
    with pytest.raises(TrainingError, match=r"expected \(name, batch\) pairs, got a batch alone"):
        trainer_of(TwoHeads(), ONLY_B).step([A, B[1]])
    monkeypatch.setattr("humanquery.engine.trainer.world_size", lambda: 2)
    config = EngineConfig(optim=OptimConfig(shared=(ONLY_B,)), parallel="fsdp")
    with pytest.raises(ConfigError, match="optim.shared: FSDP's .* expected engine.parallel=ddp"):
        Trainer(TwoHeads(), config, CPU).begin()


def test_a_finished_trainer_leaves_no_hooks_behind():
    trainer = trainer_of(TwoHeads(), SharedBy("heads.b", ("b",), (9.0,)))
    trainer.step([A, B])
    trunk = trainer.finish()["trunk"].item()
    assert gradients(trainer_of(trainer.system), [B])["heads.b"] == pytest.approx(trunk * 2)


# -- two ranks


PARTS = (0.25, 0.75)
"""of every batch, before each rank"""
STEP = [A, B, ("a", torch.tensor([4.0, 7.0])), B]


def learn_in_ranks(out: Path) -> None:
    with joined_ranks("cpu"):
        part = PARTS[rank()]
        mine = [(name, given * part) for name, given in STEP]
        shared = (SharedBy("heads.b", ("b",)), SharedBy("heads.a", ("a",), (2.0,)))
        found = {"groups": gradients(trainer_of(TwoHeads(), *shared), mine)}
        lacking = [torch.tensor([3.0, 1.0]) if rank() else torch.tensor([1.0, 0.0])]
        found["lacking"] = gradients(trainer_of(TwoHeads()), lacking)
        found["messages"] = [
            message(trainer_of(TwoHeads(**({"a": "mask"} if rank() else {}))), [STEP[2][1]]),
            message(trainer_of(TwoHeads()), [B if rank() else A]),
        ]
        torch.save(found, out / f"{rank()}.pt")


def message(trainer: Trainer, batches: list) -> str:
    with pytest.raises(TrainingError) as stopped:
        trainer.step(batches)
    assert trainer.system.trunk.item() == 2.0
    return str(stopped.value)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> list[dict]:
    out = tmp_path_factory.mktemp("ranks")
    run_in_two_ranks(learn_in_ranks, out)
    return [torch.load(out / f"{rank}.pt") for rank in range(2)]


def test_two_ranks_weigh_the_gradients_of_groups_as_one_process_does(two_ranks):
    shared = (SharedBy("heads.b", ("b",)), SharedBy("heads.a", ("a",), (2.0,)))
    alone = gradients(trainer_of(TwoHeads(), *shared), STEP)
    assert alone["heads.b"] == pytest.approx(2 * (2 + 2) / 4)
    for of_rank in two_ranks:
        assert of_rank["groups"] == pytest.approx(alone)


def test_a_loss_that_one_rank_lacks_counts_what_the_other_has(two_ranks):
    for of_rank in two_ranks:
        assert of_rank["lacking"] == pytest.approx(
            {"heads.a": 2 * 4, "heads.b": 2 * 1, "trunk": 3 * 4 + 5 * 1}
        )


def test_what_is_wrong_on_one_rank_is_told_by_both(two_ranks):
    undeclared, data_sets = zip(*(of_rank["messages"] for of_rank in two_ranks), strict=True)
    assert undeclared[0] == undeclared[1] and "['mask'] of TwoHeads are not among" in undeclared[0]
    assert data_sets[0] == data_sets[1]
    assert "different data sets: [['a'], ['b']]; micro-batch i must be" in data_sets[0]
