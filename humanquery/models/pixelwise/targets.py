"""Which cells learn what: discs around people's centres, and the three kinds of score labels.

Everything here is on the map of stride 4 and counted in its cells: the centre of the first cell is
(0, 0).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humanquery.core.affine import Size
from humanquery.core.oks import oks
from humanquery.core.target import Target
from humanquery.core.transfer import to_device
from humanquery.models.pixelwise.config import TargetConfig

STRIDE = 4
"""px of the canvas per cell"""
NOBODY, UNKNOWN = -1, -2
"""owners of cells that are background, and of those where nothing is known"""


def to_cells(points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
    """px of the canvas to cells."""
    return points / STRIDE - 0.5


def to_pixels(points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
    """Cells to px of the canvas."""
    return (points + 0.5) * STRIDE


def cells_outside(valid: Sequence[Size], canvas: Size) -> Bool[Tensor, "b h w"]:
    """Cells of each picture whose centre is outside of its `valid` (height, width) px."""
    y, x = (torch.arange(STRIDE // 2, side, STRIDE) for side in canvas)
    return torch.stack([(y >= height)[:, None] | (x >= width) for height, width in valid])


@dataclass(frozen=True, eq=False)
class CellTruth:
    """The people of a batch who are learned, and the cells of their discs."""

    joints: Float[Tensor, "n k 2"]
    counted: Bool[Tensor, "n k"]
    areas: Float[Tensor, " n"]
    """cells², at least 1: one labelled joint may come with an area of 0"""
    centers: Float[Tensor, "n 2"]
    pictures: Int[Tensor, " n"]
    owners: Int[Tensor, "b h w"]
    """row of the person whose disc a cell is in, `NOBODY` or `UNKNOWN`"""
    cells: Int[Tensor, "p 4"]
    """picture, line, column and person of each cell in a disc"""

    def to(self, device) -> "CellTruth":
        return CellTruth(*(to_device(getattr(self, f.name), device) for f in fields(self)))

    @property
    def places(self) -> Float[Tensor, "p 2"]:
        """x, y of each cell in a disc."""
        return self.cells[:, [2, 1]].to(self.joints.dtype)

    def at_cells(self, maps: Float[Tensor, "b h w *c"]) -> Float[Tensor, "p *c"]:
        """Values of maps at the cells in discs."""
        picture, line, column, _ = self.cells.unbind(1)
        return maps[picture, line, column]

    def displacements(self) -> tuple[Float[Tensor, "p k 2"], Bool[Tensor, "p k"]]:
        """From each cell in a disc to the joints of its person (eq. 5, with the sign of eq. 4),
        and which of them are labelled."""
        person = self.cells[:, 3]
        return self.joints[person] - self.places[:, None], self.counted[person]

    def weights(self, background: float) -> Float[Tensor, "b h w"]:
        """W of eq. 3: 1 in discs, `background` elsewhere, 0 where nothing is known."""
        owned = torch.where(self.owners == NOBODY, background, 1.0)
        return torch.where(self.owners == UNKNOWN, 0.0, owned)


def cell_truth(
    targets: Sequence[Target], padding: Bool[Tensor, "b h w"], joints: int, config: TargetConfig
) -> CellTruth:
    """Of the targets of a batch, on the host. `padding`: cells outside of the pictures; `joints`:
    how many a person has, also where nobody is.

    Ignore regions, people whose joints nobody labelled (their masks, or else boxes) and discs of
    people below `TargetConfig.min_area` are `UNKNOWN`, unless they are in somebody's disc.
    """
    people, owners = [], []
    first = 0
    for picture, target in enumerate(targets):
        known = _People.of(target, joints)
        learned = known.areas >= config.min_area / STRIDE**2
        small, known = known.only(~learned), known.only(learned)
        owner = torch.full(padding.shape[1:], NOBODY)
        owner[padding[picture] | _unknown(target, tuple(padding.shape[1:]))] = UNKNOWN
        owner[(_apart(small, owner.shape) < config.radius).any(0)] = UNKNOWN
        mine = _nearest(known, tuple(owner.shape), config)
        owner = torch.where(mine >= 0, mine + first, owner)
        people.append((known, torch.full((len(known.areas),), picture)))
        owners.append(owner)
        first += len(known.areas)
    owners = torch.stack(owners)
    at = (owners >= 0).nonzero()
    rows = [known for known, _ in people]
    return CellTruth(
        torch.cat([one.joints for one in rows]),
        torch.cat([one.counted for one in rows]),
        torch.cat([one.areas for one in rows]).clamp(min=1),
        torch.cat([one.centers for one in rows]),
        torch.cat([pictures for _, pictures in people]),
        owners,
        torch.cat([at, owners[tuple(at.T)][:, None]], 1),
    )


def quality(truth: CellTruth, found: Float[Tensor, "p k 2"], sigmas: Tensor) -> Float[Tensor, " p"]:
    """CIR (eq. 1 and 2) at the cells in discs: the OKS of the pose that is regressed there, a
    constant to the loss, in float32.

    `found`: displacements of those cells. With a gradient the score's loss could be lowered by
    moving the pose.
    """
    person = truth.cells[:, 3]
    pose = found.detach().float() + truth.places[:, None]
    return oks(pose, truth.joints[person], truth.areas[person], sigmas, truth.counted[person])


def gaussian_label(truth: CellTruth, sigma: float) -> Float[Tensor, "b h w"]:
    """exp(-d² / (2 sigma²)) of the distance to the nearest centre, 0 beyond three sigma."""
    b, height, width = truth.owners.shape
    x = torch.arange(width, device=truth.owners.device) - truth.centers[:, :1]
    y = torch.arange(height, device=truth.owners.device) - truth.centers[:, 1:]
    squared = y[:, :, None] ** 2 + x[:, None] ** 2
    each = torch.where(squared <= (3 * sigma) ** 2, torch.exp(-squared / (2 * sigma**2)), 0.0)
    label = each.new_zeros(b, height, width)
    picture = truth.pictures[:, None, None].expand_as(each)
    return label.scatter_reduce(0, picture, each, "amax")


@dataclass(frozen=True, eq=False)
class _People:
    """People with labelled joints of one picture."""

    joints: Tensor
    counted: Tensor
    areas: Tensor
    centers: Tensor

    @staticmethod
    def of(target: Target, k: int) -> "_People":
        if target.keypoints is None:
            nobody = torch.zeros(0, k, 2)
            return _People(nobody, nobody[..., 0].bool(), torch.zeros(0), torch.zeros(0, 2))
        some = target.counted_joints.any(1) & ~target.ignore
        counted = target.counted_joints[some]
        joints = torch.where(counted[..., None], to_cells(target.keypoints.value[some]), 0.0)
        # the mean of the labelled joints: the paper does not say what the centre is
        centers = joints.sum(1) / counted.sum(1, keepdim=True)
        return _People(joints, counted, target.areas[some] / STRIDE**2, centers)

    def only(self, rows: Tensor) -> "_People":
        return _People(*(getattr(self, f.name)[rows] for f in fields(self)))


def _apart(people: _People, size: Size) -> Float[Tensor, "n h w"]:
    x = torch.arange(size[1]) - people.centers[:, :1]
    y = torch.arange(size[0]) - people.centers[:, 1:]
    return (y[:, :, None] ** 2 + x[:, None] ** 2).sqrt()


def _nearest(people: _People, size: Size, config: TargetConfig) -> Int[Tensor, "h w"]:
    """Row of the person whose disc each cell is in, -1 for none."""
    if not len(people.areas):
        return torch.full(size, NOBODY)
    apart = _apart(people, size)
    inside = apart < config.radius
    rank = apart if config.overlap == "nearest" else people.areas[:, None, None].expand_as(apart)
    first = torch.where(inside, rank, float("inf")).min(0)
    return torch.where(inside.any(0), first.indices, NOBODY)


def _unknown(target: Target, size: Size) -> Bool[Tensor, "h w"]:
    """Cells of people about whose joints nothing is known, and of crowds."""
    unknown = torch.zeros(size, dtype=torch.bool)
    bare = target.ignore.clone()
    if target.keypoints is None:
        bare[:] = True
    else:
        bare |= ~target.counted_joints.any(1)
    boxes = to_cells(target.boxes.unflatten(-1, (2, 2))).flatten(1)
    for row in bare.nonzero()[:, 0].tolist():
        if target.masks is not None and bool(target.masks.valid[row]):
            mask = target.masks.value[row][: size[0] * STRIDE, : size[1] * STRIDE]
            drawn = F.max_pool2d(mask[None].float(), STRIDE, ceil_mode=True)[0] > 0
            unknown[: drawn.shape[0], : drawn.shape[1]] |= drawn
            continue
        left, top, right, bottom = boxes[row].tolist()
        x, y = torch.arange(size[1]), torch.arange(size[0])
        unknown |= ((y >= top) & (y <= bottom))[:, None] & ((x >= left) & (x <= right))
    return unknown
