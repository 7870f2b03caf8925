"""Multi-scale deformable attention: the sampling and weighing, by one of several providers with one
signature."""

import importlib.util
import os
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from humanquery.core.errors import ConfigError, nearest
from humanquery.core.transfer import constants
from humanquery.ops import native
from humanquery.ops.fused import attend

Side = int | torch.SymInt  # a symbol in a trace
Shapes = tuple[tuple[Side, Side], ...]  # (height, width) of every level
Value = Float[Tensor, "b s heads d"]
Locations = Float[Tensor, "b q heads levels points 2"]
Weights = Float[Tensor, "b q heads levels points"]


def deformable_attention(
    value: Value, shapes: Shapes, locations: Locations, weights: Weights
) -> Float[Tensor, "b q c"]:
    """Weighted bilinear samples of `value` (Deformable DETR, eq. 3 without the projections).

    `locations` are (x, y) in 0..1 of each level's map; cell centres lie at (i + 0.5) / n; zero
    outside. The c = heads · d outputs of a query stand head by head, in the values' dtype; half
    precision is summed up in float32. `PROVIDERS` all give the same; see `provider_for` for which
    one runs. ValueError where the maps of `shapes` are not what `value` holds.
    """
    exporting = _exporting()  # sides are symbols then
    if not exporting and (
        any(h < 1 or w < 1 for h, w in shapes) or sum(h * w for h, w in shapes) != value.shape[1]
    ):
        raise ValueError(
            f"deformable attention: value has {value.shape[1]} cells, the maps {shapes} have others"
        )
    wanted = os.environ.get("HUMANQUERY_ATTENTION") or "auto"
    return PROVIDERS[provider_for(value.device.type, wanted, exporting)](
        value, shapes, locations, weights
    )


def provider_for(device: str, wanted: str = "auto", exporting: bool = False) -> str:
    """The name in `PROVIDERS` of what computes: `wanted` (the environment variable
    HUMANQUERY_ATTENTION), or where it is "auto" the fastest that is there.

    A graph that is exported gets plain torch operations. ConfigError where `wanted` is unknown, or
    cannot run here.
    """
    if wanted not in (*PROVIDERS, "auto"):
        raise ConfigError(
            f"HUMANQUERY_ATTENTION={wanted}: unknown "
            f"provider.{nearest(wanted, [*PROVIDERS, 'auto'])}"
        )
    if exporting:
        return "indexed"
    if wanted in ("reference", "gather", "indexed"):
        return wanted
    if wanted in ("native", "triton") and _obstacle(wanted, device):
        why = _obstacle(wanted, device)
        raise ConfigError(
            f"HUMANQUERY_ATTENTION={wanted}: not available: {why}. Unset it, or say auto or gather."
        )
    if wanted != "auto":
        return wanted
    return next((name for name in ("native", "triton") if not _obstacle(name, device)), "gather")


# what torch.compiler.assume_constant_result writes; calling it would import PyTorch's compiler, as
# long as all the rest of loading a model
provider_for._dynamo_marked_constant = True


def _obstacle(name: str, device: str) -> str:
    """Why a kernel of our own cannot run there, "" where it can."""
    home = {"native": "cpu", "triton": "cuda"}[name]
    if device != home:
        return f"it runs on {home}, the values are on {device}"
    if name == "native":
        return native.missing()
    return "" if importlib.util.find_spec("triton") else "the package triton is not installed"


def _exporting() -> bool:
    in_export = getattr(
        torch.compiler, "is_exporting", torch.compiler.is_compiling
    )  # torch 2.6 cannot tell them apart
    return in_export() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()


def fused(
    value: Value, shapes: Shapes, locations: Locations, weights: Weights
) -> Float[Tensor, "b q c"]:
    """The operator with a kernel of its own; float64, and pictures with more numbers than 32 bits
    count, by `gather`."""
    if value.dtype == torch.float64 or value[:1].numel() > native.MOST_NUMBERS:
        return gather(value, shapes, locations, weights)
    wide = (
        value.float() if value.dtype == torch.float16 and not value.is_cuda else value
    )  # the kernel in C has no fp16
    sides = [n for shape in shapes for n in shape]
    if _nobody_watches(value, locations, weights):
        seen = native.forward(wide, sides, locations.float(), weights.float())
    else:
        seen = attend(wide, sides, locations, weights)
    return seen.to(value.dtype)


def _nobody_watches(*inputs: Tensor) -> bool:
    """Neither autograd nor a graph, on the CPU: then the kernel is called without its operator,
    whose first call would import PyTorch's compiler, as long as PyTorch itself."""
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    plain = all(type(x) is Tensor and x.device.type == "cpu" for x in inputs)  # not a fake one
    return plain and not learns and not torch.compiler.is_compiling()


