"""A vision transformer that every data set shares, with positions for any picture size."""

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import drop_path
from torch import Tensor, nn

from humanquery.backbones.parts import IMAGENET_MEAN, IMAGENET_STD, read_tensors
from humanquery.core.errors import CheckpointError, ConfigError
from humanquery.models.path.config import PathBackbone

Grid = tuple[int, int]  # rows, columns of patches


def resized_positions(
    table: Float[Tensor, "1 n d"], old: Grid, new: Grid
) -> Float[Tensor, "1 m d"]:
    """The table of positions for another grid: bicubic, the same table for the same grid."""
    if old == new:
        return table
    maps = table.transpose(1, 2).unflatten(2, old)
    moved = F.interpolate(maps, size=new, mode="bicubic", align_corners=False)
    return moved.flatten(2).transpose(1, 2)


class SharedBackbone(nn.Module):
    """b×3×h×w pictures, RGB 0..1, to the token maps of all blocks.

    Data sets in `class_tokens` have a class token and its position of their own, token 0 of every
    map; all else is shared. Sides are padded with zeros to whole patches after normalisation.
    """

    def __init__(self, config: PathBackbone, class_tokens: tuple[str, ...]):
        super().__init__()
        self.config = config
        try:
            body = timm.create_model(config.name, num_classes=0, dynamic_img_size=True)
        except (RuntimeError, TypeError) as problem:
            raise ConfigError(
                f"path: backbone {config.name!r} cannot be built by timm as a vision transformer: "
                f"{problem}; see timm.list_models('vit_*')"
            ) from None
        if not hasattr(body, "blocks") or getattr(body, "num_prefix_tokens", 1) != 1:
            raise ConfigError(
                f"path: backbone {config.name!r} is no plain vision transformer with one class "
                f"token, e.g. vit_base_patch16_224"
            )
        self.patch = body.patch_embed.patch_size[0]
        self.dim = body.embed_dim
        self.patch_embed, self.blocks, self.norm = body.patch_embed, body.blocks, body.norm
        if config.weights:
            tables = self._fill(config.weights)
        else:
            tables = body.cls_token.data, body.pos_embed.data
        # the position of the class token is added to it: one parameter says both
        token, table = tables[0] + tables[1][:, :1], tables[1][:, 1:]
        side = int(table.shape[1] ** 0.5)
        if side * side != table.shape[1]:
            raise CheckpointError(
                f"{config.weights or config.name}: pos_embed has {table.shape[1] + 1} rows, "
                f"expected a class token and a square grid"
            )
        self.pos_embed = nn.Parameter(resized_positions(table, (side, side), config.grid).clone())
        self.cls_tokens = nn.ParameterDict(
            {name: nn.Parameter(token.clone()) for name in class_tokens}
        )
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def _fill(self, path: str) -> tuple[Tensor, Tensor]:
        """Blocks, patch embedding and norm from a file with timm's names; gives its class token and
        its table of positions."""
        tensors = read_tensors(path)
        wanted = {
            f"{part}.{name}": value
            for part in ("patch_embed", "blocks", "norm")
            for name, value in getattr(self, part).state_dict().items()
        }
        lacking = [
            name
            for name, value in wanted.items()
            if name not in tensors or tensors[name].shape != value.shape
        ]
        lacking += [name for name in ("cls_token", "pos_embed") if name not in tensors]
        if lacking:
            raise CheckpointError(
                f"backbone weights {path} do not fit {self.config.name}: {len(lacking)} tensors "
                f"are missing or of another shape, the first {lacking[0]}; expected timm's names"
            )
        with torch.no_grad():
            for name, value in wanted.items():
                value.copy_(tensors[name])
        return tensors["cls_token"], tensors["pos_embed"]

    def forward(
        self, images: Float[Tensor, "b 3 h w"], data_set: str, rate: float | int = 0.0
    ) -> tuple[list[Float[Tensor, "b n d"]], Grid]:
        """Maps of the patch embedding with positions and of every block, and their grid; `rate` is
        the drop path of the last block."""
        height, width = images.shape[-2:]
        normed = (images - self.mean) / self.std
        padded = F.pad(normed, (0, -width % self.patch, 0, -height % self.patch))
        grid = (padded.shape[-2] // self.patch, padded.shape[-1] // self.patch)
        tokens = self.patch_embed.proj(padded).flatten(2).transpose(1, 2)
        x = tokens + resized_positions(self.pos_embed, self.config.grid, grid)
        if data_set in self.cls_tokens:
            x = torch.cat([self.cls_tokens[data_set].expand(len(x), -1, -1), x], 1)
        maps = [x]
        for i, block in enumerate(self.blocks):
            x = self._block(block, x, rate * i / max(1, len(self.blocks) - 1))
            maps.append(x)
        return maps, grid

    def _block(self, block: nn.Module, x: Tensor, rate: float) -> Tensor:
        # not block(x): the rate belongs to the data set, not to the shared block
        x = x + drop_path(block.ls1(block.attn(block.norm1(x))), rate, self.training)
        return x + drop_path(block.ls2(block.mlp(block.norm2(x))), rate, self.training)
