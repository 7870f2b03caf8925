"""One optimizer step of any system: what the training loop, benchmarks and the training of a part
have in common. Folders, logs and saved states are `engine.loop`'s."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from humanquery.core.errors import ConfigError, NonFiniteError, TrainingError
from humanquery.core.ranks import rank, sum_over_ranks, world_size
from humanquery.engine.checkpoint import load_state
from humanquery.engine.distributed import any_rank, gathered, gradient_sync, placed_like, share
from humanquery.engine.optim import (
    WeightAverage,
    build_optimizer,
    clip_gradients,
    matching,
    set_lr,
    whole,
)
from humanquery.engine.state import seed_everything
from humanquery.engine.train_config import EngineConfig
from humanquery.ops.depthwise import pays_off, use_fast_depthwise

SHOWN_LOSSES = 5
_PLACED = ("exp_avg", "exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col", "RMS")
"""moments of an optimizer, which lie where their parameter does"""


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """What one optimizer step gave, on the device: reading it waits for the device."""

    losses: Float[Tensor, " n"]
    """means over the micro-batches of this rank, in the order of `Trainer.names`"""
    norm: Float[Tensor, ""]
    """of all gradients together, before clipping"""
    flags: list[bool]
    """those handed in, each true if it is on any rank"""


class Trainer:
    """A system with its optimizer and the average of its weights: `begin`, then `step` as often as
    wanted, then `finish`.

    A system may declare `loss_names`: then a batch, or a rank, may lack some of them, which count
    as 0, and a name outside of them is an error. Without it every batch must give the names of the
    first one.
    """

    def __init__(
        self, system: nn.Module, config: EngineConfig, device: torch.device, *, copied: bool = False
    ):
        self.system, self.config, self.device = system, config, device
        self.system_config = getattr(system, "config", None)  # FSDP changes the class of `system`
        self.declared = tuple(getattr(system, "loss_names", None) or ())
        self.names: tuple[str, ...] | None = tuple(sorted(self.declared)) or None
        self.done = 0
        """optimizer steps"""
        self.copied = copied
        self.hooks: list = []
        self.copy: nn.Module | None = None
        """of the system, in eval mode and never shared between ranks; only if asked for"""
        self.lr = 0.0
        self._last: Tensor | None = None
        self._problems: list[str] = []  # of this rank's losses in this step
        self._factors: dict[int, float] = {}  # of the groups of `optim.shared`, in this micro-batch

    # ------------------------------------------------------------------ begin

    def begin(self, state: dict[str, Any] | None = None) -> None:
        """Puts the system on the device, shares it between the ranks and builds the optimizer; with
        the `state` of an earlier trainer all goes on from there.

        ConfigError where the optimizer of the state has other groups of parameters.
        """
        if state is not None:
            load_state(self.system, state["model"])
        if pays_off():
            use_fast_depthwise(self.system)
        layout = {"memory_format": torch.channels_last} if self.config.channels_last else {}
        self.system.to(self.device, **layout).train()
        if self.copied:
            self.copy = copy.deepcopy(self.system).eval()
        self.hooks = self._weigh_shared()
        self.model = share(
            self.system,
            self.config.parallel,
            self.device,
            units=self.config.fsdp_units,
            unused=self.config.find_unused_parameters,
        )
        self.optimizer = build_optimizer(self.system, self.config.optim)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.average = (
            WeightAverage(self.system, self.config.optim.ema) if self.config.optim.ema else None
        )
        seed_everything(self.config.seed + 1_000_003 * rank())  # each rank its own dropout
        if state is not None:
            self._restore(state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.done = state["step"]
        given = state["optimizer"]
        sizes = [
            [len(g["params"]) for g in of]
            for of in (given["param_groups"], self.optimizer.param_groups)
        ]
        if sizes[0] != sizes[1]:
            raise ConfigError(
                f"the optimizer was saved with groups of {sizes[0]} parameters, this one has "
                f"{sizes[1]}: its moments fit no longer. Set optim.groups, layer_decay, only and "
                f"exempt_norms_and_biases back, or start another run from its weights"
            )
        placed = {
            index: {
                k: placed_like(v, self.parameters[index]) if k in _PLACED else v
                for k, v in of_one.items()
            }
            for index, of_one in given["state"].items()
        }
        now = [
            {k: g[k] for k in ("multiplier", "weight_decay", "betas", "beta1") if k in g}
            for g in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict({**given, "state": placed})
        for group, wanted in zip(self.optimizer.param_groups, now, strict=True):
            group |= wanted  # the config's, not the state's: changes may have been allowed
        if self.average and state["average"]:
            self.average.updates = state["average"]["updates"]
            for name, value in self.average.state.items():
                value.copy_(placed_like(state["average"]["state"][name], value))
        if not self.declared and state["names"]:
            self.names = tuple(state["names"])

    def _weigh_shared(self) -> list:
        """Hooks that weigh the gradients of `optim.shared` in each micro-batch.

        Of the parameters, so that they run before DDP takes a gradient into its exchange.
        """
        shared = self.config.optim.shared
        if not shared:
            return []
        if self.config.parallel == "fsdp" and world_size() > 1:
            raise ConfigError(
                "optim.shared: FSDP's parameters are pieces that gradients never reach one by one; "
                "expected engine.parallel=ddp"
            )
        named = dict(self.system.named_parameters())
        group_of = matching(named, [group.pattern for group in shared], "optim.shared")
        self._members = [
            [named[n] for n, g in group_of.items() if g == i] for i in range(len(shared))
        ]
        return [
            named[name].register_hook(lambda grad, group=group: self._weighed(grad, group))
            for name, group in group_of.items()
            if named[name].requires_grad
        ]

    def _weighed(self, grad: Tensor, group: int) -> Tensor:
        factor = self._factors[group]
        return grad * factor if factor else torch.zeros_like(grad)  # 0 × NaN would be NaN

    # ------------------------------------------------------------------- step

    def step(self, batches: Sequence[Any], flags: Sequence[bool] = ()) -> Step:
        """One optimizer step over micro-batches: `Batch`es, or (name of the data set, `Batch`).

        What is minimised is the mean over the micro-batches of the sum of all losses; for
        parameters in `OptimConfig.shared` gradients are summed as it says. Over several ranks
        micro-batch i is of the same data set everywhere.

        TrainingError before any weight has changed: a loss or a gradient is not finite on any rank
        (which losses, of which pictures), or the losses are no losses.
        """
        pairs = [b if isinstance(b, tuple) else (None, b) for b in batches]
        self._check_data_sets([name for name, _ in pairs])
        self.lr = set_lr(self.optimizer, self.config.optim, self.done, self.config.steps)
        placed, per_batch = [], []
        for i, (name, batch) in enumerate(pairs):
            self._factors = self._factors_of(name, len(pairs))
            placed.append(self.place(batch))
            with gradient_sync(self.model, last=i == len(pairs) - 1):
                values = self.losses(placed[-1], per_batch)
                per_batch.append(values.detach())
                self.backward(values.sum() * (world_size() / len(pairs)))
        losses = torch.stack(per_batch)
        norm, flags = self.update(losses, placed, list(flags), {name for name, _ in pairs})
        self._last = losses.mean(0)
        self.done += 1
        return Step(self._last, norm, flags)

    def _check_data_sets(self, names: list[str | None]) -> None:
        if self.config.optim.shared and None in names:
            raise TrainingError(
                f"step {self.done + 1}: optim.shared needs to know the data set of every "
                f"micro-batch; expected (name, batch) pairs, got a batch alone"
            )
        if any(names) and any(others != names for others in gathered(names)):
            raise TrainingError(
                f"step {self.done + 1}: the ranks have different data sets: {gathered(names)}; "
                f"micro-batch i must be of the same one everywhere"
            )

    def _factors_of(self, name: str | None, count: int) -> dict[int, float]:
        """Of every group of `optim.shared`; the loss itself was divided by `count`."""
        factors = {}
        for i, group in enumerate(self.config.optim.shared):
            weights = group.weights or (1 / count,) * len(group.data_sets)
            factors[i] = dict(zip(group.data_sets, weights, strict=True)).get(name, 0.0) * count
        return factors

    def place(self, batch: Any) -> Any:
        """The micro-batch on the device, in the memory format of the system."""
        batch = batch.to(self.device)
        if self.config.channels_last and hasattr(batch, "images"):
            images = batch.images.contiguous(memory_format=torch.channels_last)
            batch = dataclasses.replace(batch, images=images)
        return batch

    def losses(self, batch: Any, before: Sequence[Tensor] = ()) -> Float[Tensor, " n"]:
        """Every loss of one micro-batch, in the order of `names`; `before`: those of the step's
        earlier ones, for messages."""
        try:
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
            ):
                losses = self.model(batch)
        except NonFiniteError as problem:
            self.optimizer.zero_grad(set_to_none=True)
            named = f"{problem} (pictures: {_pictures(batch, problem.pictures)})"
            # all ranks are here, see NonFiniteError
            found = [line for line in gathered(named if problem.pictures else "") if line]
            known = before[-1] if len(before) else self._last
            known = None if known is None else sum_over_ranks(known)
            raise TrainingError(
                f"step {self.done + 1}: {'; '.join(found) or named}. Losses before: "
                f"{self._summary(known)}. The optimizer step was not made. Look at these "
                f"pictures' labels (humanquery data check), or lower optim.lr."
            ) from problem
        problem = self._wrong_names(losses)
        if not losses:
            raise TrainingError(problem)
        shaped = [
            f"{name} has shape {list(value.shape)}" for name, value in losses.items() if value.ndim
        ]
        if shaped:
            raise TrainingError(
                f"step {self.done + 1}: every loss must be one number, but {', '.join(shaped)}"
            )
        absent = torch.zeros((), device=self.device)
        values = torch.stack([losses[n].float() if n in losses else absent for n in self.names])
        if not values.requires_grad:
            raise TrainingError(
                problem
                or f"step {self.done + 1}: no trainable parameter has a part in the losses "
                f"{', '.join(sorted(losses))}"
            )
        # raised by `update` on all ranks: the others wait for this one's gradients now
        self._problems += [problem] if problem else []
        return values

    def _wrong_names(self, losses: dict[str, Tensor]) -> str:
        """What is wrong with the names of the losses of one micro-batch; "" if nothing is."""
        where, kind = f"step {self.done + 1}", type(self.system).__name__
        if self.declared:
            unknown = sorted(losses.keys() - set(self.declared))
            if unknown:
                return (
                    f"{where}: losses {unknown} of {kind} are not among its loss_names "
                    f"{list(self.names)}; declare them there"
                )
            if not losses:
                return f"{where}: {kind} gave no loss; expected at least one of its loss_names"
            return ""
        if self.names is None:
            self.names = tuple(sorted(losses))
            if any(names != self.names for names in gathered(self.names)):
                raise TrainingError(
                    f"{where}: the ranks' losses have different names; every batch needs all, "
                    f"unless {kind} declares loss_names"
                )
        if not losses or tuple(sorted(losses)) != self.names:
            return (
                f"{where}: losses {sorted(losses)}, expected {list(self.names)} as before; {kind} "
                f"must return the same names, at least one, for every batch, or declare loss_names"
            )
        return ""

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of one micro-batch."""
        loss.backward()

    def update(
        self, losses: Float[Tensor, "m n"], batches: list, flags: list[bool], data_sets: set
    ) -> tuple[Float[Tensor, ""], list[bool]]:
        """Changes the weights, unless something is not finite; the gradients' norm and the flags
        of all ranks."""
        for i, group in enumerate(self.config.optim.shared):
            if not data_sets & set(group.data_sets):
                # nothing was learned for them: momentum and weight decay must not move them either
                for parameter in self._members[i]:
                    parameter.grad = None
        norm = clip_gradients(self.parameters, self.config.optim.clip)
        bad = ~(losses.isfinite().all() & norm.isfinite()) | bool(self._problems)
        bad, *flags = any_rank(flags, bad, self.device)  # the one host sync of a step
        if bad:
            self._refuse(losses, norm, batches)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.system)
        return norm, flags

    def _refuse(self, losses: Tensor, norm: Tensor, batches: list) -> None:
        """Raises TrainingError that says what is wrong with the losses' names on any rank, or which
        losses of which pictures are not finite; no weight was changed."""
        self.optimizer.zero_grad(set_to_none=True)
        problems = sorted({line for lines in gathered(self._problems) for line in lines})
        self._problems = []
        if problems:
            raise TrainingError("; ".join(problems))
        mine = []
        for values, batch in zip(losses.tolist(), batches, strict=True):
            broken = [
                f"{n} = {v}"
                for n, v in zip(self.names, values, strict=True)
                if not abs(v) < float("inf")
            ]
            if broken:
                mine.append(f"{', '.join(broken)} (pictures: {_pictures(batch)})")
        found = [line for lines in gathered(mine) for line in lines]
        if not found:
            found = [f"all losses are finite, but the norm of their gradients is {norm.item()}"]
        raise TrainingError(
            f"step {self.done + 1}: not finite: "
            + "; ".join(found)
            + ". The optimizer step was not made. "
            "Look at these pictures' labels (humanquery data check), or lower optim.lr."
        )

    def _summary(self, losses: Tensor | None) -> str:
        if losses is None or self.names is None:
            return "none, this is the first"
        values = dict(zip(self.names, losses.tolist(), strict=True))
        largest = sorted(values, key=lambda name: -abs(values[name]))[:SHOWN_LOSSES]
        parts = ", ".join(f"{name} {values[name]:.4g}" for name in largest)
        return f"total {sum(values.values()):.4g} ({parts})"

    # ----------------------------------------------------------------- finish

    def weights(self) -> dict[str, Tensor]:
        """Those to ship: averaged if averaging is on, whole if they were sharded. All ranks must
        call it."""
        state = self.average.state if self.average else self.system.state_dict()
        return {name: whole(value.detach()) for name, value in state.items()}

    def state(self) -> dict[str, Any]:
        """All that `begin` needs to go on. All ranks must call it."""
        optimizer = self.optimizer.state_dict()
        optimizer["state"] = {
            i: {k: whole(v) if isinstance(v, Tensor) else v for k, v in one.items()}
            for i, one in optimizer["state"].items()
        }
        average = self.average and {
            "updates": self.average.updates,
            "state": {name: whole(value) for name, value in self.average.state.items()},
        }
        plain = self.system.state_dict()
        return {
            "model": {name: whole(value.detach()) for name, value in plain.items()},
            "optimizer": optimizer,
            "average": average,
            "names": list(self.names or ()),
        }

    def finish(self) -> dict[str, Tensor]:
        """`weights`, after `release`."""
        self.release()
        return self.weights()

    def release(self) -> None:
        """Takes the trainer's hooks off the system, which another one may train then."""
        while self.hooks:
            self.hooks.pop().remove()


def _pictures(batch: Any, places: Sequence[int] = ()) -> str:
    """Paths of a batch's pictures, of those at `places` if there are any."""
    metas = getattr(batch, "metas", None) or ()
    metas = [metas[i] for i in places if i < len(metas)] or metas
    return ", ".join(meta.path or f"image {meta.image_id}" for meta in metas) or "not named"
