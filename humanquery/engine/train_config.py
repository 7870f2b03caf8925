"""All numbers of a training run that are not the model's."""

from dataclasses import dataclass, field
from typing import Any, Literal

from humanquery.core.config import to_plain
from humanquery.core.errors import ConfigError
from humanquery.engine.optim import OptimConfig


@dataclass(frozen=True)
class EngineConfig:
    steps: int = 10_000
    """optimizer steps of the whole run"""
    batch_size: int = 2
    """pictures per micro-batch and process; read by whoever builds the loader"""
    accumulate: int = 1
    """micro-batches per optimizer step; their losses are averaged, see `engine.loop.train`"""
    num_workers: int = 0
    """loader processes; read by whoever builds the loader"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: forward under autocast; weights, gradients and optimizer stay fp32"""
    channels_last: bool = False
    device: str = "auto"
    """auto (CUDA if there is one, else CPU), cpu, cuda, cuda:1"""
    seed: int = 0
    deterministic: bool = False
    """the same run twice gives the same weights to the last bit: tested on the CPU, for one number
    of threads; on CUDA as far as torch and the attention provider have deterministic kernels (it
    warns of those that are not)"""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """how several processes share the work; without effect in a single one"""
    fsdp_units: tuple[str, ...] = ()
    """names of modules (`encoder.layers.*` matches all of them) that FSDP gathers one at a time; a
    unit may only be used by calling it. Empty: the whole model is gathered at once, which is always
    right"""
    find_unused_parameters: bool = False
    """DDP: allow parameters that took no part in a step's losses"""
    log_every: int = 20
    """steps per line of metrics.jsonl"""
    evaluate_every: int = 0
    """steps; 0: only after the last"""
    pictures_every: int = 0
    """steps; 0: only after the last"""
    checkpoint_minutes: float = 10.0
    """0: never by time"""
    checkpoint_steps: int = 0
    """0: never by number of steps"""
    tensorboard: bool = True
    """also write TensorBoard events, if tensorboard is installed"""

    def __post_init__(self):
        for name, least in {
            "steps": 0,
            "batch_size": 1,
            "accumulate": 1,
            "log_every": 1,
            "num_workers": 0,
        }.items():
            if getattr(self, name) < least:
                raise ConfigError(
                    f"engine.{name}: got {getattr(self, name)}, expected at least {least}"
                )
        for name in ("evaluate_every", "pictures_every", "checkpoint_minutes", "checkpoint_steps"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"engine.{name}: got {getattr(self, name)}, expected 0 (off) or more"
                )
        for name, known in {"precision": ("fp32", "bf16"), "parallel": ("ddp", "fsdp")}.items():
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"engine.{name}: got {getattr(self, name)!r}, expected one of "
                    f"{', '.join(known)}"
                )


FREE_TO_CHANGE = (
    "steps num_workers device deterministic parallel fsdp_units find_unused_parameters log_every "
    "evaluate_every "
    "pictures_every checkpoint_minutes checkpoint_steps tensorboard"
).split()
"""fields of `EngineConfig` that a resumed run may have otherwise: they do not change what is being
learned from what"""


def run_identity(config: EngineConfig, system_config: Any) -> dict[str, Any]:
    """Plain data that must be equal for a run to be resumed: system and engine configs, less
    `FREE_TO_CHANGE`."""
    engine = {name: value for name, value in to_plain(config).items() if name not in FREE_TO_CHANGE}
    return {"system": to_plain(system_config), "engine": engine}


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Readable lines `field: old -> new` of two trees of plain data; empty if they are equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for name in list(old) + [name for name in new if name not in old]:
            path = f"{where}.{name}" if where else name
            lines += differences(old.get(name, "absent"), new.get(name, "absent"), path)
        return lines
    return [] if old == new else [f"{where}: {old!r} -> {new!r}"]
