"""Keypoint layouts as data: names, mirror pairs, limbs, OKS sigmas; conversion between layouts goes
by joint name."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from humanquery.core.errors import AnnotationError, ConfigError, nearest
from humanquery.core.foreign import integer, items, located, number, read_json, shown, text

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

    @staticmethod
    def find(name: str) -> "Skeleton | None":
        """A layout of the built-in tables, None for another name."""
        return _TABLES.get(name)

    @staticmethod
    def of(name_or_path: str) -> "Skeleton":
        """A layout by name, or by the path of a `.json` file (see `from_file`)."""
        is_file = name_or_path.lower().endswith(".json")
        return Skeleton.from_file(name_or_path) if is_file else Skeleton.named(name_or_path)

    @staticmethod
    def from_file(path: str | Path) -> "Skeleton":
        """The layout of a small JSON file; see docs/fine-tuning.md.

        `names`: the joints in order. Optional: `name` (default: the file's), `edges`: pairs to draw
        and `flip_pairs`: pairs that a mirror swaps, both as joint names or positions from 0
        (default of `flip_pairs`: names that differ in left and right alone), `sigmas`: OKS
        constants (default: COCO's for joints that COCO has, else `OTHER_SIGMA`). Joints of a
        built-in layout in its order give that layout, unless sigmas say otherwise. A file that is
        something else raises AnnotationError.
        """
        content = read_json(path, "a skeleton with 'names', 'edges', 'flip_pairs' and 'sigmas'")
        with located(str(path)):
            name = text(content.get("name", Path(path).stem), "name")
            return _described(
                name,
                content.get("names"),
                edges=content.get("edges"),
                flip_pairs=content.get("flip_pairs"),
                sigmas=content.get("sigmas"),
                key="names",
            )

    @staticmethod
    def from_category(category: dict[str, Any]) -> "Skeleton":
        """The layout that a COCO category names: `keypoints` in order, `skeleton` lines from 1,
        `flip_pairs` and `sigmas` as in `from_file` where they stand."""
        names = category.get("keypoints")
        count = len(names) if isinstance(names, list) else 0
        return _described(
            f"{category.get('name') or 'person'}_{count}",
            names,
            edges=category.get("skeleton"),
            flip_pairs=category.get("flip_pairs"),
            sigmas=category.get("sigmas"),
            key="keypoints",
            first=1,
        )

    def has_joints_of(self, other: "Skeleton") -> bool:
        """Whether both mean the same joints in the same order, whatever they are called."""
        return self.joints == other.joints


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


OTHER_NAMES = {"head": "top_head"}
"""what files of a whole layout of ours call a joint (CrowdPose's, whose limbs moreover are left
over from COCO and name joints that it does not have)"""

OTHER_SIGMA = 0.063
"""OKS constant of a joint that COCO does not have: the mean of COCO's seventeen"""


def _described(
    name: str,
    names: Any,
    *,
    edges: Any,
    flip_pairs: Any,
    sigmas: Any,
    key: str,
    first: int = 0,
) -> Skeleton:
    """A layout from parts that a file gave; positions in `edges` count from `first`."""
    joints = tuple(plain_name(text(joint, key)) for joint in items(names, key, "joint names"))
    if not joints:
        raise AnnotationError(f"'{key}' is empty, expected joint names")
    spelled = tuple(OTHER_NAMES.get(joint, joint) for joint in joints)
    for table in _TABLES.values():
        if sigmas is None and table.joints in (joints, spelled):
            return table
    constants = [
        COCO17.sigmas[COCO17.index(j)] if j in COCO17.joints else OTHER_SIGMA for j in joints
    ]
    if sigmas is not None:
        constants = [number(s, "sigmas", low=1e-6) for s in items(sigmas, "sigmas")]
    pairs = _mirrored(joints) if flip_pairs is None else _pairs(flip_pairs, joints, "flip_pairs", 0)
    limbs = (
        () if edges is None else _pairs(edges, joints, "edges" if first == 0 else "skeleton", first)
    )
    try:
        return Skeleton(name, joints, pairs, limbs, tuple(map(float, constants)))
    except ConfigError as problem:
        raise AnnotationError(str(problem)) from problem


def plain_name(joint: str) -> str:
    """A joint's name as our layouts spell it: 'Left Eye' and 'left-eye' are 'left_eye'."""
    return re.sub(r"[^a-z0-9]+", "_", joint.lower()).strip("_") or joint


def _mirrored(joints: tuple[str, ...]) -> Pairs:
    """Joints whose names differ in left and right alone (l_ and r_ too)."""
    return tuple(
        (i, joints.index(other))
        for i, joint in enumerate(joints)
        for other in {
            joint.replace("left", "right"),
            re.sub(r"(^|_)l(_|$)", r"\1r\2", joint),
        }
        if other != joint and other in joints
    )


def _pairs(given: Any, joints: tuple[str, ...], key: str, first: int) -> Pairs:
    return tuple(_pair(pair, joints, key, first) for pair in items(given, key))


def _pair(pair: Any, joints: tuple[str, ...], key: str, first: int) -> tuple[int, int]:
    a, b = _both(items(pair, key, "pairs of two joints"), key)
    return _position(a, joints, key, first), _position(b, joints, key, first)


def _both(pair: Sequence[Any], key: str) -> tuple[Any, Any]:
    if len(pair) != 2:
        raise AnnotationError(f"'{key}' holds {shown(pair)}, expected pairs of two joints")
    return pair[0], pair[1]


def _position(joint: Any, joints: tuple[str, ...], key: str, first: int) -> int:
    if isinstance(joint, str) and plain_name(joint) in joints:
        return joints.index(plain_name(joint))
    return integer(joint, key, low=first, high=len(joints) - 1 + first) - first


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
