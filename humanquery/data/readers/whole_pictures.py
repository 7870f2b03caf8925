"""Pictures whose one person fills them, and folders of pictures: what readers of crops share."""

from pathlib import Path

import torch

from humanquery.core.batch import Meta, Sample
from humanquery.core.errors import AnnotationError
from humanquery.core.rows import Extra
from humanquery.core.target import Target
from humanquery.media.images import read_image

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def picture_files(folder: Path) -> list[Path]:
    """Pictures in a folder and all below it, sorted by path; a folder without any raises
    AnnotationError."""
    if not folder.is_dir():
        raise AnnotationError(f"{folder}: no such folder; expected one with pictures")
    found = sorted(f for f in folder.rglob("*") if f.suffix.lower() in ENDINGS)
    if not found:
        raise AnnotationError(f"{folder}: holds no picture; expected {', '.join(ENDINGS)}")
    return found


def one_person(path: Path, i: int, source: str, extra: dict[str, Extra], **fields) -> Sample:
    """A picture with one row: a person whose box is the picture."""
    image = read_image(path)
    size = image.shape[:2]
    target = Target(
        image_size=size,
        boxes=torch.tensor([[0.0, 0.0, size[1], size[0]]]),
        ignore=torch.zeros(1, dtype=torch.bool),
        areas=torch.tensor([float(size[0] * size[1])]),
        source=source,
        extra=extra,
        **fields,
    )
    return Sample(image, Meta(size, size, image_id=i, path=str(path)), target)
