"""From one map of stride 4 to displacements and scores at every cell: Keypoint and Pose Query
Encoding (Xiao et al., AAAI 2022).

The branches of all keypoints run side by side: one convolution for all their features, grouped
convolutions for what is read from them. Positions are counted in cells of the map, cell centres
are whole numbers. A displacement leads from the cell to the point (the paper's eq. 5 has the
opposite sign, which its other equations contradict).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from humanquery.core.transfer import constants
from humanquery.models.pixelwise.config import InstanceBranchConfig, KeypointBranchConfig
from humanquery.ops.deformable import deformable_attention

PRIOR_LOGIT = -2.19
"""the score's first bias: a tenth, as most cells are background"""


@dataclass(frozen=True, eq=False)
class Displacements:
    """What the keypoint branches say, in cells from the cell that says it."""

    keypoints: Float[Tensor, "b h w k 2"]
    queries: Float[Tensor, "b h w k 2"] | None = None
    points: Float[Tensor, "b h w k n 2"] | None = None
    """the semantic points around the queries"""


@dataclass(frozen=True, eq=False)
class Scores:
    score_logit: Float[Tensor, "b h w"]
    quality_logit: Float[Tensor, "b h w"] | None = None

    def values(self) -> Float[Tensor, "b h w"]:
        """0..1; with a quality branch the product of both."""
        score = self.score_logit.sigmoid()
        return score if self.quality_logit is None else score * self.quality_logit.sigmoid()


