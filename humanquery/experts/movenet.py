"""MoveNet MultiPose (Google, TF Hub, 2021) as an expert: a MobileNetV2 1.5x that was trained on
people, its pyramid and heads, and the decoding of joints in given boxes."""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from humanquery.backbones.mobilenet import MobileNetV2
from humanquery.backbones.parts import fill, freeze, read_tensors
from humanquery.core.affine import Size
from humanquery.core.errors import ConfigError
from humanquery.core.transfer import constants
from humanquery.experts.answers import WINDOW, Answers, Expert
from humanquery.nn.same_padding import SameConv2d
from humanquery.nn.sampling import sample_points


@dataclass(frozen=True)
class MoveNetBackbone:
    """`weights`: a local file with MoveNet's parameters under `backbone.` (its batch norms are
    folded into biases)."""

    weights: str = ""
    frozen_blocks: int = 2
    """the stem and so many of the seven block groups stay fixed; 0 trains all, 7 fixes the head
    convolution too"""
    width: float = 1.5
    heads: bool = False
    """add the outputs of MoveNet's own pyramid and heads (centres, boxes, joints) as further
    channels"""
    pose_scales: tuple[float, ...] = (1.0,)
    """scales of the picture, 1.0 among them, at which joints are searched; each person's are read
    where the person is nearest to the size at which MoveNet is most accurate. The channels are
    those of 1.0"""


HEAD_WIDTH = 1280
"""channels of the head convolution, whatever the width of the blocks"""
HEADS = {
    "center": 1,
    "box_scale": 2,
    "box_offset": 2,
    "kpt_heatmap": 17,
    "kpt_regress": 34,
    "kpt_offset": 34,
}
"""MoveNet's output maps of stride 4 and their channels: logits of the maps of places, lengths in
cells of the others"""
PYRAMID = {5: 64, 4: 64, 3: 32, 2: 24}


