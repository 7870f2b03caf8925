"""From a person's box to the matrix that cuts the person out."""

import math
from collections.abc import Sequence

from humanquery.core.affine import Affine2D, Size
from humanquery.core.errors import AnnotationError

Number = int | float


def crop_box(
    box: Sequence[Number], size: Size, padding: Number = 1.25
) -> tuple[float, float, float, float]:
    """xyxy px of what a crop of `size` (height, width) shows: the box about its centre, its short
    side
    grown to the crop's aspect, both times `padding`.

    A box that is not finite or has no area raises AnnotationError; one outside the picture gives a
    crop without picture.
    """
    x1, y1, x2, y2 = (float(v) for v in box)
    w, h = x2 - x1, y2 - y1
    if not (math.isfinite(w) and math.isfinite(h) and w > 0 and h > 0):
        raise AnnotationError(
            f"a crop of the box {[x1, y1, x2, y2]}: expected finite xyxy px, "
            "x2 > x1 and y2 > y1; leave such boxes out"
        )
    aspect = size[1] / size[0]
    w, h = (max(w, h * aspect) * padding, max(h, w / aspect) * padding)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def crop_matrix(
    box: Sequence[Number], size: Size, padding: Number = 1.25, rotation: Number = 0.0
) -> Affine2D:
    """Picture px to px of a crop of `size` (height, width), which shows `crop_box`, turned about
    its
    centre by `rotation` degrees clockwise.

    As released, the box's centre falls on the middle of the crop in counts of pixels, of which ours
    (edges at whole numbers) are half a pixel more.
    """
    x1, y1, x2, y2 = crop_box(box, size, padding)
    half = Affine2D.translation(0.5, 0.5)
    middle = Affine2D.translation(size[1] / 2, size[0] / 2)
    scale = Affine2D.scaling(size[1] / (x2 - x1))
    about = Affine2D.translation(-(x1 + x2) / 2, -(y1 + y2) / 2)
    return half @ middle @ Affine2D.rotation(rotation) @ scale @ about @ half.inverse()
