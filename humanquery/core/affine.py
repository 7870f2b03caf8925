"""Every geometric step as one matrix.

Coordinates are continuous pixels: x right, y down, the left edge of the first pixel is 0.0 and its
centre 0.5.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

Size = tuple[int, int]  # (height, width)
Number = int | float


@dataclass(frozen=True)
class Affine2D:
    """x' = a x + b y + c, y' = d x + e y + f, as the six numbers (a, b, c, d, e, f) in float64."""

    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0
    e: float = 1.0
    f: float = 0.0

    @staticmethod
    def scaling(sx: Number, sy: Number | None = None) -> "Affine2D":
        return Affine2D(a=float(sx), e=float(sx if sy is None else sy))

    @staticmethod
    def translation(dx: Number, dy: Number) -> "Affine2D":
        return Affine2D(c=float(dx), f=float(dy))

    @staticmethod
    def mirror(width: Number) -> "Affine2D":
        """x -> width - x."""
        return Affine2D(a=-1.0, c=float(width))

    @staticmethod
    def rotation(degrees: Number, center: tuple[Number, Number] = (0.0, 0.0)) -> "Affine2D":
        """Clockwise on the screen (y points down), about `center`."""
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        about_origin = Affine2D(a=cos, b=-sin, d=sin, e=cos)
        return (
            Affine2D.translation(*center)
            @ about_origin
            @ Affine2D.translation(-center[0], -center[1])
        )

    @staticmethod
    def resize(old: Size, new: Size) -> "Affine2D":
        """Maps a picture of size `old` exactly onto one of size `new`; the two axes may scale
        differently."""
        return Affine2D(a=new[1] / old[1], e=new[0] / old[0])

    def __matmul__(self, first: "Affine2D") -> "Affine2D":
        """`(second @ first)` applies `first`, then `second`."""
        product = self.matrix3() @ first.matrix3()
        return Affine2D(*product[:2].ravel().tolist())

    def matrix3(self) -> np.ndarray:
        """3×3 float64."""
        return np.array([[self.a, self.b, self.c], [self.d, self.e, self.f], [0, 0, 1]], np.float64)

    @property
    def determinant(self) -> float:
        """Signed area factor: areas multiply by its magnitude, a mirror makes it negative."""
        return self.a * self.e - self.b * self.d

    @property
    def is_mirror(self) -> bool:
        return self.determinant < 0

    def inverse(self) -> "Affine2D":
        if self.determinant == 0:
            raise ValueError(f"{self} has no inverse: it maps the plane onto a line")
        return Affine2D(*np.linalg.inv(self.matrix3())[:2].ravel().tolist())

    def points(self, points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        x, y = points[..., 0], points[..., 1]
        return torch.stack([self.a * x + self.b * y + self.c, self.d * x + self.e * y + self.f], -1)

    def boxes(self, boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
        """xyxy to the xyxy hull of the moved corners (exact without rotation)."""
        x1, y1, x2, y2 = boxes.unbind(-1)
        corners = self.points(
            torch.stack([x1, y1, x2, y1, x1, y2, x2, y2], -1).unflatten(-1, (4, 2))
        )
        return torch.cat([corners.amin(-2), corners.amax(-2)], -1)

    def image(
        self, image: UInt8[np.ndarray, "h w *c"], size: Size, fill: int | tuple = 0
    ) -> UInt8[np.ndarray, "H W *c"]:
        """The picture warped onto a canvas of `size`, bilinear; shrinking is anti-aliased.

        Canvas pixels whose centre lies outside the picture get `fill`; the picture's own edge is
        not mixed with it. No side of the canvas, or of the picture after shrinking, may reach 32768
        px: ValueError.
        """
        height, width = image.shape[:2]
        if not (height and width and size[0] > 0 and size[1] > 0):
            raise ValueError(
                f"a picture of {height} x {width} cannot be warped to {size}: a side is empty"
            )
        # bilinear alone would skip pixels: shrink by area to about the final scale, then warp the
        # rest
        small = (
            _shrunk(height, math.hypot(self.b, self.e)),
            _shrunk(width, math.hypot(self.a, self.d)),
        )
        if small == (height, width):
            return self._warp(image, size, fill)
        shrunk = cv2.resize(image, small[::-1], interpolation=cv2.INTER_AREA)
        return (self @ Affine2D.resize((height, width), small).inverse())._warp(
            shrunk.reshape(*small, *image.shape[2:]), size, fill
        )

    def _warp(self, image: np.ndarray, size: Size, fill: int | tuple) -> np.ndarray:
        if max(*image.shape[:2], *size) >= 32768:  # warpAffine's own limit
            raise ValueError(
                f"a picture of {image.shape[:2]} cannot be warped to {size}: no side may reach "
                f"32768 px"
            )
        half = Affine2D.translation(0.5, 0.5)
        matrix = (half.inverse() @ self @ half).matrix3()[:2]  # cv2 counts pixel centres from 0
        moved = cv2.warpAffine(
            image, matrix, size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        moved = moved.reshape(*size, *image.shape[2:])  # cv2 drops a channel axis of length 1
        self._fill_outside(moved, image.shape[:2], fill)
        return moved

    def _fill_outside(self, canvas: np.ndarray, size: Size, fill: int | tuple) -> None:
        back = self.inverse()
        x, y = np.arange(canvas.shape[1]) + 0.5, np.arange(canvas.shape[0])[:, None] + 0.5
        if self.b == 0 and self.d == 0:  # upright: whole columns and lines
            x_in, y_in = (
                _inside(back.a * x + back.c, size[1]),
                _inside(back.e * y[:, 0] + back.f, size[0]),
            )
            canvas[:, ~x_in], canvas[~y_in] = fill, fill
            return
        inside = _inside(back.a * x + back.b * y + back.c, size[1]) & _inside(
            back.d * x + back.e * y + back.f, size[0]
        )
        canvas[~inside] = fill

    def masks(self, masks: Bool[Tensor, "n h w"], size: Size) -> Bool[Tensor, "n H W"]:
        """Bitmaps moved by bilinear interpolation and cut at one half."""
        if not len(masks):
            return masks.new_zeros(0, *size)
        moved = [
            self.image(mask.numpy().view(np.uint8) * 255, size) >= 128
            for mask in masks.cpu().contiguous()
        ]
        return torch.from_numpy(np.stack(moved)).to(masks.device)


def _shrunk(length: int, scale: float) -> int:
    return max(1, round(length * scale)) if scale < 0.6 else length


def _inside(position: np.ndarray, length: int) -> np.ndarray:
    slack = 1e-6  # a centre on the very edge counts as inside whatever the rounding
    return (position > -slack) & (position < length + slack)


def fit(size: Size, short_side: int, long_side: int) -> Size:
    """The size after scaling with the aspect kept so that neither limit is passed: short side at
    most `short_side`, long side at most `long_side`; rounded to whole pixels, at least 1."""
    scale = min(long_side / max(size), short_side / min(size))
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))
