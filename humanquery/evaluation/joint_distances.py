"""Joints by their distance in the picture: PCKh (MPII), PCK and the mean end-point error."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from humanquery.core.errors import AnnotationError
from humanquery.evaluation.pose_rows import HEAD_SHARE

MPII_LEFT_OUT = (6, 7)
"""pelvis and thorax have rates of their own but no part in the mean"""
MPII_GROUPS = {
    "head": (9,),
    "shoulder": (12, 13),
    "elbow": (11, 14),
    "wrist": (10, 15),
    "hip": (2, 3),
    "knee": (1, 4),
    "ankle": (0, 5),
}
"""joints, in MPII's order of 16"""


@dataclass(frozen=True)
class DistanceScores:
    """Shares, 0..1; None where no joint is labelled."""

    joints: int
    """that were scored"""
    mean: float | None
    """over all labelled joints that have a part in it"""
    by_joint: tuple[float | None, ...]
    by_group: dict[str, float | None] = field(default_factory=dict)

    def numbers(self) -> dict[str, float | int | None]:
        return {"mean": self.mean, **self.by_group, "joints": self.joints}


def head_sizes(head_boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
    """px; from xyxy boxes of the heads (SC_BIAS of the MPII evaluation)."""
    return HEAD_SHARE * np.linalg.norm(head_boxes[:, 2:] - head_boxes[:, :2], axis=1)


def pck(
    found: Float[np.ndarray, "n k 2"],
    true: Float[np.ndarray, "n k 2"],
    labelled: Bool[np.ndarray, "n k"],
    sizes: Float[np.ndarray, " n"],
    threshold: float = 0.5,
    *,
    left_out: tuple[int, ...] = (),
    groups: dict[str, tuple[int, ...]] | None = None,
) -> DistanceScores:
    """Share of labelled joints whose distance is at most `threshold` times the person's size.

    `sizes` are `head_sizes` for PCKh, the longer side of the box for PCK (0.2 in JHMDB); a person
    with labelled joints and a size that is not positive raises AnnotationError. Joints `left_out`
    have a rate but no part in the mean, which weighs every joint by how often it is labelled. A
    group's rate is the mean over its joints' rates.
    """
    if (bad := labelled.any(1) & ~(sizes > 0)).any():
        i = int(bad.argmax())
        raise AnnotationError(
            f"person {i}: size {sizes[i]:g} px, expected more than 0; is its head box missing?"
        )
    apart = np.linalg.norm(found - true, axis=2) / np.where(sizes > 0, sizes, 1.0)[:, None]
    right = (apart <= threshold) & labelled
    times = labelled.sum(0)
    rates = [float(right[:, j].sum() / n) if n else None for j, n in enumerate(times)]
    part = np.array([j not in left_out for j in range(len(times))], dtype=bool)
    total = int(times[part].sum())
    by_group = {}
    for name, members in (groups or {}).items():
        known = [rates[j] for j in members if rates[j] is not None]
        by_group[name] = float(np.mean(known)) if known else None
    mean = float(right[:, part].sum() / total) if total else None
    return DistanceScores(total, mean, tuple(rates), by_group)


def mpii_pckh(
    found: Float[np.ndarray, "n 16 2"],
    true: Float[np.ndarray, "n 16 2"],
    labelled: Bool[np.ndarray, "n 16"],
    head_boxes: Float[np.ndarray, "n 4"],
) -> DistanceScores:
    """PCKh@0.5 with MPII's groups, both point sets in the same pixels."""
    return pck(
        found, true, labelled, head_sizes(head_boxes), left_out=MPII_LEFT_OUT, groups=MPII_GROUPS
    )


def end_point_error(
    found: Float[np.ndarray, "n k 2"],
    true: Float[np.ndarray, "n k 2"],
    labelled: Bool[np.ndarray, "n k"],
) -> float | None:
    """Mean distance of labelled joints in px of the picture; None where there is none."""
    apart = np.linalg.norm(found - true, axis=2)[labelled]
    return float(apart.mean()) if len(apart) else None
