"""Keypoint layouts as data: names, mirror pairs, limbs, OKS sigmas; conversion between layouts goes
by joint name."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from humanquery.core.errors import ConfigError, nearest

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Skeleton:
    """One keypoint layout. `pairs` are the two joints that a mirror swaps, in either order; `limbs`
    the lines to draw."""

    name: str
    joints: tuple[str, ...]
    pairs: Pairs
    limbs: Pairs
    sigmas: tuple[float, ...] = ()
    """OKS constants, one per joint; empty where the layout has none (it is then scored by PCK or
    millimetres)"""
    parts: dict[str, tuple[int, int]] = field(default_factory=dict, hash=False, compare=False)

    def __post_init__(self):
        count = len(self.joints)
        if self.sigmas and len(self.sigmas) != count:
            raise ConfigError(
                f"skeleton {self.name!r}: {len(self.sigmas)} sigmas for {count} joints; give one "
                f"per joint"
            )
        if len(set(self.joints)) != count:
            raise ConfigError(f"skeleton {self.name!r}: joint names repeat; each must be unique")
        for kind, index_pairs in (("pair", self.pairs), ("limb", self.limbs)):
            for a, b in index_pairs:
                if not (0 <= a < count and 0 <= b < count) or a == b:
                    raise ConfigError(
                        f"skeleton {self.name!r}: {kind} ({a}, {b}) must join two different joints "
                        f"of {count}"
                    )
        flat = [i for pair in self.pairs for i in pair]
        if len(flat) != len(set(flat)):
            raise ConfigError(f"skeleton {self.name!r}: a joint stands in two flip pairs")

    def __len__(self) -> int:
        return len(self.joints)

    @cached_property
    def mirror_order(self) -> tuple[int, ...]:
        """Joint i of a mirrored person is joint mirror_order[i] of the person."""
        order = list(range(len(self)))
        for a, b in self.pairs:
            order[a], order[b] = b, a
        return tuple(order)

    def index(self, joint: str) -> int:
        """Position of a joint by name; an unknown name raises ConfigError."""
        if joint not in self.joints:
            raise ConfigError(
                f"skeleton {self.name!r} has no joint {joint!r}.{nearest(joint, self.joints)}"
            )
        return self.joints.index(joint)

    def side(self, joint: int) -> str:
        """'left', 'right' or 'middle', from the joint's name."""
        name = self.joints[joint]
        return next((side for side in ("left", "right") if side in name), "middle")

    @staticmethod
    def named(name: str) -> "Skeleton":
        """A layout of the built-in tables, e.g. `coco17`; an unknown name raises ConfigError with
        the nearest one."""
        if name not in _TABLES:
            raise ConfigError(f"unknown skeleton {name!r}.{nearest(name, _TABLES)}")
        return _TABLES[name]


def convert_joints(
    joints: Float[Tensor, "*n k 2"],
    valid: Bool[Tensor, "*n k"],
    source: Skeleton,
    destination: Skeleton,
) -> tuple[Float[Tensor, "*n m 2"], Bool[Tensor, "*n m"]]:
    """The same people in another layout, matched by joint name; joints that the source lacks come
    back not valid, at 0."""
    out = joints.new_zeros(*joints.shape[:-2], len(destination), 2)
    known = valid.new_zeros(*valid.shape[:-1], len(destination))
    for to, name in enumerate(destination.joints):
        if name in source.joints:
            at = source.joints.index(name)
            out[..., to, :], known[..., to] = joints[..., at, :], valid[..., at]
    return torch.where(known[..., None], out, 0.0), known


def _read_tables() -> dict[str, Skeleton]:
    tables = json.loads(files("humanquery.core").joinpath("skeletons.json").read_text())
    return {
        name: Skeleton(
            name=name,
            joints=tuple(table["names"]),
            pairs=tuple(map(tuple, table["flip_pairs"])),
            limbs=tuple(map(tuple, table["skeleton"])),
            sigmas=tuple(table["sigmas"] or ()),
            parts={part: tuple(span) for part, span in table.get("parts", {}).items()},
        )
        for name, table in tables.items()
    }


_TABLES = _read_tables()
COCO17 = Skeleton.named("coco17")
