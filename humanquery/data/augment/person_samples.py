"""Training samples of a top-down model: one person each, turned, scaled, mirrored, cut to half."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from humanquery.core.affine import Affine2D, Size
from humanquery.core.batch import Meta, Sample
from humanquery.core.crops import crop_matrix
from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.core.target import Target
from humanquery.data.augment.proposals import ProposalModel, released_proposal


@dataclass(frozen=True)
class PersonSampleConfig:
    """As released for the 1x schedule; `TWICE` is the 2x one."""

    size: tuple[int, int] = (256, 192)
    padding: float = 1.25
    rotation: float = 40.0
    """degrees; standard deviation, cut at twice of it"""
    rotation_share: float = 0.6
    scale: float = 0.3
    """standard deviation of the crop's size, cut at it"""
    mirror_share: float = 0.5
    half_body_share: float = 0.0
    half_body_joints: int = 8
    """only people with more labelled joints are cut to half"""
    half_body_padding: float = 1.5
    upper_share: float = 0.6915
    """of half bodies show the upper half, where both have more than two joints; P(N(0, 1) < 0.5)"""
    upper_joints: int = 11
    """joints before this one are the upper body; all others, face and hands too, the lower, as
    released"""
    proposals: bool = False
    """move boxes as a detector would (PGPG)"""
    proposal_file: str = ""
    """distributions of `humanquery data fit-proposals`; empty: the released Gaussians"""


TWICE = PersonSampleConfig(rotation=45.0, scale=0.35, half_body_share=0.3)

Propose = Callable[[np.ndarray, Size, np.random.Generator], np.ndarray]


def proposer(config: PersonSampleConfig) -> Propose:
    """How boxes are moved: as in `proposal_file` for whole people, else as released.

    A file without whole people raises AnnotationError when it is used."""
    if not config.proposal_file:
        return released_proposal
    model = ProposalModel.load(config.proposal_file)

    def fitted(box: np.ndarray, size: Size, rng: np.random.Generator) -> np.ndarray:
        return model.proposal(box, "person", rng)

    return fitted


def person_sample(
    picture: UInt8[np.ndarray, "h w 3"],
    target: Target,
    person: int,
    config: PersonSampleConfig,
    rng: np.random.Generator,
    propose: Propose = released_proposal,
    image_id: int = 0,
) -> Sample:
    """Row `person` of `target` in a crop of its own, the target in px of the crop.

    `propose` is PGPG, used with `config.proposals`. Joints that fall outside of the crop keep their
    labels and places.
    """
    row = target[[person]].replace(masks=None)
    box = row.boxes[0].double().numpy()
    if config.proposals:
        box = propose(box, tuple(target.image_size), rng)
    padding, half = config.padding, None
    if row.keypoints is not None:
        half = half_body_box(row, config, rng)
    if half is not None:
        box, padding = half, config.half_body_padding
    matrix = draw_matrix(box, padding, config, rng)
    if rng.random() < config.mirror_share:
        matrix = Affine2D.mirror(config.size[1]) @ matrix
    size = tuple(config.size)
    meta = Meta(picture.shape[:2], size, matrix, image_id=image_id)
    return Sample(matrix.image(picture, size), meta, row.warp(matrix, size))


def draw_matrix(
    box: Float[np.ndarray, "4"],
    padding: float | int,
    config: PersonSampleConfig,
    rng: np.random.Generator,
) -> Affine2D:
    """Picture px to crop px, with a drawn scale and rotation."""
    scale = np.clip(1 + config.scale * rng.normal(), 1 - config.scale, 1 + config.scale)
    turned = rng.random() < config.rotation_share
    limit = 2 * config.rotation
    angle = np.clip(config.rotation * rng.normal(), -limit, limit) if turned else 0.0
    return crop_matrix(box.tolist(), tuple(config.size), padding * float(scale), float(angle))


def half_body_box(
    row: Target, config: PersonSampleConfig, rng: np.random.Generator
) -> Float[np.ndarray, "4"] | None:
    """Box of the upper or lower joints about their mean; None where the whole body is shown."""
    counted = row.counted_joints[0].numpy()
    if counted.sum() <= config.half_body_joints or rng.random() >= config.half_body_share:
        return None
    joints = row.keypoints.value[0].double().numpy()
    upper, lower = counted.copy(), counted.copy()
    upper[config.upper_joints :], lower[: config.upper_joints] = False, False
    prefer_upper = rng.random() < config.upper_share
    if prefer_upper and upper.sum() > 2:
        chosen = upper
    else:
        chosen = lower if lower.sum() > 2 else upper
    if chosen.sum() < 2:
        return None
    return _box_about_mean(joints[chosen])


def _box_about_mean(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "4"] | None:
    middle, sides = points.mean(0), np.ptp(points, axis=0)
    if not (sides > 0).all():
        return None
    return np.concatenate([middle - sides / 2, middle + sides / 2])


def part_joints(target: Target, parts: Sequence[str]) -> Bool[np.ndarray, " k"]:
    """Which joints belong to the named parts of the target's skeleton.

    An unknown part raises AnnotationError.
    """
    chosen = np.zeros(len(target.skeleton), bool)
    for part in parts:
        if part not in target.skeleton.parts:
            raise AnnotationError(
                f"skeleton {target.skeleton.name!r} has no part {part!r}, expected one of "
                f"{', '.join(target.skeleton.parts)}"
            )
        chosen[slice(*target.skeleton.parts[part])] = True
    return chosen


def only_parts(target: Target, parts: Sequence[str]) -> Target:
    """The target of a data set that labels these parts alone: all other joints are unlabelled."""
    visibility = target.visibility.clone()
    visibility[:, ~torch.from_numpy(part_joints(target, parts))] = 0
    return target.replace(visibility=visibility)


PAPER_SHARES = (1 / 3, 1 / 3, 1 / 6, 1 / 6)
"""of Halpe, COCO-WholeBody, faces, hands (AlphaPose, section 3.2)"""


def mixed_indices(
    lengths: Sequence[int],
    shares: Sequence[float],
    batch: int,
    rng: np.random.Generator,
) -> Iterator[Int[np.ndarray, "b 2"]]:
    """Endless batches of (data set, item), each data set with its share of every batch.

    What does not divide evenly is drawn by the remaining shares, so that they hold on average;
    items
    of a data set come in a new random order each time all were used. An empty data set or shares
    that do not sum to 1 raise ConfigError.
    """
    if len(lengths) != len(shares) or min(lengths, default=0) < 1:
        raise ConfigError(
            f"mixed_indices: {len(shares)} shares for data sets of {list(lengths)} items"
        )
    if abs(sum(shares) - 1) > 1e-6 or min(shares) < 0:
        raise ConfigError(f"mixed_indices: shares {list(shares)} sum to {sum(shares)}, expected 1")
    return _mixed(lengths, np.array(shares, float), batch, rng)


def _mixed(lengths, shares, batch, rng) -> Iterator[np.ndarray]:
    orders = [_endless(length, rng) for length in lengths]
    wanted = shares * batch
    sure = np.floor(wanted + 1e-9).astype(int)
    rest = batch - sure.sum()
    left = np.maximum(wanted - sure, 0)
    while True:
        counts = sure.copy()
        if rest:
            drawn = rng.choice(len(shares), rest, p=left / left.sum())
            counts += np.bincount(drawn, minlength=len(shares))
        rows = [(i, next(orders[i])) for i, count in enumerate(counts) for _ in range(count)]
        yield np.array(rows)[rng.permutation(batch)]


def _endless(length: int, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(length).tolist()
