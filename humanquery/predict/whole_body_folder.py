"""Whole bodies of many pictures from the command line, in the files that pose tools read."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from humanquery.core.errors import ConfigError, nearest
from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17, convert_joints
from humanquery.draw import draw
from humanquery.media.images import write_image
from humanquery.media.output_names import OutputFolder
from humanquery.media.pictures import path_of, read_picture
from humanquery.predict.predict_folder import FolderResult, find_pictures, picture_stems
from humanquery.predict.track_files import FILES, JsonList
from humanquery.predict.whole_body import Job, WholeBodyPredictor

FORMATS = ("alphapose", "cmu", "open", "coco", "coco-wholebody")
"""of the files with all people of a run, beside our own JSON per picture"""
IMAGES = "images.json"
"""names, sizes and ids of the pictures of COCO's files"""


def checked(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each one of `FORMATS`; another raises ConfigError with the nearest."""
    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"--format {name}: unknown format.{nearest(name, FORMATS)}")
    return tuple(dict.fromkeys(names))


def predict_whole_bodies(
    predictor: WholeBodyPredictor,
    sources: Iterable[str],
    out: Path,
    *,
    formats: tuple[str, ...] = ("alphapose",),
    score: float | None = None,
    pictures: bool = True,
    overwrite: bool = False,
    allow_urls: bool = False,
) -> FolderResult:
    """Writes `<name>.json` (`Persons.to_json`) and, with `pictures`, `<name>.jpg` for every
    picture, and for each of `formats` one file with everybody, which is whole after every picture.

    Names follow `media.output_names`; AlphaPose's files name a picture by its file's name, COCO's
    by the ids of `images.json`. A picture that fails is named and passed over.
    """
    names = find_pictures(sources)
    files = [path for name in names if (path := path_of(name)) is not None]
    fixed = {name: FILES[name][0] for name in formats}
    if {"coco", "coco-wholebody"} & fixed.keys():
        fixed[IMAGES] = IMAGES
    folder = OutputFolder(
        out, "wholebody", files, overwrite=overwrite, reserved=tuple(fixed.values())
    )
    written = _Files({name: folder.fixed(file) for name, file in fixed.items()})
    stems, result = picture_stems(names), FolderResult()
    suffixes = (".json", ".jpg") if pictures else (".json",)

    def read(name: str) -> np.ndarray:
        return read_picture(name, allow_urls=allow_urls)

    shown = track(names, "reading poses", total=len(names), transient=True)
    try:
        jobs = predictor.jobs(map(Job, shown), predictor.ask(score), read, pass_over=True)
        for job in jobs:
            if job.problem is not None:
                result.failed.append((job.source, str(job.problem)))
                continue
            result.done += 1
            result.people += len(job.people)
            base = folder.numbered(stems[job.source], suffixes)
            said = {"source": job.source, **job.people.to_json()}
            base.with_name(base.name + ".json").write_text(json.dumps(said))
            if pictures:
                image = draw(job.picture, job.people)
                write_image(base.with_name(base.name + ".jpg"), image)
            written.add(job.source, result.done, job.people)
    finally:
        written.close()
    return result


class _Files:
    """The files with everybody, by format."""

    def __init__(self, paths: dict[str, Path]):
        self._opened: dict[str, Any] = {
            name: FILES[name][1](path) if name not in ("coco", IMAGES) else JsonList(path)
            for name, path in paths.items()
        }

    def add(self, source: str, image_id: int, people: Persons) -> None:
        height, width = people.image_size
        for name, file in self._opened.items():
            if name == IMAGES:
                record = {"id": image_id, "file_name": source, "height": height, "width": width}
                file.extend([record])
            elif name == "coco":
                file.extend(body(people).to_coco(image_id))
            elif name == "coco-wholebody":
                file.add(image_id, people)
            else:
                file.add(Path(source).name, people)

    def close(self) -> None:
        for file in self._opened.values():
            file.close()


def body(people: Persons) -> Persons:
    """The same people with COCO's 17 joints alone."""
    if people.keypoints is None or people.skeleton is None or people.skeleton == COCO17:
        return people
    every = people.keypoints.new_ones(people.keypoints.shape[:2]).bool()
    joints, _ = convert_joints(people.keypoints, every, people.skeleton, COCO17)
    twice = people.keypoint_scores[..., None].expand(-1, -1, 2)
    scores, _ = convert_joints(twice, every, people.skeleton, COCO17)
    return people.replace(keypoints=joints, keypoint_scores=scores[..., 0], skeleton=COCO17)
