"""The network with decoding as one function of tensors, and its trace."""

import copy

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_unflatten

from humanquery.core.system import System
from humanquery.nn.same_padding import SameConv2d

SIDE_STEP = 32
"""both sides of a canvas batch are multiples of this"""
INPUTS = ("images", "sizes", "score", "zoomed")
"""the last one only for a system whose config asks for zoomed pictures (`LetterboxConfig.zoom`)"""


class Graph(nn.Module):
    """What is exported: uint8 pictures in, everything about the best persons out, in canvas px.

    Of each picture as many people are looked at as the fullest one has with at least `score`:
    streets that are nearly empty cost little and crowds are not cut. Each task adds its outputs
    by `Task.tensors`; the graph itself adds `embeddings`, and `queries` and `tokens`: which
    query each row is, and which memory token each query started from.
    """

    def __init__(self, system: System):
        super().__init__()
        self.system = system.eval()

    def forward(
        self,
        images: UInt8[Tensor, "b 3 h w"],
        sizes: Int[Tensor, "b 2"],
        score: Float[Tensor, ""],
        zoomed: UInt8[Tensor, "b 3 H W"] | None = None,
    ) -> dict[str, Float[Tensor, "b k ..."] | Int[Tensor, "b _"]]:
        """`images`: RGB, at the top left of their canvas; `sizes`: (height, width) of each. What
        lies outside does not count."""
        net = self.system
        line = torch.arange(images.shape[2], device=images.device)[None, :, None]
        column = torch.arange(images.shape[3], device=images.device)[None, None]
        padding = (line >= sizes[:, 0, None, None]) | (column >= sizes[:, 1, None, None])
        closer = None if zoomed is None else zoomed.float() / 255
        encoded = net.encode_images(images.float() / 255, padding, sizes, closer)
        prepared = net.prepare(encoded)
        outputs = net.read_queries(encoded, prepared, every_stage=False)
        return net.found_people(
            encoded, prepared, outputs, score, min(net.config.num_persons, net.config.num_queries)
        )


def example(side: int = 4 * SIDE_STEP, zoomed: int = 1) -> tuple[Tensor, ...]:
    """Two noisy pictures of different size on one canvas, of which everybody is wanted: the
    inputs of a `Graph`."""
    noise = torch.Generator().manual_seed(0)
    height, width = side, side + SIDE_STEP
    images = torch.randint(0, 256, (2, 3, height, width), generator=noise).to(torch.uint8)
    given = images, torch.tensor([[height, width - 10], [height - 20, width]]), torch.tensor(0.0)
    return (
        given
        if zoomed == 1
        else (*given, images.repeat_interleave(zoomed, 2).repeat_interleave(zoomed, 3))
    )


def with_fixed_padding(module: nn.Module) -> nn.Module:
    """A copy in which TensorFlow's padding, which follows the size of the map, is the fixed one
    that it comes to when every stride divides its map: so it is on canvases of `SIDE_STEP`.
    Traces stay short."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, SameConv2d):
                setattr(parent, name, _fixed(child))
    return module


def _fixed(conv: SameConv2d) -> nn.Sequential:
    """TensorFlow pads by (kernel - 1) · dilation + 1 - stride in all, the odd one right and
    below."""
    (tall, wide) = (
        max((k - 1) * d + 1 - s, 0)
        for k, d, s in zip(conv.kernel_size, conv.dilation, conv.stride, strict=True)
    )
    plain = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, 0, conv.dilation,
        conv.groups,
        conv.bias is not None,
    )  # fmt: skip
    plain.weight, plain.bias = conv.weight, conv.bias
    return nn.Sequential(
        nn.ZeroPad2d((wide // 2, wide - wide // 2, tall // 2, tall - tall // 2)), plain
    )


def trace(system: System) -> ExportedProgram:
    """The system's graph for any number of pictures on canvases of any size in steps of
    `SIDE_STEP`."""
    batch, tall, wide = Dim("batch", min=1), Dim("tall", min=1), Dim("wide", min=1)
    open_sizes = {
        "images": {0: batch, 2: SIDE_STEP * tall, 3: SIDE_STEP * wide},
        "sizes": {0: batch},
        "score": None,
    }
    times = system.config.input.zoom
    if times > 1:
        open_sizes["zoomed"] = {0: batch, 2: times * SIDE_STEP * tall, 3: times * SIDE_STEP * wide}
    with torch.no_grad():
        return torch.export.export(
            Graph(with_fixed_padding(system)),
            example(zoomed=times),
            dynamic_shapes=open_sizes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def input_names(program: ExportedProgram) -> list[str]:
    """Names of the graph's inputs, in their order."""
    return list(INPUTS[: len(program.graph_signature.user_inputs)])


def output_names(program: ExportedProgram) -> list[str]:
    """Names of the graph's outputs, in their order in the program."""
    places = tree_unflatten(
        list(range(program.call_spec.out_spec.num_leaves)), program.call_spec.out_spec
    )
    return sorted(places, key=places.get)
