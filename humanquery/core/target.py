"""The truth of one picture."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humanquery.core.affine import Affine2D, Size
from humanquery.core.errors import ConfigError
from humanquery.core.rows import Extra, Labelled, PersonRows, rows
from humanquery.core.skeleton import Skeleton
from humanquery.core.truth_maps import TruthMap


@dataclass(frozen=True, eq=False, kw_only=True)
class Target(PersonRows):
    """What people said about the people of one picture, in its pixels (continuous: first pixel's
    left edge is 0.0).

    A field that is None was never annotated by the *data set*; a row that is not `valid` was not
    annotated for this *person*. Rows with `ignore` are regions (crowds) in which nothing is known:
    no loss, no false positive.
    """

    boxes: Float[Tensor, "n 4"] = rows("boxes", required=True)
    """xyxy px"""
    ignore: Bool[Tensor, " n"] = rows("row", required=True)
    areas: Float[Tensor, " n"] = rows("area", required=True)
    """px² of the person's segment (COCO `area`); the scale of the OKS"""
    keypoints: Labelled | None = rows("points")
    """value n k 2 px; valid: somebody annotated this person's joints. Which joints count is in
    `visibility`."""
    visibility: Int[Tensor, "n k"] | None = rows("joint_rows")
    """0 not labelled, 1 labelled but hidden, 2 visible"""
    masks: Labelled | None = rows("masks")
    """value n h w bool"""
    gender: Labelled | None = rows("row")
    """value n, 0.0 male or 1.0 female, as annotators saw it"""
    age: Labelled | None = rows("row")
    """value n 2: years [low, high]; equal where one age is given"""
    face_boxes: Labelled | None = rows("boxes")
    """value n 4 xyxy px"""
    track_ids: Int[Tensor, " n"] | None = rows("row")
    annotation_ids: Int[Tensor, " n"] | None = rows("row")
    source: str = ""
    """name of the data set that this truth comes from; empty where nobody said"""
    maps: Mapping[str, TruthMap] = field(default_factory=dict)
    """truth of the whole picture by name (parsing, density ...), the counterpart of
    `core.system.Picture.maps`"""

    def __post_init__(self):
        super().__post_init__()
        for name, truth in self.maps.items():
            if truth.size != tuple(self.image_size):
                raise ValueError(
                    f"Target: map {name!r} is {truth.size} for an image of {self.image_size}; "
                    f"(height, width)"
                )

    @property
    def counted_joints(self) -> Bool[Tensor, "n k"]:
        """Joints that have a place: labelled (visibility > 0) on a person whose joints were
        annotated."""
        assert self.keypoints is not None and self.visibility is not None
        return (self.visibility > 0) & self.keypoints.valid[:, None]

    def people(self) -> "Target":
        """Without the ignore regions."""
        return self[~self.ignore] if self.ignore.any() else self

    def warp(self, matrix: Affine2D, size: Size) -> "Target":
        """As `PersonRows.warp`; maps move with the picture (see `TruthMap.warp`)."""
        maps = {name: truth.warp(matrix, size) for name, truth in self.maps.items()}
        return dataclasses.replace(self, maps={})._warp_rows(matrix, size).replace(maps=maps)

    def _warp_rows(self, matrix: Affine2D, size: Size) -> "Target":
        return super().warp(matrix, size)

    def to(self, device: Any) -> "Target":
        """As `PersonRows.to`, with the maps."""
        maps = {name: truth.to(device) for name, truth in self.maps.items()}
        return super().to(device).replace(maps=maps)

    def with_skeleton(self, skeleton: Skeleton) -> "Target":
        """The same people with the joints of `skeleton`, taken by name; without joints as it is.

        A joint that these people do not have raises ConfigError.
        """
        if self.keypoints is None or self.skeleton is None:
            return self
        if self.skeleton.has_joints_of(skeleton):
            return dataclasses.replace(self, skeleton=skeleton)
        missing = [joint for joint in skeleton.joints if joint not in self.skeleton.joints]
        if missing:
            raise ConfigError(
                f"people with the joints of {self.skeleton.name} cannot be given those of "
                f"{skeleton.name}: they have no {', '.join(missing)}"
            )
        order = [self.skeleton.index(joint) for joint in skeleton.joints]
        return dataclasses.replace(
            self,
            keypoints=self.keypoints.map(lambda points: points[:, order]),
            visibility=None if self.visibility is None else self.visibility[:, order],
            skeleton=skeleton,
        )

    @classmethod
    def cat(cls, parts: "Sequence[Target]") -> "Target":
        """As `PersonRows.cat`; maps of all parts, sources joined by '+'.

        Two different maps of one name raise ValueError: which of them is the picture's?
        """
        maps: dict[str, TruthMap] = {}
        for part in parts:
            for name, truth in part.maps.items():
                if maps.setdefault(name, truth) is not truth:
                    raise ValueError(f"Target.cat: two parts have a map {name!r}; keep one of them")
        sources = list(dict.fromkeys(part.source for part in parts if part.source))
        bare = [dataclasses.replace(part, maps={}) for part in parts]
        return super().cat(bare).replace(maps=maps, source="+".join(sources))

    @classmethod
    def of_pictures(cls, targets: Sequence["Target"], canvas: Size) -> "Target":
        """The people of several pictures one after the other, masks on a common canvas that is at
        least as large as each.

        A field that only some pictures have gets zeros, not valid, for the people of the others.
        Maps belong to one picture each and are left out; `source` stays where it is the same.
        Pictures with different skeletons raise ValueError.
        """
        skeletons = list(dict.fromkeys(t.skeleton for t in targets if t.has_joints))
        if len(skeletons) > 1:
            names = [skeleton.name for skeleton in skeletons]
            raise ValueError(
                f"Target.of_pictures: the pictures have different skeletons {names}; convert them "
                f"first"
            )
        filled = {name for target in targets for name, _, _ in target.filled()}
        fields = {
            name: _joined(
                [target._on(canvas, name, kind) for target in targets],
                [len(target) for target in targets],
            )
            for name, kind in cls.row_fields()
            if name in filled
        }
        specs = {name: one.spec for target in targets for name, one in target.extra.items()}
        extra = {
            name: Extra(
                spec,
                _joined(
                    [target._on(canvas, name, spec.kind) for target in targets],
                    [len(target) for target in targets],
                ),
            )
            for name, spec in specs.items()
        }
        sources = {target.source for target in targets}
        return cls(
            image_size=canvas,
            skeleton=skeletons[0] if skeletons else None,
            source=sources.pop() if len(sources) == 1 else "",
            extra=extra,
            **fields,
        )

    def _on(self, canvas: Size, name: str, kind: str) -> Labelled | Tensor | None:
        value = self.get(name)
        if value is None or kind != "masks":
            return value
        return value.map(
            lambda masks: torch.nn.functional.pad(
                masks, (0, canvas[1] - masks.shape[2], 0, canvas[0] - masks.shape[1])
            )
        )


