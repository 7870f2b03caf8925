"""RTMDet-nano (Lyu et al., "RTMDet: An Empirical Study of Designing Real-Time Object Detectors",
2022): a detector of people as a frozen backbone that also gives its boxes."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from humanquery.backbones.parts import fill, freeze, read_tensors
from humanquery.experts.answers import Answers, DenseBoxes, Expert

STEM, STAGES, BLOCKS = (8, 8, 16), (32, 64, 128, 256), (1, 2, 2, 1)
NECK, TOWER = 64, 64


@dataclass(frozen=True)
class RtmdetBackbone:
    """`weights`: a local file with RTMDet-nano's folded parameters (`backbone.`, `neck.`,
    `bbox_head.`)."""

    weights: str = ""
    head: bool = True
    """keep the head: its towers join the maps of strides 8, 16, 32, and `RtmdetFeatures.answer` has
    boxes"""


class RtmdetFeatures(Expert):
    """The map of stride 4 is the backbone's first stage; at strides 8, 16, 32 stand the neck's
    outputs and, with the head, behind them the towers of class and box (64 channels each).

    All parameters are frozen and no norm is left: the file holds norms folded into biases. The
    network works on sides that are multiples of 32: other pictures are padded right and bottom
    by their mean colour, and maps and boxes are cut back to the cells that the picture
    reaches.
    """

    # RTMDet was trained on BGR in 0..255; `_maps` swaps the channels
    mean = (123.675 / 255, 116.28 / 255, 103.53 / 255)
    std = (58.395 / 255, 57.12 / 255, 57.375 / 255)

    def __init__(self, config: RtmdetBackbone):
        super().__init__()
        # modules bear the names of the file, so that it loads without a map of names
        self.backbone = CSPNeXt()
        self.neck = Pafpn(STAGES[1:])
        self.bbox_head = SeparateHead(levels=3) if config.head else None
        self.channels = (STAGES[0], *[NECK + 2 * TOWER * config.head] * 3)
        self.answers_about = ("person",) if config.head else ()
        if config.weights:
            wanted = {
                n: t
                for n, t in read_tensors(config.weights).items()
                if config.head or "bbox_head." not in n
            }
            fill(self, wanted, config.weights)
        freeze([self])

    def answer(
        self, images: Float[Tensor, "b 3 h w"], zoomed: Float[Tensor, "b 3 H W"] | None = None
    ) -> Answers:
        """Maps, and boxes where the head was kept; they may reach over the pictures' edges."""
        first, levels = self._maps(images)
        if self.bbox_head is None:
            return Answers(self._features(first, levels, [()] * len(levels), images))
        towers = self.bbox_head.towers(levels)
        logits, boxes = [], []
        for (logit, distances), stride in zip(
            self.bbox_head.outputs(towers), self.strides[1:], strict=True
        ):
            logits.append(_reached(logit, images, stride).float().flatten(1))
            boxes.append(
                cell_boxes(_reached(distances, images, stride).float() * stride, stride).flatten(
                    1, 2
                )
            )
        return Answers(
            self._features(first, levels, towers, images),
            DenseBoxes(torch.cat(logits, 1), torch.cat(boxes, 1)),
        )

    def _maps(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The map of stride 4 and the neck's three, of the pictures padded to multiples of 32."""
        height, width = images.shape[-2:]
        first, *stages = self.backbone(F.pad(images.flip(1), (0, -width % 32, 0, -height % 32)))
        return first, self.neck(stages)

    def _features(
        self, first: Tensor, levels: list[Tensor], towers: list[tuple], images: Tensor
    ) -> list[Tensor]:
        maps = [
            first,
            *(torch.cat([level, *pair], 1) for level, pair in zip(levels, towers, strict=True)),
        ]
        return [_reached(m, images, stride) for m, stride in zip(maps, self.strides, strict=True)]


def _reached(
    cells: Float[Tensor, "b c _h _w"], images: Tensor, stride: int
) -> Float[Tensor, "b c _i _j"]:
    """Without the cells that lie wholly in the padding."""
    height, width = images.shape[-2:]
    return cells[..., : -(-height // stride), : -(-width // stride)]


def cell_boxes(distances: Float[Tensor, "b 4 h w"], stride: int) -> Float[Tensor, "b h w 4"]:
    """xyxy from the distances (px) to left, top, right, bottom from each cell's upper left
    corner."""
    height, width = distances.shape[-2:]
    x = torch.arange(width, device=distances.device, dtype=distances.dtype) * stride
    y = torch.arange(height, device=distances.device, dtype=distances.dtype)[:, None] * stride
    left, top, right, bottom = distances.unbind(1)
    return torch.stack([x - left, y - top, x + right, y + bottom], -1)


class CSPNeXt(nn.Module):
    """Pictures (BGR, normalised) to maps of strides 4, 8, 16, 32."""

    def __init__(self):
        super().__init__()
        widths = (3, *STEM)
        self.stem = nn.Sequential(
            *[Conv(widths[i], widths[i + 1], 3, stride=2 if i == 0 else 1) for i in range(3)]
        )
        widths = (STEM[-1], *STAGES)
        for i, blocks in enumerate(BLOCKS):
            width, last = widths[i + 1], i == len(BLOCKS) - 1
            layers = [Separable(widths[i], width, 3, stride=2)]
            layers += [SpatialPyramid(width)] if last else []
            layers += [CrossStage(width, width, blocks, in_backbone=True, residual=not last)]
            self.add_module(f"stage{i + 1}", nn.Sequential(*layers))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _c _h _w"]]:
        x, maps = self.stem(images), []
        for i in range(len(BLOCKS)):
            x = self.get_submodule(f"stage{i + 1}")(x)
            maps.append(x)
        return maps


class Pafpn(nn.Module):
    """Coarse to fine and back: every level gets features of all others; `NECK` channels each."""

    def __init__(self, widths: tuple[int, int, int]):
        super().__init__()
        fine, middle, coarse = widths
        self.reduce_layers = nn.ModuleList([Conv(coarse, middle, 1), Conv(middle, fine, 1)])
        self.top_down_blocks = nn.ModuleList(
            [CrossStage(2 * middle, middle, 1), CrossStage(2 * fine, fine, 1)]
        )
        self.downsamples = nn.ModuleList(
            [Separable(fine, fine, 3, stride=2), Separable(middle, middle, 3, stride=2)]
        )
        self.bottom_up_blocks = nn.ModuleList(
            [CrossStage(2 * fine, middle, 1), CrossStage(2 * middle, coarse, 1)]
        )
        self.out_convs = nn.ModuleList([Separable(width, NECK, 3) for width in widths])

    def forward(self, maps: list[Float[Tensor, "b _c _h _w"]]) -> list[Float[Tensor, "b _d _h _w"]]:
        x, reduced, finer = maps[-1], [], maps[-2::-1]
        for reduce, block, below in zip(
            self.reduce_layers, self.top_down_blocks, finer, strict=True
        ):
            reduced.append(reduce(x))
            x = block(
                torch.cat([F.interpolate(reduced[-1], scale_factor=2, mode="nearest"), below], 1)
            )
        outs = [x]
        for shrink, block, above in zip(
            self.downsamples, self.bottom_up_blocks, reduced[::-1], strict=True
        ):
            outs.append(block(torch.cat([shrink(outs[-1]), above], 1)))
        return [conv(x) for conv, x in zip(self.out_convs, outs, strict=True)]


class SeparateHead(nn.Module):
    """Per level a tower for the class and one for the box, and from each a 1×1 convolution."""

    def __init__(self, levels: int):
        super().__init__()
        self.cls_convs = nn.ModuleList([_tower() for _ in range(levels)])
        self.reg_convs = nn.ModuleList([_tower() for _ in range(levels)])
        self.rtm_cls = nn.ModuleList([nn.Conv2d(TOWER, 1, 1) for _ in range(levels)])
        self.rtm_reg = nn.ModuleList([nn.Conv2d(TOWER, 4, 1) for _ in range(levels)])

    def towers(self, levels: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Features of class and of box, per level."""
        both = zip(self.cls_convs, self.reg_convs, levels, strict=True)
        return [(cls(level), reg(level)) for cls, reg, level in both]

    def outputs(self, towers: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Per level the logits b×1×h×w and the distances b×4×h×w (left, top, right, bottom) in
        strides."""
        both = zip(self.rtm_cls, self.rtm_reg, towers, strict=True)
        return [(cls(pair[0]), reg(pair[1])) for cls, reg, pair in both]


def _tower() -> nn.Sequential:
    return nn.Sequential(Separable(NECK, TOWER, 3), Separable(TOWER, TOWER, 3))


class Conv(nn.Module):
    """Convolution (its norm folded into the bias) and SiLU."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return F.silu(self.conv(x))


class Separable(nn.Module):
    """Depthwise convolution, then 1×1, each with SiLU."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int = 1):
        super().__init__()
        self.depthwise_conv = Conv(inner, inner, kernel, stride, groups=inner)
        self.pointwise_conv = Conv(inner, outer, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return self.pointwise_conv(self.depthwise_conv(x))


class Block(nn.Module):
    """A 3×3 and a 5×5 separable convolution, with or without a way around them."""

    def __init__(self, width: int, residual: bool):
        super().__init__()
        self.conv1, self.conv2 = Separable(width, width, 3), Separable(width, width, 5)
        self.residual = residual

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        out = self.conv2(self.conv1(x))
        return out + x if self.residual else out


class ChannelAttention(nn.Module):
    """Each channel weighed by a hard sigmoid of a projection of its mean over the map."""

    def __init__(self, width: int):
        super().__init__()
        self.fc = nn.Conv2d(width, width, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x * F.hardsigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class CrossStage(nn.Module):
    """Half of the channels go through blocks, half around them; in the backbone with attention
    over channels."""

    def __init__(
        self, inner: int, outer: int, blocks: int, in_backbone: bool = False, residual: bool = False
    ):
        super().__init__()
        half = outer // 2
        self.main_conv, self.short_conv = Conv(inner, half, 1), Conv(inner, half, 1)
        self.blocks = nn.Sequential(*[Block(half, residual) for _ in range(blocks)])
        self.attention = ChannelAttention(outer) if in_backbone else nn.Identity()
        self.final_conv = Conv(outer, outer, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        both = torch.cat([self.blocks(self.main_conv(x)), self.short_conv(x)], 1)
        return self.final_conv(self.attention(both))


class SpatialPyramid(nn.Module):
    """The map beside its maxima over squares of 5, 9 and 13 cells."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.conv2 = Conv(width, width // 2, 1), Conv(2 * width, width, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        x = self.conv1(x)
        return self.conv2(torch.cat([x, *[F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13)]], 1))
