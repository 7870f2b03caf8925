"""Several backbones side by side, as one: their maps are concatenated, the answers of experts among
them are kept."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from humanquery.backbones.parts import IMAGENET_MEAN, IMAGENET_STD, Backbone
from humanquery.experts.answers import Answers, Expert, answer


class StackedFeatures(Expert):
    """Every part gets the picture in its own normalisation. Of boxes, poses and attributes the
    first part's that has them is taken. Sides must be multiples of 32."""

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self, parts: list[Backbone]):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.channels = tuple(
            sum(widths) for widths in zip(*(part.channels for part in parts), strict=True)
        )
        self.answers_about = tuple(
            dict.fromkeys(name for part in parts for name in getattr(part, "answers_about", ()))
        )
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        scales = torch.stack([std / torch.tensor(part.std) for part in parts])
        shifts = torch.stack(
            [(mean - torch.tensor(part.mean)) / torch.tensor(part.std) for part in parts]
        )
        self.register_buffer("scales", scales.view(-1, 3, 1, 1), persistent=False)
        self.register_buffer("shifts", shifts.view(-1, 3, 1, 1), persistent=False)

    def answer(
        self, images: Float[Tensor, "b 3 h w"], zoomed: Float[Tensor, "b 3 H W"] | None = None
    ) -> Answers:
        answers = [
            answer(part, images * scale + shift, None if zoomed is None else zoomed * scale + shift)
            for part, scale, shift in zip(self.parts, self.scales, self.shifts, strict=True)
        ]
        return Answers(
            [torch.cat(maps, 1) for maps in zip(*(one.features for one in answers), strict=True)],
            boxes=_first(one.boxes for one in answers),
            poses=_first(one.poses for one in answers),
            attributes=_first(one.attributes for one in answers),
        )


def _first(answers):
    return next((answer for answer in answers if answer is not None), None)