def _joined(parts: list[Labelled | Tensor | None], counts: list[int]) -> Labelled | Tensor:
    """Rows of all parts; zeros, not valid, for a part that is None."""
    example = next(part for part in parts if part is not None)
    if isinstance(example, Labelled):
        values = _joined([None if part is None else part.value for part in parts], counts)
        return Labelled(
            values, _joined([None if part is None else part.valid for part in parts], counts)
        )
    shape = example.shape[1:]
    return torch.cat(
        [
            example.new_zeros(n, *shape) if part is None else part
            for part, n in zip(parts, counts, strict=True)
        ]
    )


def empty_target(image_size: Size, skeleton: Skeleton | None = None) -> Target:
    """A picture on which nobody stands, and every task knows it."""
    target = Target(
        image_size=image_size,
        boxes=torch.zeros(0, 4),
        ignore=torch.zeros(0, dtype=torch.bool),
        areas=torch.zeros(0),
    )
    labelled = {"masks": (0, *image_size), "gender": (0,), "age": (0, 2)}
    fields = {
        name: Labelled(
            torch.zeros(shape, dtype=torch.bool if name == "masks" else torch.float32),
            torch.zeros(0, dtype=torch.bool),
        )
        for name, shape in labelled.items()
    }
    if skeleton is not None:
        k = len(skeleton)
        fields["keypoints"] = Labelled(torch.zeros(0, k, 2), torch.zeros(0, dtype=torch.bool))
        fields |= {"visibility": torch.zeros(0, k, dtype=torch.long), "skeleton": skeleton}
    return dataclasses.replace(target, **fields)
