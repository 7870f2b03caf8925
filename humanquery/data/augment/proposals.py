"""Boxes as a detector would give them: the part-guided proposal generator (PGPG) of AlphaPose,
section 3.3, with the released numbers or fitted from detections."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from humanquery.core.affine import Size
from humanquery.core.errors import AnnotationError, nearest

Box = Float[np.ndarray, "4"]

MEANS = (-0.0142, 0.0043, 0.0154, -0.0013)
STDS = (0.1158, 0.0680, 0.1337, 0.0711)
"""of the offsets of x1, y1, x2, y2, in widths and heights of the box; released, for whole people"""
CROP_FROM = 0.85
"""with a draw above it, the box is a random part of the true one with that share of its sides"""


def released_proposal(box: Box, size: Size, rng: np.random.Generator) -> Box:
    """A box (xyxy px) like a detector's of the person in `box`, in a picture of `size`; PGPG as
    released."""
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    share = rng.random()
    if share > CROP_FROM:
        left = x1 + rng.random() * (1 - share) * w
        top = y1 + rng.random() * (1 - share) * h
        return np.array([left, top, left + share * w + 1, top + share * h + 1])
    dx1, dy1, dx2, dy2 = rng.normal(MEANS, STDS)
    left = min(max(x1 + dx1 * w, 1), max(size[1] - 3, 1))
    top = min(max(y1 + dy1 * h, 1), max(size[0] - 3, 1))
    right = min(max(left + 2, x2 + dx2 * w), max(size[1] - 3, left + 2))
    bottom = min(max(top + 2, y2 + dy2 * h), max(size[0] - 3, top + 2))
    return np.array([left, top, right, bottom])


def offsets(true: Float[np.ndarray, "n 4"], found: Float[np.ndarray, "n 4"]):
    """Found minus true corners of xyxy boxes, in widths and heights of the true ones: n 4, ordered
    x1,
    y1, x2, y2.

    `true` are tight boxes of a part, `found` the detector's boxes of the whole people. A true box
    without area raises AnnotationError.
    """
    sides = true[:, 2:] - true[:, :2]
    if (sides <= 0).any():
        row = int(np.argmax((sides <= 0).any(1)))
        raise AnnotationError(
            f"proposals: true box {row} {true[row].tolist()} has no area; leave it out"
        )
    return (found - true) / np.tile(sides, 2)


@dataclass(frozen=True)
class Mixture:
    """Gaussians over the two offsets of one axis: (low side, high side)."""

    weights: tuple[float, ...]
    means: tuple[tuple[float, float], ...]
    covariances: tuple[tuple[tuple[float, float], tuple[float, float]], ...]

    def draw(self, rng: np.random.Generator) -> Float[np.ndarray, "2"]:
        chosen = rng.choice(len(self.weights), p=np.array(self.weights) / sum(self.weights))
        return rng.multivariate_normal(self.means[chosen], self.covariances[chosen])


def fit_mixture(
    points: Float[np.ndarray, "n 2"], components: int, rng: np.random.Generator, rounds: int = 100
) -> Mixture:
    """Gaussian mixture by expectation maximisation; `rng` chooses the first means among the points.

    Fewer points than three per component raise AnnotationError.
    """
    n = len(points)
    if n < 3 * components:
        raise AnnotationError(
            f"proposals: {n} pairs of boxes for {components} Gaussians, expected at least "
            f"{3 * components}; give more detections or fewer components"
        )
    spread = np.cov(points.T) + 1e-8 * np.eye(2)
    means = points[rng.choice(n, components, replace=False)]
    covariances = np.repeat(spread[None], components, 0)
    weights = np.full(components, 1 / components)
    for _ in range(rounds):
        logs = np.log(weights) + _log_density(points, means, covariances)
        logs -= logs.max(1, keepdims=True)
        share = np.exp(logs)
        share /= share.sum(1, keepdims=True)
        counts = share.sum(0) + 1e-9
        weights, means = counts / counts.sum(), share.T @ points / counts[:, None]
        apart = points[:, None] - means
        covariances = np.einsum("nc,nci,ncj->cij", share, apart, apart) / counts[:, None, None]
        # a component on a single point would grow without limit
        covariances = covariances + 1e-4 * spread
    return Mixture(
        tuple(weights.tolist()),
        tuple(map(tuple, means.tolist())),
        tuple(tuple(map(tuple, c)) for c in covariances.tolist()),
    )


def _log_density(points, means, covariances) -> np.ndarray:
    apart = points[:, None] - means
    squared = np.einsum("nci,cij,ncj->nc", apart, np.linalg.inv(covariances), apart)
    return -(squared + np.linalg.slogdet(covariances)[1]) / 2


@dataclass(frozen=True)
class ProposalModel:
    """P(x offsets | part) and P(y offsets | part), independent of each other."""

    parts: Mapping[str, tuple[Mixture, Mixture]]

    def proposal(self, box: Box, part: str, rng: np.random.Generator) -> Box:
        """A box of the whole person as a detector would give it for a tight part box (xyxy px); at
        least 2 px wide and high. An unknown part raises AnnotationError."""
        if part not in self.parts:
            raise AnnotationError(
                f"proposals: no distribution for part {part!r}.{nearest(part, self.parts)}"
            )
        across, down = (axis.draw(rng) for axis in self.parts[part])
        w, h = box[2:] - box[:2]
        left, right = box[0] + across[0] * w, box[2] + across[1] * w
        top, bottom = box[1] + down[0] * h, box[3] + down[1] * h
        return np.array([left, top, max(right, left + 2), max(bottom, top + 2)])

    def save(self, path: Path | str) -> None:
        plain = {part: [asdict(axis) for axis in axes] for part, axes in self.parts.items()}
        Path(path).write_text(json.dumps(plain, indent=1) + "\n")

    @staticmethod
    def load(path: Path | str) -> "ProposalModel":
        """What `save` wrote; anything else raises AnnotationError."""
        try:
            plain = json.loads(Path(path).read_bytes())
            parts = {part: tuple(_mixture(a) for a in axes) for part, axes in plain.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
            raise AnnotationError(
                f"{path}: no file of proposal distributions ({problem}); write one with "
                "ProposalModel.save"
            ) from problem
        return ProposalModel(parts)


def _mixture(plain: dict) -> Mixture:
    return Mixture(
        tuple(plain["weights"]),
        tuple(map(tuple, plain["means"])),
        tuple(tuple(map(tuple, c)) for c in plain["covariances"]),
    )


def fit_proposals(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    rng: np.random.Generator,
    components: int = 3,
) -> ProposalModel:
    """Distributions per part from (tight part boxes, detected boxes of the whole people), both n 4
    xyxy px, row by row the same people."""
    parts = {}
    for part, (true, found) in pairs.items():
        moved = offsets(true, found)
        parts[part] = tuple(
            fit_mixture(moved[:, [axis, axis + 2]], components, rng) for axis in (0, 1)
        )
    return ProposalModel(parts)
