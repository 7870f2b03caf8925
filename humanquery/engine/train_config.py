"""All numbers of a training run that are not the model's."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from humanquery.core.config import from_plain, to_plain
from humanquery.core.errors import ConfigError
from humanquery.engine.optim import OptimConfig, depends_on_length


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
learned from what. `steps` is free only where the schedule does not depend on it"""


def run_identity(config: EngineConfig, system_config: Any, **parts: Any) -> dict[str, Any]:
    """Plain data that must be equal for a run to be resumed: the configs of system and engine, less
    `FREE_TO_CHANGE`, and further `parts` (recipe, data, weights started from)."""
    engine = {name: value for name, value in to_plain(config).items() if name not in FREE_TO_CHANGE}
    if depends_on_length(config.optim):
        engine["steps"] = config.steps
    return {"system": to_plain(system_config), "engine": engine, **parts}


def comparable(old: dict[str, Any], new: dict[str, Any], system_config: Any) -> dict[str, Any]:
    """An `old` identity with what younger versions of this library added to the configs, at its
    default; parts that only `new` has are taken over, see `added_parts`."""
    old = {**new, **old}
    engine = _with_defaults(EngineConfig, old["engine"])
    free = [name for name in FREE_TO_CHANGE if name != "steps"]
    engine = {name: value for name, value in engine.items() if name not in free}
    if "steps" not in old["engine"] or "steps" not in new["engine"]:
        engine.pop("steps", None)
        engine |= {"steps": new["engine"]["steps"]} if "steps" in new["engine"] else {}
    system = old["system"]
    if dataclasses.is_dataclass(system_config):
        system = _with_defaults(type(system_config), system)
    return {**old, "engine": engine, "system": system}


def added_parts(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Parts of `new` that an `old` identity, of a run begun before there were such parts, lacks."""
    return [name for name in new if name not in old]


def _with_defaults(kind: type, plain: Any) -> Any:
    try:
        return to_plain(from_plain(kind, plain))
    except ConfigError:  # of a version that had other fields: compared as it stands
        return plain


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Readable lines `field: old -> new` of two trees of plain data; empty if they are equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for name in list(old) + [name for name in new if name not in old]:
            path = f"{where}.{name}" if where else name
            lines += differences(old.get(name, "absent"), new.get(name, "absent"), path)
        return lines
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line
            for i, pair in enumerate(zip(old, new, strict=True))
            for line in differences(*pair, f"{where}.{i}" if where else str(i))
        ]
    return [] if old == new else [f"{where}: {old!r} -> {new!r}"]