class KeypointBranches(nn.Module):
    """Displacements to every keypoint (eq. 4), by Keypoint Query Encoding or directly."""

    def __init__(self, inputs: int, num_joints: int, config: KeypointBranchConfig):
        super().__init__()
        self.config, self.num_joints = config, num_joints
        width = num_joints * config.channels
        self.reduce = _reduced(inputs, width)
        self.regress = self._reader(2)
        nn.init.normal_(self.regress.weight, std=1e-3)
        nn.init.zeros_(self.regress.bias)
        if config.query_encoding:
            n, at_query = config.semantic_points, config.points_from == "query"
            self.locate = self._reader(2 if at_query else 2 + 2 * n)
            # queries start on the cell, semantic points on the cells around it: all alike, they
            # would have the same gradient for ever
            start = torch.cat([torch.zeros(1, 2), first_points(n)])
            _start_at(self.locate, start[:1] if at_query else start)
            if at_query and n:
                self.spread = self._reader(2 * n)
                _start_at(self.spread, start[1:])

    def _reader(self, outputs: int) -> nn.Conv2d:
        k, c = self.num_joints, self.config
        return nn.Conv2d(k * c.channels, k * outputs, c.kernel, 1, c.kernel // 2, groups=k)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Displacements:
        features = self.reduce(maps)
        # 8 bits of a half-precision number are half a cell at 128 cells
        with torch.autocast(maps.device.type, enabled=False):
            features = features.float()
            if not self.config.query_encoding:
                return Displacements(self._read(self.regress, features)[..., 0, :])
            located = self._read(self.locate, features)
            queries, points = located[..., :1, :], located[..., 1:, :]
            if not self.config.semantic_points:
                points = None
            elif self.config.points_from == "query":
                points = self._read(self.spread, self._gathered(features, queries))
            where = queries if points is None else queries + points
            found = self._read(self.regress, self._gathered(features, where))
            return Displacements(
                queries[..., 0, :] + found[..., 0, :],
                queries[..., 0, :],
                None if points is None else where,
            )

    def _read(self, reader: nn.Conv2d, features: Tensor) -> Float[Tensor, "b h w k p 2"]:
        return reader(features).permute(0, 2, 3, 1).unflatten(-1, (self.num_joints, -1, 2))

    def _gathered(
        self, features: Float[Tensor, "b kc h w"], points: Float[Tensor, "b h w k p 2"]
    ) -> Float[Tensor, "b kc h w"]:
        """Sum of each branch's features at its points."""
        return summed_at(features, points)


class InstanceBranch(nn.Module):
    """The score map, by Pose Query Encoding (eq. 7) or read at the cell.

    The feature at every point of the pose, concatenated, then one linear layer: since sampling
    is linear too, each point's part of that layer is applied before it is sampled, so that numbers
    per point are gathered instead of whole features.
    """

    def __init__(
        self, inputs: int, num_joints: int, semantic_points: int, config: InstanceBranchConfig
    ):
        super().__init__()
        self.config, self.num_joints = config, num_joints
        self.reduce = _reduced(inputs, config.channels)
        maps = 2 if config.quality_branch else 1
        width = config.hidden or maps
        places = {"none": 1, "semantic": num_joints * semantic_points}
        self.places = places.get(config.pose_query, num_joints)
        self.project = nn.Conv2d(config.channels, self.places * width, 1, bias=False)
        # fan-in of the concatenated features, of which a convolution sees one part
        nn.init.uniform_(self.project.weight, *_bounds(config.channels * self.places))
        self.bias = nn.Parameter(torch.zeros(width))
        self.read = nn.Conv2d(width, maps, 1) if config.hidden else nn.Identity()
        with torch.no_grad():
            (self.read.bias if config.hidden else self.bias).fill_(PRIOR_LOGIT)
        if config.pose_query == "auto":
            self.locate = nn.Conv2d(config.channels, 2 * num_joints, 3, 1, 1)
            nn.init.normal_(self.locate.weight, std=1e-3)
            nn.init.zeros_(self.locate.bias)

    def forward(self, maps: Float[Tensor, "b c h w"], pose: Displacements) -> Scores:
        features = self.reduce(maps)
        with torch.autocast(maps.device.type, enabled=False):
            features = features.float()
            parts = self.project(features)
            where = self._points(features, pose)
            if where is not None:
                where = where.detach() if self.config.detach_queries else where
                parts = summed_at(parts, where[..., None, :])
                parts = parts.unflatten(1, (self.places, -1)).sum(1)
            joined = parts + self.bias[:, None, None]
            logits = self.read(joined.relu()) if self.config.hidden else joined
        return Scores(logits[:, 0], logits[:, 1] if self.config.quality_branch else None)

    def _points(self, features: Tensor, pose: Displacements) -> Tensor | None:
        """b h w places 2; None: the cell itself."""
        kind = self.config.pose_query
        if kind == "auto":
            return self.locate(features).permute(0, 2, 3, 1).unflatten(-1, (-1, 2))
        if kind == "semantic":
            return pose.points.flatten(3, 4)
        return {"none": None, "query": pose.queries, "keypoints": pose.keypoints}[kind]


def summed_at(
    maps: Float[Tensor, "b gc h w"], displacements: Float[Tensor, "b h w g p 2"]
) -> Float[Tensor, "b gc h w"]:
    """Of each of g groups of channels the sum of its bilinear values at its p points, seen from
    every cell; zero outside.

    This is deformable attention with weights of one, whose kernels hold no sample in memory: at
    512 px the samples of nine points of 17 branches would take 241 MB a picture.
    """
    b, _, height, width = maps.shape
    groups, points = displacements.shape[3:5]
    places = (cell_places(height, width, maps)[:, :, None, None] + 0.5 + displacements) / constants(
        [width, height], maps
    )
    locations = places.reshape(b, height * width, groups, 1, points, 2)
    value = maps.permute(0, 2, 3, 1).reshape(b, height * width, groups, -1)
    seen = deformable_attention(
        value, ((height, width),), locations, torch.ones_like(locations[..., 0])
    )
    return seen.reshape(b, height, width, -1).permute(0, 3, 1, 2)


def cell_places(
    height: int | torch.SymInt, width: int | torch.SymInt, like: Tensor
) -> Float[Tensor, "h w 2"]:
    """x and y of every cell, of the type of `like`."""
    x = torch.arange(width, device=like.device, dtype=like.dtype)
    y = torch.arange(height, device=like.device, dtype=like.dtype)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)


def first_points(count: int) -> Float[Tensor, "n 2"]:
    """The `count` cells nearest to (0, 0), x and y; nine are the 3×3 window."""
    side = range(-count, count + 1)
    nearest = sorted(((x, y) for y in side for x in side), key=lambda p: p[0] ** 2 + p[1] ** 2)
    return torch.tensor(nearest[:count], dtype=torch.float32).reshape(-1, 2)


def _start_at(reader: nn.Conv2d, points: Float[Tensor, "p 2"]) -> None:
    nn.init.zeros_(reader.weight)
    with torch.no_grad():
        reader.bias.copy_(points.flatten().repeat(reader.groups))


def _reduced(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _bounds(fan_in: int) -> tuple[float, float]:
    return -(fan_in**-0.5), fan_in**-0.5