def reference(
    value: Value, shapes: Shapes, locations: Locations, weights: Weights
) -> Float[Tensor, "b q c"]:
    """One `grid_sample` per level."""
    dtype, (value, locations, weights) = value.dtype, _widened(value, locations, weights)
    b, _, heads, d = value.shape
    q = locations.shape[1]
    out = value.new_zeros(b * heads, d, q)
    for level, plane in enumerate(value.split([h * w for h, w in shapes], 1)):
        plane = plane.permute(0, 2, 3, 1).reshape(b * heads, d, *shapes[level])
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        seen = F.grid_sample(
            plane, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )
        weight = weights[:, :, :, level].transpose(1, 2).reshape(b * heads, 1, q, weights.shape[-1])
        out = out + (seen * weight).sum(-1)
    return out.reshape(b, heads * d, q).transpose(1, 2).to(dtype)


def gather(
    value: Value, shapes: Shapes, locations: Locations, weights: Weights
) -> Float[Tensor, "b q c"]:
    """All corners of all samples of a query as one weighted bag of rows: no native code of our own,
    and several times faster than `grid_sample` on a CPU because every row is read once, in one
    piece."""
    dtype, (value, locations, weights) = value.dtype, _widened(value, locations, weights)
    b, s, heads, d = value.shape
    q = locations.shape[1]
    rows, shares = _corners(shapes, locations, s)
    # one bag of 4 · levels · points rows for every picture, query and head
    bag = 4 * weights.shape[3] * weights.shape[4]
    shares = [share * weights for share in shares]
    rows = torch.stack(rows, 3).reshape(b * q * heads, bag)
    shares = torch.stack(shares, 3).reshape(b * q * heads, bag)
    table = value.reshape(b * s * heads, d)
    seen = F.embedding_bag(rows, table, mode="sum", per_sample_weights=shares)
    return seen.reshape(b, q, heads * d).to(dtype)


def _widened(*inputs: Tensor) -> list[Tensor]:
    """All in one dtype that can be summed up: float32, or float64 where one of them is."""
    wide = torch.float64 if any(x.dtype == torch.float64 for x in inputs) else torch.float32
    return [x.to(wide) for x in inputs]


def indexed(
    value: Value, shapes: Shapes, locations: Locations, weights: Weights
) -> Float[Tensor, "b q c"]:
    """`gather` in plain indexing, multiplying and adding, which every runtime of exported graphs
    has; level by level, since the rows of all samples at once would be the largest array of the
    network."""
    dtype, (value, locations, weights) = value.dtype, _widened(value, locations, weights)
    b, s, heads, d = value.shape
    q, points = locations.shape[1], locations.shape[-2]
    rows, shares = _corners(shapes, locations, s)
    table = value.reshape(b * s * heads, d)
    out = value.new_zeros(b * q * heads, 1, d)
    for level in range(len(shapes)):
        for row, share in zip(rows, shares, strict=True):
            seen = table[row[:, :, :, level].reshape(-1).long()].reshape(b * q * heads, points, d)
            out = out + (share * weights)[:, :, :, level].reshape(b * q * heads, 1, points) @ seen
    return out.reshape(b, q, heads * d).to(dtype)


def _corners(shapes: Shapes, locations: Locations, s: Side) -> tuple[list[Tensor], list[Weights]]:
    """For each of the four cells around every sample: its row in the (picture, cell, head) table,
    and its bilinear share, 0 where outside."""
    b, _, heads = locations.shape[:3]
    index = {"device": locations.device, "dtype": torch.int32}
    sizes = [[w for _, w in shapes], [h for h, _ in shapes], [0, *[h * w for h, w in shapes[:-1]]]]
    width, height, starts = constants(sizes, locations, torch.int32)[..., None]
    starts = starts.cumsum(0, dtype=torch.int32)
    first = torch.arange(b, **index).view(b, 1, 1, 1, 1) * s + starts
    head = torch.arange(heads, **index).view(heads, 1, 1)
    columns, x_shares = _axis(locations[..., 0], width)
    lines, y_shares = _axis(locations[..., 1], height)
    lines = [(line * width + first) * heads + head for line in lines]
    columns = [column * heads for column in columns]
    rows = [line + column for line in lines for column in columns]
    return rows, [y * x for y in y_shares for x in x_shares]


def _axis(places: Tensor, cells: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The two cells around a place on one axis, kept inside the map, and their linear shares, 0
    where outside."""
    at = places * cells.to(places.dtype) - 0.5
    low = at.detach().floor()
    part = at - low
    low = low.int()
    low_share = torch.where((low >= 0) & (low < cells), 1 - part, 0.0)
    high_share = torch.where((low >= -1) & (low < cells - 1), part, 0.0)
    return [low.clamp(min=0).minimum(cells - 1), (low + 1).clamp(min=0).minimum(cells - 1)], [
        low_share,
        high_share,
    ]


PROVIDERS: dict[str, Callable] = {
    "reference": reference,
    "gather": gather,
    "indexed": indexed,
    "native": fused,
    "triton": fused,
}
