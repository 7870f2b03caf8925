"""Several backbones side by side, as one: their maps are concatenated, what each says about people
is kept."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from humanquery.backbones.parts import IMAGENET_MEAN, IMAGENET_STD, Backbone
from humanquery.backbones.sight import Sight


class StackedFeatures(Backbone):
    """Every part gets the picture in its own normalisation. Of boxes, poses and attributes the
    first part's that has them is taken. Sides must be multiples of 32."""

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self, parts: list[Backbone]):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.channels = tuple(
            sum(widths) for widths in zip(*(part.channels for part in parts), strict=True)
        )
        self.gives = tuple(dict.fromkeys(name for part in parts for name in part.gives))
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        scales = torch.stack([std / torch.tensor(part.std) for part in parts])
        shifts = torch.stack(
            [(mean - torch.tensor(part.mean)) / torch.tensor(part.std) for part in parts]
        )
        self.register_buffer("scales", scales.view(-1, 3, 1, 1), persistent=False)
        self.register_buffer("shifts", shifts.view(-1, 3, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _c _h _w"]]:
        return self.see(images).features

    def see(
        self, images: Float[Tensor, "b 3 h w"], finer: Float[Tensor, "b 3 H W"] | None = None
    ) -> Sight:
        sights = [
            part.see(images * scale + shift, None if finer is None else finer * scale + shift)
            for part, scale, shift in zip(self.parts, self.scales, self.shifts, strict=True)
        ]
        return Sight(
            [
                torch.cat(maps, 1)
                for maps in zip(*(sight.features for sight in sights), strict=True)
            ],
            boxes=_first(sight.boxes for sight in sights),
            poses=_first(sight.poses for sight in sights),
            attributes=_first(sight.attributes for sight in sights),
        )


def _first(answers):
    return next((answer for answer in answers if answer is not None), None)
