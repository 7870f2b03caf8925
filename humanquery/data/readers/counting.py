"""Crowd counting: pictures with a point on every head (ShanghaiTech's MATLAB files)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.io
import torch
from scipy.io.matlab import MatReadError

from humanquery.core.batch import Meta, Sample
from humanquery.core.errors import AnnotationError
from humanquery.core.target import Target
from humanquery.data.readers.whole_pictures import picture_files
from humanquery.media.images import read_image

_NOT_A_MAT = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    NotImplementedError,
    MatReadError,
)
HEAD_SIDE = 2.0
"""px; nobody measured a head, so its box is a square of this side round the point"""


@dataclass(frozen=True)
class CountingConfig:
    """Pictures `NAME.jpg` and points `GT_NAME.mat`, in `images` and `ground-truth` or together."""

    folder: str
    name: str = "counting"
    """of the data set, `Target.source`"""

    def build(self) -> "CountingSource":
        return CountingSource(self)


class CountingSource:
    """One row per head: its box is a square of `HEAD_SIDE` px round the point."""

    def __init__(self, config: CountingConfig):
        self.config = config
        folder = Path(config.folder)
        apart = (folder / "images").is_dir()
        self.files = picture_files(folder / "images" if apart else folder)
        points = folder / "ground-truth" if apart else folder
        named = [points / f"GT_{file.stem}.mat" for file in self.files]
        missing = [path for path in named if not path.is_file()]
        if missing:
            raise AnnotationError(
                f"{points}: {len(missing)} of {len(named)} point files are missing, the first "
                f"{missing[0].name}; expected GT_NAME.mat for every picture NAME"
            )
        self.heads = [_read_points(path) for path in named]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        image = read_image(self.files[i])
        size = image.shape[:2]
        points, half = self.heads[i], HEAD_SIDE / 2
        target = Target(
            image_size=size,
            boxes=torch.cat([points - half, points + half], 1),
            ignore=torch.zeros(len(points), dtype=torch.bool),
            areas=torch.full((len(points),), HEAD_SIDE**2),
            source=self.config.name,
        )
        return Sample(image, Meta(size, size, image_id=i, path=str(self.files[i])), target)


def _read_points(path: Path) -> torch.Tensor:
    try:
        points = scipy.io.loadmat(path)["image_info"][0, 0][0, 0][0]
    except _NOT_A_MAT as problem:
        raise AnnotationError(
            f"{path}: no 'image_info' with points ({type(problem).__name__}: {problem}); expected "
            f"a MATLAB file of ShanghaiTech"
        ) from problem
    points = np.asarray(points, dtype=np.float32).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise AnnotationError(f"{path}: a point is not finite; expected x, y in px")
    return torch.from_numpy(points)
