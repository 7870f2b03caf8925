"""What older weights files call differently, and how they are read today.

Version 2 (November 2026): names of fields, classes and tensors as in the tables below. Version 1 is
everything before it.
"""

from typing import Any

from torch import Tensor

FORMAT_VERSION = 2
"""written to new files"""

CLASSES = {"InputConfig": "LetterboxConfig"}
"""version 1 -> 2, "is" of a config"""
FIELDS = {
    ("RefinementConfig", "evidence"): "local_features",
    ("InputConfig", "finer"): "zoom",
    ("LetterboxConfig", "finer"): "zoom",
}
"""version 1 -> 2, (class as version 1 calls it, field) -> field"""
TENSORS = {
    "pose_content.": "priors.pose_content.",
    "tasks.keypoints.refinement.evidence.": "tasks.keypoints.refinement.local_features.",
}
"""version 1 -> 2, how a tensor's name begins"""


def upgraded_config(plain: Any, version: int) -> Any:
    """Plain data of a config (`core.config.to_plain`) as today's classes read it."""
    if version >= FORMAT_VERSION:
        return plain
    if isinstance(plain, list):
        return [upgraded_config(item, version) for item in plain]
    if not isinstance(plain, dict):
        return plain
    kind = plain.get("is")
    upgraded = {
        FIELDS.get((kind, name), name): upgraded_config(value, version)
        for name, value in plain.items()
    }
    return {**upgraded, "is": CLASSES.get(kind, kind)} if "is" in plain else upgraded


def upgraded_state(state: dict[str, Tensor], version: int) -> dict[str, Tensor]:
    """Tensors of a weights file under today's names."""
    if version >= FORMAT_VERSION:
        return state
    return {_renamed(name): value for name, value in state.items()}


def _renamed(name: str) -> str:
    for old, new in TENSORS.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
