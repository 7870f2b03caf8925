"""Parallel tensors, one row per person: each field is declared once with its kind; slicing,
moving, warping and mirroring follow from that one line."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

from humanquery.core.affine import Affine2D, Size
from humanquery.core.fields import JOINT_KINDS, FieldSpec
from humanquery.core.skeleton import Skeleton

Rows = TypeVar("Rows", bound="PersonRows")


def rows(kind: str, *, required: bool = False, **spec: Any) -> Any:
    """Declares a per-person field, None unless `required`; `kind` and `spec` as in `FieldSpec`."""
    default = dataclasses.MISSING if required else None
    return dataclasses.field(default=default, metadata={"spec": {"kind": kind, **spec}})


@dataclasses.dataclass(frozen=True, eq=False)
class Extra:
    """A per-person field that a task brings: its declaration and its values."""

    spec: FieldSpec
    value: "Tensor | Labelled"


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    """A value per person and whether anybody annotated it.

    Where `valid` is False the value is a finite placeholder (zeros), never NaN; read it only
    through `valid`.
    """

    value: Tensor
    valid: Bool[Tensor, " n"]

    def __post_init__(self):
        if len(self.value) != len(self.valid):
            raise ValueError(
                f"Labelled: {len(self.value)} values for {len(self.valid)} valid flags; give one "
                f"per person"
            )

    def map(self, change) -> "Labelled":
        return Labelled(change(self.value), self.valid)

    def __getitem__(self, index) -> "Labelled":
        return Labelled(self.value[index], self.valid[index])

    def to(self, device) -> "Labelled":
        return Labelled(self.value.to(device), self.valid.to(device))

    def __len__(self) -> int:
        return len(self.valid)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PersonRows:
    """Base of `Persons` and `Target`."""

    image_size: Size
    boxes: Tensor = rows("boxes", required=True)
    skeleton: Skeleton | None = None
    extra: Mapping[str, Extra] = dataclasses.field(default_factory=dict)
    """fields that are not built in, by name; they are cut, moved and written like the others"""

    def __post_init__(self):
        count, kind_of = len(self.boxes), type(self).__name__
        for name, kind, value in self.filled():
            if len(value) != count:
                raise ValueError(
                    f"{kind_of}: field '{name}' has {len(value)} rows for {count} boxes"
                )
            shape = tuple((value.value if isinstance(value, Labelled) else value).shape)
            if kind == "masks" and shape[1:] != tuple(self.image_size):
                raise ValueError(
                    f"{kind_of}: field '{name}' is {shape[1:]} for an image of {self.image_size}; "
                    f"(height, width)"
                )
            if kind in JOINT_KINDS:
                self._check_joints(name, shape[1])

    def _check_joints(self, name: str, joints: int):
        if self.skeleton is None:
            raise ValueError(
                f"{type(self).__name__}: field '{name}' needs a skeleton; pass "
                f"skeleton=Skeleton.named(...)"
            )
        if joints != len(self.skeleton):
            raise ValueError(
                f"{type(self).__name__}: field '{name}' has {joints} joints, "
                f"skeleton {self.skeleton.name!r} has {len(self.skeleton)}"
            )

    @property
    def has_joints(self) -> bool:
        """True where a field has one row per joint of the skeleton."""
        return any(kind in JOINT_KINDS for _, kind, _ in self.filled())

    @classmethod
    @functools.cache  # asked for every picture, and never another
    def specs(cls) -> dict[str, FieldSpec]:
        """The declarations of every built-in per-person field, by name."""
        return {
            f.name: FieldSpec(f.name, **f.metadata["spec"])
            for f in dataclasses.fields(cls)
            if "spec" in f.metadata
        }

    @classmethod
    def row_fields(cls) -> list[tuple[str, str]]:
        """(name, kind) of every built-in per-person field."""
        return [(name, spec.kind) for name, spec in cls.specs().items()]

    def all_specs(self) -> dict[str, FieldSpec]:
        """The declarations of the built-in fields and of `extra`."""
        return {**self.specs(), **{name: extra.spec for name, extra in self.extra.items()}}

    def get(self, name: str) -> Any:
        """A built-in or further field's values; None where it is not given."""
        return self.extra[name].value if name in self.extra else getattr(self, name, None)

    def filled(self) -> list[tuple[str, str, Any]]:
        """(name, kind, value) of every per-person field that is not None, `extra` last."""
        return [
            (name, spec.kind, value)
            for name, spec in self.all_specs().items()
            if (value := self.get(name)) is not None
        ]

    def _with(self: Rows, values: Mapping[str, Any], **others: Any) -> Rows:
        """A copy with these per-person fields, built in or not."""
        extra = {
            name: Extra(one.spec, values.get(name, one.value)) for name, one in self.extra.items()
        }
        own = {name: value for name, value in values.items() if name not in extra}
        return dataclasses.replace(self, extra=extra, **own, **others)

    def __len__(self) -> int:
        return len(self.boxes)

    def _map(self: Rows, change, **others) -> Rows:
        """A copy with change(value, kind) applied to every filled field; `Labelled` fields
        change in their value only."""
        changed = {}
        for name, kind, value in self.filled():
            changed[name] = (
                value.map(lambda v, k=kind: change(v, k))
                if isinstance(value, Labelled)
                else change(value, kind)
            )
        return self._with(changed, **others)

    def __getitem__(self: Rows, index) -> Rows:
        """Rows by slice, boolean mask, index tensor or list; an int gives one row, still as
        rows."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"{type(self).__name__}: no row {index}, there are {len(self)}")
            index = [index]
        if not isinstance(index, slice):
            index = self._rows_index(index)
        return self._with({name: value[index] for name, _, value in self.filled()})

    def _rows_index(self, index) -> Tensor:
        index = torch.as_tensor(index, device=self.boxes.device).reshape(-1)
        return index if index.dtype == torch.bool and len(index) else index.long()

    def to(self: Rows, device) -> Rows:
        return self._with({name: value.to(device) for name, _, value in self.filled()})

    def replace(self: Rows, **fields) -> Rows:
        return dataclasses.replace(self, **fields)

    def warp(self: Rows, matrix: Affine2D, size: Size) -> Rows:
        """The same people on a canvas of `size`; a mirroring matrix also swaps left and right
        joints. Nothing is cut."""
        geometry = {
            "boxes": matrix.boxes,
            "points": matrix.points,
            "masks": lambda masks: matrix.masks(masks, size),
            "area": lambda area: area * abs(matrix.determinant),
        }
        moved = self._map(
            lambda value, kind: geometry[kind](value) if kind in geometry else value,
            image_size=size,
        )
        return moved._swap_sides() if matrix.is_mirror else moved

    def mirror(self: Rows) -> Rows:
        """Left-right mirror of the whole picture: x -> width - x, left and right joints swapped."""
        return self.warp(Affine2D.mirror(self.image_size[1]), self.image_size)

    def _swap_sides(self: Rows) -> Rows:
        if self.skeleton is None:
            return self
        order = list(self.skeleton.mirror_order)
        return self._map(lambda value, kind: value[:, order] if kind in JOINT_KINDS else value)

    @classmethod
    def cat(cls: type[Rows], parts: Sequence[Rows]) -> Rows:
        """People of the same picture in one structure; a field is kept if every part that holds
        people has it.

        Parts of pictures of different size, or with different skeletons, raise ValueError.
        """
        if not parts:
            raise ValueError(f"{cls.__name__}.cat needs at least one part")
        parts = [part for part in parts if len(part)] or parts[:1]
        for kind, found in (
            ("image sizes", [p.image_size for p in parts]),
            ("skeletons", [p.skeleton for p in parts]),
        ):
            differing = list(dict.fromkeys(f for f in found if f is not None))
            if len(differing) > 1:
                names = [getattr(f, "name", f) for f in differing]
                raise ValueError(
                    f"{cls.__name__}.cat: the parts have different {kind}: {names}; convert them "
                    f"first"
                )
        joined = {name: _joined([part.get(name) for part in parts]) for name in cls.specs()}
        extra = {
            name: Extra(one.spec, value)
            for name, one in parts[0].extra.items()
            if (value := _joined([part.get(name) for part in parts])) is not None
        }
        skeleton = next((part.skeleton for part in parts if part.skeleton is not None), None)
        return dataclasses.replace(parts[0], skeleton=skeleton, extra=extra, **joined)


def _joined(values: Sequence[Any]) -> Any:
    """Rows of all parts; None where one part has none."""
    if any(value is None for value in values):
        return None
    if isinstance(values[0], Labelled):
        return Labelled(torch.cat([v.value for v in values]), torch.cat([v.valid for v in values]))
    return torch.cat(list(values))
