"""Human parsing: pictures with a label PNG each (LIP, CIHP, ATR, clothing)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from humanquery.core.batch import Meta, Sample
from humanquery.core.errors import AnnotationError, ConfigError, ImageError, nearest
from humanquery.core.foreign import items, mapping, read_json, read_text
from humanquery.core.target import Target
from humanquery.core.truth_maps import TruthMap
from humanquery.data.readers.whole_pictures import ENDINGS
from humanquery.media.images import read_image

PARSING = "parsing"
"""name of the map in `Target.maps` and `Picture.maps`"""
IGNORED = 255


@dataclass(frozen=True)
class Labels:
    """Classes of a data set; the first is the background."""

    classes: tuple[str, ...]
    swaps: tuple[tuple[int, int], ...] = ()
    """classes that a mirror swaps"""


LIP_20 = Labels(
    tuple(
        "background hat hair glove sunglasses upper_clothes dress coat socks pants jumpsuits scarf "
        "skirt face left_arm right_arm left_leg right_leg left_shoe right_shoe".split()
    ),
    ((14, 15), (16, 17), (18, 19)),
)
"""LIP's, CIHP's and VIP's"""
ATR_18 = Labels(
    tuple(
        "background hat hair sunglasses upper_clothes skirt pants dress belt left_shoe right_shoe "
        "face left_leg right_leg left_arm right_arm bag scarf".split()
    ),
    ((9, 10), (12, 13), (14, 15)),
)
LABELS = {"lip20": LIP_20, "atr18": ATR_18}


@dataclass(frozen=True)
class ParsingConfig:
    """Folders of pictures and of label PNGs of the same names.

    LIP: `train_images`, `TrainVal_parsing_annotations/train_segmentations`, `train_id.txt`. CIHP:
    `Images`, `Category_ids`, `train_id.txt`. data/parsing: `images`, `labels`, `parsing.json`.
    """

    images: str
    labels: str
    listed: str = ""
    """a text file with a name per line, or a JSON file with `classes` and `pictures` of `file` and
    `split`; empty: every label file"""
    split: Literal["train", "val", "all"] = "all"
    """of a JSON list"""
    classes: str = "lip20"
    """a name of `LABELS`; a JSON list brings its own"""
    name: str = "parsing"
    """of the data set, `Target.source`"""

    def build(self) -> "ParsingSource":
        return ParsingSource(self)


class ParsingSource:
    """Pictures without people's boxes; their classes in `Target.maps[PARSING]`, `IGNORED` where
    nobody judged (and outside of the picture).

    Labels of another size than their picture, or of a class that there is not, raise
    AnnotationError when they are read.
    """

    def __init__(self, config: ParsingConfig):
        self.config = config
        self.labels, names = self._listed()
        self.files = [(self._picture(name), Path(config.labels) / f"{name}.png") for name in names]
        missing = [label for _, label in self.files if not label.is_file()]
        if missing or not self.files:
            raise AnnotationError(
                f"{config.labels}: {len(missing)} of {len(self.files)} label files are missing"
                f"{f', the first {missing[0].name}' if missing else ''}; expected a PNG for every "
                f"name in {config.listed or 'it'}"
            )

    def _listed(self) -> tuple[Labels, list[str]]:
        listed = self.config.listed
        if listed.endswith(".json"):
            content = read_json(listed, "a list of parsed pictures")
            pictures = [mapping(p, "picture") for p in items(content.get("pictures"), "pictures")]
            chosen = [p for p in pictures if self.config.split in ("all", p.get("split"))]
            labels = Labels(tuple(map(str, items(content.get("classes"), "classes"))))
            return labels, [str(p.get("file")) for p in chosen]
        if self.config.classes not in LABELS:
            raise ConfigError(
                f"parsing: no classes {self.config.classes!r}."
                f"{nearest(self.config.classes, LABELS)}"
            )
        if listed:
            names = read_text(listed, "a name per line").split()
        else:
            names = sorted(f.stem for f in Path(self.config.labels).glob("*.png"))
        return LABELS[self.config.classes], names

    def _picture(self, name: str) -> Path:
        paths = [Path(self.config.images) / f"{name}{end}" for end in ENDINGS]
        found = next((path for path in paths if path.is_file()), None)
        if found is None:
            raise AnnotationError(
                f"{self.config.images}: no picture called {name}; expected {name}.jpg or another "
                f"of {', '.join(ENDINGS)}"
            )
        return found

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        path, label_path = self.files[i]
        image = read_image(path)
        size = image.shape[:2]
        truth = TruthMap(self._classes(label_path, size), self.labels.swaps, IGNORED)
        target = Target(
            image_size=size,
            boxes=torch.zeros(0, 4),
            ignore=torch.zeros(0, dtype=torch.bool),
            areas=torch.zeros(0),
            source=self.config.name,
            maps={PARSING: truth},
        )
        return Sample(image, Meta(size, size, image_id=i, path=str(path)), target)

    def _classes(self, path: Path, size: tuple[int, int]) -> torch.Tensor:
        try:
            with Image.open(path) as picture:
                # a palette's indices are the classes; its colours are not
                numbers = picture.mode in ("P", "L")
                shape = (picture.height, picture.width)
                found = torch.from_numpy(np.array(picture)) if numbers else None
        except OSError as problem:
            raise ImageError(
                f"{path}: cannot be read ({problem}); expected a label PNG"
            ) from problem
        if found is None or shape != size:
            raise AnnotationError(
                f"{path}: {'colours' if found is None else f'{shape} px'}, expected class numbers "
                f"(one channel) of {size} px, (height, width) of its picture"
            )
        num = len(self.labels.classes)
        if ((found >= num) & (found != IGNORED)).any():
            raise AnnotationError(
                f"{path}: class {int(found[found != IGNORED].max())}, expected 0 to {num - 1} or "
                f"{IGNORED}; are these labels of another data set?"
            )
        return found
