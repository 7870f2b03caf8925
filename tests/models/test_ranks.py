"""HQNet in two processes that each look at their own half of a batch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from humanquery.core.errors import TrainingError
from humanquery.core.ranks import rank
from humanquery.engine.distributed import joined_ranks
from humanquery.engine.train_config import EngineConfig
from humanquery.engine.trainer import Trainer
from humanquery.models.hqnet.hqnet import HQNet
from humanquery.tasks.base import Draws
from tests.engine.two_ranks import run_in_two_ranks
from tests.models.small import batch, crowd, nobody, small_config, small_model

PICTURES = [crowd(), crowd(), nobody(), crowd()[[0]]]
"""five people: four before the first rank, one before the second"""


def undrawn_model() -> HQNet:
    """Without random draws: neither denoising nor masks, whose numbers would differ between
    ranks."""
    return small_model(replace(small_config(mask=None), denoising=None))


def losses_and_gradients(targets, images) -> dict[str, torch.Tensor]:
    model = undrawn_model().eval()  # batch norms see their rank only
    losses = model(replace(batch(targets), images=images), Draws())
    sum(losses.values()).backward()
    gradients = {f"grad {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()} | gradients


def look_in_ranks(out: Path) -> None:
    """Losses and gradients of this rank's pictures; then steps of which the second meets a picture
    of NaN before rank 1, and later one of weights that are NaN on every rank."""
    images = batch(PICTURES).images
    with joined_ranks("cpu") as device:
        mine = slice(2 * rank(), 2 * rank() + 2)
        torch.save(losses_and_gradients(PICTURES[mine], images[mine]), out / f"{rank()}.pt")
        named = batch(PICTURES[mine])
        metas = [replace(meta, path=f"{rank()}-{i}.jpg") for i, meta in enumerate(named.metas)]
        named = replace(named, metas=metas)
        # without masks nobody reads the finest map of the neck
        config = EngineConfig(find_unused_parameters=True)
        trainer = Trainer(undrawn_model(), config, device)
        trainer.begin()
        trainer.step([named])
        broken = named.images.clone()
        broken[1] = float("nan") if rank() else broken[1]
        told = message_of(trainer, replace(named, images=broken))
        (out / f"picture-{rank()}.txt").write_text(told)
        torch.nn.init.constant_(trainer.system.content.weight, float("nan"))
        (out / f"weights-{rank()}.txt").write_text(message_of(trainer, named))


def message_of(trainer: Trainer, pictures) -> str:
    before = [p.detach().clone() for p in trainer.system.parameters()]
    with pytest.raises(TrainingError) as stopped:
        trainer.step([pictures])
    for old, now in zip(before, trainer.system.parameters(), strict=True):
        torch.testing.assert_close(old, now.detach(), atol=0, rtol=0, equal_nan=True)
        assert now.grad is None
    return str(stopped.value)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("ranks")
    run_in_two_ranks(look_in_ranks, out)
    return out


def test_the_losses_of_two_ranks_sum_to_those_of_one_process_with_both_halves(two_ranks):
    """Four people before one rank and one before the other: a mean of local means would not do."""
    first, second = (torch.load(two_ranks / f"{rank}.pt") for rank in range(2))
    joint = losses_and_gradients(PICTURES, batch(PICTURES).images)
    assert joint.keys() == first.keys() == second.keys()
    largest = max(float(g.abs().max()) for n, g in joint.items() if n.startswith("grad"))
    for name, value in joint.items():
        scale = largest if name.startswith("grad") else max(1.0, float(value))
        torch.testing.assert_close(
            first[name] + second[name], value, atol=1e-5 * scale, rtol=1e-4, msg=name
        )


def test_a_prediction_that_is_not_finite_on_one_rank_stops_all_with_the_same_message(two_ranks):
    """The healthy rank must not wait for the other's part of a sum."""
    told = [(two_ranks / f"picture-{rank}.txt").read_text() for rank in range(2)]
    assert told[0] == told[1]
    assert told[0].startswith("step 2: matching at proposals") and "1-1.jpg" in told[0]
    assert "1-0.jpg" not in told[0] and "0-0.jpg" not in told[0]
    assert "Losses before: total" in told[0] and "layer1." in told[0]


def test_weights_that_are_not_finite_on_all_ranks_give_one_message_with_the_pictures_of_all(
    two_ranks,
):
    told = [(two_ranks / f"weights-{rank}.txt").read_text() for rank in range(2)]
    assert told[0] == told[1] and told[0].count("step 2") == 1
    assert all(f"{picture}.jpg" in told[0] for picture in ("0-0", "0-1", "1-1"))
    assert "1-0.jpg" not in told[0]  # nobody stands in that one: there is nothing to match