class MoveNetFeatures(Expert):
    """C2..C5 are the maps that MoveNet's own pyramid reads: block groups 1, 2, 3 and the head
    convolution (1280 channels); with `heads`, what the pyramid and the heads make of them too
    (`MoveNetPeople`).

    TensorFlow's padding: sides should be multiples of 32. Norms are always frozen, since the file
    holds them folded.
    """

    mean = std = (0.5, 0.5, 0.5)

    def __init__(self, config: MoveNetBackbone):
        super().__init__()
        body = MobileNetV2(config.width, SameConv2d)
        self.stem = nn.Sequential(body.conv_stem, body.bn1, nn.ReLU6(inplace=True))
        self.blocks = body.blocks
        last = nn.Conv2d(body.widths[-1], HEAD_WIDTH, 1, bias=False)
        self.head = nn.Sequential(last, nn.BatchNorm2d(HEAD_WIDTH), nn.ReLU6(inplace=True))
        self.channels = (*body.widths[1:4], HEAD_WIDTH)
        self.people = MoveNetPeople(self.channels) if config.heads else None
        self.answers_about = ("keypoints",) if config.heads else ()
        if 1.0 not in config.pose_scales or min(config.pose_scales) <= 0:
            raise ConfigError(
                f"backbone.pose_scales: got {config.pose_scales}, expected positive sizes, 1.0 "
                f"among them"
            )
        self.pose_scales = tuple(sorted(config.pose_scales))
        if self.people is not None:
            self.channels = tuple(
                c + more for c, more in zip(self.channels, self.people.channels, strict=True)
            )
        if config.weights:
            fill(
                self,
                {_own_name(n): t for n, t in self._wanted(read_tensors(config.weights))},
                config.weights,
            )
        self.freeze_norms()
        if config.frozen_blocks:
            freeze([self.stem, *self.blocks[: config.frozen_blocks]])
        if config.frozen_blocks >= len(self.blocks):
            freeze([self.head, *([self.people] if self.people is not None else [])])

    def _wanted(self, tensors: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
        return [
            (n, t)
            for n, t in tensors.items()
            if n.startswith("backbone.") or self.people is not None
        ]

    def answer(
        self, images: Float[Tensor, "b 3 h w"], zoomed: Float[Tensor, "b 3 H W"] | None = None
    ) -> Answers:
        """With `heads`, joints can be read in any box; at `pose_scales` above 1 in the zoomed
        pictures, if there are any."""
        features = self._maps(images)
        if self.people is None:
            return Answers(features)
        heads = self.people.head_maps(features)
        maps = [
            torch.cat(pair, 1)
            for pair in zip(features, self.people.channels_of(heads), strict=True)
        ]
        if self.pose_scales == (1.0,):
            return Answers(maps, poses=heads.poses())
        return Answers(
            maps,
            poses=MoveNetPyramid(
                [self._poses(images, zoomed, heads, scale) for scale in self.pose_scales]
            ),
        )

    def _maps(self, images: Tensor) -> list[Tensor]:
        x, features = self.stem(images), []
        for i, group in enumerate(self.blocks):
            x = group(x)
            if i in (1, 2, 3):
                features.append(x)
        return [*features, self.head(x)]

    def _poses(
        self, images: Tensor, zoomed: Tensor | None, heads: "HeadMaps", scale: float
    ) -> tuple["MoveNetPoses", Float[Tensor, "2"]]:
        """Joints at one size of the picture, its sides rounded to multiples of 32; and the true
        scales (x, y)."""
        poses = heads.poses()
        if scale == 1.0:
            return poses, constants([1.0, 1.0], poses.joints)
        height, width = images.shape[-2:]
        tall, wide = _scaled(height, scale), _scaled(width, scale)
        source, smaller = (images, scale < 1) if scale < 1 or zoomed is None else (zoomed, True)
        resize = (
            anti_aliased
            if smaller
            else partial(F.interpolate, mode="bilinear", align_corners=False)
        )
        resized = resize(source, (tall, wide))
        poses = self.people.head_maps(self._maps(resized)).poses()
        return poses, constants([wide, tall], poses.joints) / constants(
            [width, height], poses.joints
        )


def anti_aliased(images: Float[Tensor, "b c h w"], size: Size) -> Float[Tensor, "b c H W"]:
    """Bilinear with PyTorch's anti-aliasing; in a traced graph as two matrix products, since
    OpenVINO resizes without it."""
    if not torch.compiler.is_compiling():
        return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
    rows, columns = (resizing(n, m, images) for n, m in zip(images.shape[-2:], size, strict=True))
    return rows @ images @ columns.T


def resizing(source: int, target: int, like: Tensor) -> Float[Tensor, "target source"]:
    """Shares of the source's pixels in each pixel of the target: a triangle as wide as the larger
    of their pixels."""
    step = constants([source], like) / constants([target], like)
    centers = (torch.arange(target, device=like.device) + 0.5) * step
    apart = (centers[:, None] - (torch.arange(source, device=like.device) + 0.5)).abs()
    share = (1 - apart / step.clamp(min=1)).clamp(min=0)
    return share / share.sum(1, keepdim=True)


def _scaled(side: int, scale: float) -> int:
    """The multiple of 32 nearest to `side` · `scale`, at least 32. In whole numbers, so that a side
    may be a symbol."""
    share = Fraction(scale).limit_denominator(1000)
    steps = (side * share.numerator + 16 * share.denominator) // (32 * share.denominator)
    return 32 * torch.sym_max(steps, 1)


@dataclass(frozen=True, eq=False)
class MoveNetPoses:
    """MoveNet's own decoding of joints, for boxes of another detector: the likeliest centre
    near the middle of the box votes for every joint, and each vote moves to the best cell of the
    joint's map around it. Maps have stride 4."""

    centers: Float[Tensor, "b 1 h w"]
    votes: Float[Tensor, "b 34 h w"]
    """(y, x) of every joint from the centre's cell, in cells"""
    joints: Float[Tensor, "b 17 h w"]
    offsets: Float[Tensor, "b 34 h w"]
    """(y, x) of a joint inside its cell"""

    STRIDE = 4
    REACH = 10
    """cells searched around a vote, to each side"""
    DISTANCE = 1.8
    """cells added to the distance that a joint's map is divided by; as published"""

    def in_boxes(
        self, boxes: Float[Tensor, "b q 4"]
    ) -> tuple[Float[Tensor, "b q 17 2"], Float[Tensor, "b q 17"]]:
        """Joints in px of the padded canvas, as the boxes (xyxy), and the value of each joint's map
        there, 0..1."""
        b, q, _ = boxes.shape
        height, width = self.joints.shape[-2:]
        cell = self._centers(boxes.float() / self.STRIDE)
        votes = _at(self.votes, cell).unflatten(-1, (17, 2)).flip(-1)
        votes = votes + self._places(cell)[:, :, None]
        steps = torch.arange(-self.REACH, self.REACH + 1, device=boxes.device)
        around = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).flatten(0, 1)
        cells = votes.round()[..., None, :].long() + around
        limits = constants([width - 1, height - 1], cells)
        cells = cells.clamp(min=0).minimum(limits)
        apart = (cells - votes[..., None, :]).square().sum(-1).sqrt()
        places = cells[..., 1] * width + cells[..., 0]
        heat = (
            self.joints.flatten(2)
            .gather(2, places.transpose(1, 2).reshape(b, 17, -1))
            .view(b, 17, q, len(around))
        )
        best = (heat.transpose(1, 2) / (apart + self.DISTANCE)).argmax(-1, keepdim=True)
        place = places.gather(-1, best).squeeze(-1)
        found = self._places(place) + self._inside(place)
        return found * self.STRIDE + 0.5, heat.transpose(1, 2).gather(-1, best).squeeze(-1)

    def around(
        self, joints: Float[Tensor, "b n 17 2"], sides: Float[Tensor, "b n 2"]
    ) -> Float[Tensor, "b n 17 f"]:
        """Square roots of the joint's own map in a window of cells, and in one as wide as a quarter
        of the person's longer side; then of every joint's map in the middle. Beyond the edge: 0."""
        b, n, k, _ = joints.shape
        size = constants([self.joints.shape[-1], self.joints.shape[-2]], joints.float())
        heat = self.joints.sqrt()
        middle = joints.float() / self.STRIDE * (2 / size) - 1
        steps = torch.arange(WINDOW, device=joints.device) - WINDOW // 2
        steps = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).flatten(0, 1)
        wide = (sides.float().amax(-1) / self.STRIDE / (4 * WINDOW)).clamp(min=1)[
            ..., None, None, None
        ]
        windows = torch.cat([steps.expand(b, n, 1, -1, 2), steps * wide], 3) * (2 / size)
        places = (middle[..., None, :] + windows).transpose(1, 2).flatten(0, 1)
        own = _sampled(heat.flatten(0, 1)[:, None], places)
        own = own.view(b, k, n, windows.shape[3]).transpose(1, 2)
        every = _sampled(heat, middle.flatten(1, 2)[:, None])
        return torch.cat([own, every[:, :, 0].transpose(1, 2).reshape(b, n, k, k)], -1)

    def _centers(self, boxes: Float[Tensor, "b q 4"]) -> Int[Tensor, "b q"]:
        """Cell of the centre map that fits each box best: its value times a bell of a tenth
        of the box."""
        height, width = self.centers.shape[-2:]
        middle, sides = (
            (boxes[..., :2] + boxes[..., 2:]) / 2,
            (boxes[..., 2:] - boxes[..., :2]).clamp(min=2),
        )
        y, x = torch.arange(height, device=boxes.device), torch.arange(width, device=boxes.device)
        from_x = -50 * ((x - middle[..., :1]) / sides[..., :1]).square()
        from_y = -50 * ((y - middle[..., 1:]) / sides[..., 1:]).square()
        log_centers = self.centers[:, 0].clamp(min=1e-9).log()
        return (
            (from_y[..., :, None] + from_x[..., None, :] + log_centers[:, None])
            .flatten(2)
            .argmax(-1)
        )

    def _places(self, cells: Int[Tensor, "*n"]) -> Int[Tensor, "*n 2"]:
        """Column and line of cells that are counted line by line."""
        width = constants(
            [self.joints.shape[-1]], cells
        )  # a tensor: the remainder by a symbol has no form in ONNX
        return torch.stack([cells % width, cells // width], -1)

    def _inside(self, place: Int[Tensor, "b q 17"]) -> Float[Tensor, "b q 17 2"]:
        b, q, k = place.shape
        index = place.transpose(1, 2)[:, :, None].expand(b, k, 2, q)
        return (
            self.offsets.flatten(2)
            .unflatten(1, (k, 2))
            .gather(3, index)
            .permute(0, 3, 1, 2)
            .flip(-1)
        )


def _at(maps: Float[Tensor, "b c h w"], cells: Int[Tensor, "b q"]) -> Float[Tensor, "b q c"]:
    return maps.flatten(2).transpose(1, 2).gather(1, cells[..., None].expand(-1, -1, maps.shape[1]))


def _sampled(
    maps: Float[Tensor, "m c h w"], places: Float[Tensor, "m i j 2"]
) -> Float[Tensor, "m c i j"]:
    """`grid_sample` with zeros beyond the edge; in a traced graph the same by indexing, which every
    runtime has."""
    if not torch.compiler.is_compiling():
        return F.grid_sample(maps, places, align_corners=False)
    points = (places.flatten(1, 2) + 1) / 2
    values = sample_points(maps.flatten(0, 1), points.repeat_interleave(maps.shape[1], 0))
    return values.reshape(*maps.shape[:2], *places.shape[1:3])


class MoveNetPyramid:
    """`MoveNetPoses` of several sizes of the same pictures; every person is read at one of them."""

    BEST = 130.0
    """px, the root of a person's box area at which MoveNet finds joints best (measured on photos of
    the training part)"""

    def __init__(self, levels: list[tuple[MoveNetPoses, Float[Tensor, "2"]]]):
        """Each size's maps with its scales (x, y)."""
        self.levels = levels

    def in_boxes(
        self, boxes: Float[Tensor, "b q 4"]
    ) -> tuple[Float[Tensor, "b q 17 2"], Float[Tensor, "b q 17"]]:
        """See `MoveNetPoses.in_boxes`."""
        answers = []
        for poses, scale in self.levels:
            joints, scores = poses.in_boxes(boxes * scale.repeat(2))
            answers.append((joints / scale, scores))
        level = self._level(boxes[..., 2:] - boxes[..., :2])
        return tuple(_chosen([answer[i] for answer in answers], level) for i in range(2))

    def around(
        self, joints: Float[Tensor, "b n 17 2"], sides: Float[Tensor, "b n 2"]
    ) -> Float[Tensor, "b n 17 f"]:
        """See `MoveNetPoses.around`."""
        seen = [poses.around(joints * scale, sides * scale) for poses, scale in self.levels]
        return _chosen(seen, self._level(sides))

    def _level(self, sides: Float[Tensor, "b q 2"]) -> Int[Tensor, "b q"]:
        """The size of picture in which each person is nearest to `BEST`."""
        root = sides.float().clamp(min=1).log().mean(-1, keepdim=True)
        scales = torch.stack([scale for _, scale in self.levels]).log().mean(-1)
        return (root + scales - math.log(self.BEST)).abs().argmin(-1)


def _chosen(levels: list[Tensor], level: Int[Tensor, "b q"]) -> Tensor:
    """Of tensors b q ..., for every b q the one that `level` names."""
    stacked = torch.stack(levels)
    index = level.view(1, *level.shape, *[1] * (stacked.dim() - 3)).expand(1, *stacked.shape[1:])
    return stacked.gather(0, index)[0]


@dataclass(frozen=True, eq=False)
class HeadMaps:
    """Outputs of MoveNet's pyramid and heads for one size of pictures."""

    pyramid: dict[int, Tensor]
    """maps by the power of two of their stride"""
    heads: dict[str, Tensor]

    def poses(self) -> MoveNetPoses:
        return MoveNetPoses(
            self.heads["center"].float().sigmoid(),
            self.heads["kpt_regress"].float(),
            self.heads["kpt_heatmap"].float().sigmoid(),
            self.heads["kpt_offset"].float(),
        )


class MoveNetPeople(nn.Module):
    """MoveNet's pyramid and heads, as channels for another network: one map per stride 4, 8, 16,
    32.

    The heads' maps have stride 4. At stride 8 each cell holds its four, so nothing is lost; the
    coarser strides hold means. Lengths are squeezed by asinh, so that small and large people are of
    like size.
    """

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        lateral = {f"lateral{i}": nn.Conv2d(c, PYRAMID[i], 1) for i, c in enumerate(widths, 2)}
        merged = {f"dw{i}": _depthwise(PYRAMID[i]) for i in (4, 3, 2)}
        merged |= {f"pw{i}": nn.Conv2d(PYRAMID[i], PYRAMID[max(i - 1, 2)], 1) for i in (4, 3, 2)}
        self.fpn = nn.ModuleDict(lateral | merged)
        self.heads = nn.ModuleDict(
            {name: _head(PYRAMID[2], count) for name, count in HEADS.items()}
        )
        n = sum(HEADS.values())
        self.channels = (PYRAMID[2] + n, PYRAMID[2] + 4 * n, PYRAMID[3] + n, n)

    def head_maps(self, features: list[Float[Tensor, "b _c _h _w"]]) -> HeadMaps:
        maps = self._pyramid(features)
        return HeadMaps(maps, {name: head(maps[2]) for name, head in self.heads.items()})

    @staticmethod
    def channels_of(given: HeadMaps) -> list[Float[Tensor, "b _c _h _w"]]:
        maps, lengths = given.pyramid, dict(given.heads)
        places = [lengths.pop(name).clamp(min=-8) for name in ("center", "kpt_heatmap")]
        cells = torch.cat([*places, *(torch.asinh(cells / 4) for cells in lengths.values())], 1)
        height, width = cells.shape[-2:]
        even = F.pad(cells, (0, width % 2, 0, height % 2), mode="replicate")
        return [
            torch.cat([maps[2], cells], 1),
            torch.cat([maps[3], F.pixel_unshuffle(even, 2)], 1),
            torch.cat([maps[4], F.avg_pool2d(cells, 4, ceil_mode=True)], 1),
            F.avg_pool2d(cells, 8, ceil_mode=True),
        ]

    def _pyramid(self, features: list[Tensor]) -> dict[int, Tensor]:
        """Maps by the power of two of their stride."""
        sides = {i: self.fpn[f"lateral{i}"](f) for i, f in enumerate(features, 2)}
        maps, x = {}, sides[5]
        for i in (4, 3, 2):
            x = (
                F.interpolate(x, size=sides[i].shape[-2:], mode="bilinear", align_corners=False)
                + sides[i]
            )
            x = maps[i] = self.fpn[f"pw{i}"](self.fpn[f"dw{i}"](x)).relu()
        return maps


def _depthwise(width: int) -> nn.Conv2d:
    return nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)


def _head(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(
        _depthwise(width), nn.Conv2d(width, 96, 1), nn.ReLU(), nn.Conv2d(96, count, 1)
    )


def _own_name(name: str) -> str:
    if not name.startswith("backbone."):
        return f"people.{name}"
    name = name.removeprefix("backbone.")
    for theirs, ours in (
        ("conv_stem.", "stem.0."),
        ("bn1.", "stem.1."),
        ("conv_head.", "head.0."),
        ("bn2.", "head.1."),
    ):
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return name
