"""Re-identification: crops of people whose identity and camera stand in their file names."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from humanquery.core.batch import Sample
from humanquery.core.errors import AnnotationError
from humanquery.core.fields import FieldSpec
from humanquery.core.rows import Extra
from humanquery.data.readers.whole_pictures import one_person, picture_files

CAMERA = FieldSpec("camera")
"""number of the camera, a row of `Target.extra`"""
PERSON_CLASS = FieldSpec("person_class")
"""0 .. people - 1 of this source, for a classifier of identities; -1: nobody of them"""
PATTERNS = {
    "market": (r"(?P<id>-?\d+)_c(?P<camera>\d+)", "0002_c1s1_000451_03.jpg"),
    "msmt": (r"(?P<id>\d+)_\d+_(?P<camera>\d+)_", "0000_000_01_0303morning_0008_0.jpg"),
    "sensereid": (r"(?P<id>\d+)_(?P<camera>\d+)", "00001_0.jpg"),
    "folders": (r"(?P<id>\d+)/(?P<camera>\d+)_", "001/01_3.jpg"),
}
"""how names say who and where: a pattern and an example. market: also DukeMTMC's and CUHK03-NP's
folders; folders: one folder per person (PKU-Reid)"""


@dataclass(frozen=True)
class IdentityConfig:
    """A folder of crops, for instance `bounding_box_train`, `query` or `bounding_box_test`."""

    folder: str
    names: Literal["market", "msmt", "sensereid", "folders"] = "market"
    cameras: tuple[int, ...] = ()
    """only pictures of these; empty: of all"""
    listed: str = ""
    """a text file whose lines begin with a path inside `folder` (MSMT17's `list_train.txt`); empty:
    all pictures"""
    name: str = ""
    """of the data set, `Target.source`; empty: the folder's name"""

    def build(self) -> "IdentitySource":
        return IdentitySource(self)


class IdentitySource:
    """One crop per sample, sorted by path: identity in `track_ids`, `CAMERA` and `PERSON_CLASS` in
    `extra`.

    Identities -1 (junk) and 0 (distractors) have no class. A name that does not say who and where
    raises AnnotationError.
    """

    def __init__(self, config: IdentityConfig):
        self.config, self.folder = config, Path(config.folder)
        self.name = config.name or self.folder.name
        read = [(path, *self._who(path)) for path in self._files()]
        chosen = [r for r in read if not config.cameras or r[2] in config.cameras]
        if not chosen:
            raise AnnotationError(
                f"{self.folder}: no picture of cameras {config.cameras}; there are "
                f"{sorted({camera for _, _, camera in read})}"
            )
        self.files, self.identities, self.cameras = (
            list(part) for part in zip(*chosen, strict=True)
        )
        self.people = sorted({identity for identity in self.identities if identity > 0})
        self._class_of = {identity: i for i, identity in enumerate(self.people)}

    def _files(self) -> list[Path]:
        if not self.config.listed:
            return picture_files(self.folder)
        lines = [line.split() for line in Path(self.config.listed).read_text().splitlines()]
        files = [self.folder / line[0] for line in lines if line]
        missing = [f for f in files if not f.is_file()]
        if missing or not files:
            raise AnnotationError(
                f"{self.config.listed}: {len(missing)} of {len(files)} files are not in "
                f"{self.folder}{f', the first {missing[0].name}' if missing else ''}; expected "
                f"lines that begin with a path inside of it"
            )
        return files

    def _who(self, path: Path) -> tuple[int, int]:
        pattern, example = PATTERNS[self.config.names]
        inside = path.relative_to(self.folder).as_posix()
        name = inside if self.config.names == "folders" else path.name
        found = re.match(pattern, name)
        if not found:
            raise AnnotationError(
                f"{self.folder}: {inside!r} does not say who it shows; expected names like "
                f"{example!r} ({self.config.names}); other dialects: {', '.join(PATTERNS)}"
            )
        return int(found["id"]), int(found["camera"])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        known = self._class_of.get(self.identities[i], -1)
        extra = {
            "camera": Extra(CAMERA, torch.tensor([self.cameras[i]])),
            "person_class": Extra(PERSON_CLASS, torch.tensor([known])),
        }
        who = torch.tensor([self.identities[i]])
        return one_person(self.files[i], i, self.name, extra, track_ids=who)
