"""Whole bodies from the top down: boxes of people from anything that finds them, then the joints of
each person from a crop of its own, stage by stage side by side (AlphaPose, section 5)."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from humanquery.core.boxes import clip
from humanquery.core.errors import AnnotationError, HumanQueryError
from humanquery.core.persons import Persons
from humanquery.core.system import Ask
from humanquery.media.pictures import path_of
from humanquery.models.topdown.system import CropBatch, TopDown, cut_crops
from humanquery.predict.base import BasePredictor, Picture, as_array
from humanquery.predict.pipeline import Pipeline
from humanquery.predict.predictor import LAYOUT, choose_device
from humanquery.predict.threads import HeapTrimmer

LEAST_SIDE = 2.0
"""px; a box that is narrower or lower inside the picture shows nobody"""
CROPS_AT_ONCE = 64
"""of one picture, in one call of the network"""


@runtime_checkable
class Finder(Protocol):
    """What says where people are: `detect.Detector`, `boxes_file.BoxesFile`, or one's own."""

    def find(self, picture: np.ndarray, name: str | None, score: float) -> Persons:
        """Boxes and scores of the people of an RGB picture; `name`: its path, if it has one."""
        ...

    def identity(self) -> dict[str, Any]:
        """Tells this finder from others, as plain data."""
        ...


@dataclass(frozen=True)
class Detector:
    """The boxes of any model of ours: of an HQNet, of an exported file."""

    model: BasePredictor

    def find(self, picture: np.ndarray, name: str | None, score: float) -> Persons:
        return self.model.predict(picture, score=score, tasks=())

    def identity(self) -> dict[str, Any]:
        return self.model.identity()


@dataclass(eq=False)
class Job:
    """One picture on its way through the stages."""

    source: Picture
    picture: np.ndarray | None = None
    people: Persons | None = None
    crops: CropBatch | None = None
    joints: Tensor | None = None
    joint_scores: Tensor | None = None
    problem: HumanQueryError | None = None
    """why nothing is known of this picture, where failing ones are passed over"""

    @property
    def name(self) -> str | None:
        path = path_of(self.source)
        return None if path is None else str(path)


class WholeBodyPredictor(BasePredictor):
    """Reads poses with `system` in the boxes of `finder`; made by `load`.

    `predict_many` works in five stages of bounded length between them: read, find, crop, pose,
    join. While one picture's poses are read, the next one's people are looked for, so that two
    cores are used; order is kept, and what a stage raises comes to the caller in that picture's
    place.
    """

    def __init__(
        self,
        system: TopDown,
        finder: Finder,
        card: dict[str, Any] | None = None,
        device: str = "auto",
        *,
        ahead: int = 2,
    ):
        self.device = choose_device(device)
        self.system = system.to(self.device).to(memory_format=LAYOUT).eval()
        self.finder, self.card, self.ahead = finder, card or {}, ahead
        self.outputs = system.outputs
        self._heap = HeapTrimmer()

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"boxes": self.finder.identity()}

    def predict_many(
        self,
        pictures: Iterable[Picture],
        *,
        score: float | None = None,
        tasks: Iterable[str] | None = None,
        attributes: bool = True,
        batch_size: int = 4,
    ) -> Iterator[Persons]:
        """The people of each picture, in order. `batch_size` has no effect: every picture is a
        batch of crops; see `BasePredictor.predict_many` for the rest."""
        ask = self.ask(score, tasks, attributes)
        for job in self.jobs(map(Job, pictures), ask):
            yield job.people if job.name is None else job.people.replace(path=job.name)

    def jobs(
        self,
        jobs: Iterable[Job],
        ask: Ask,
        read: Callable[[Picture], np.ndarray] = as_array,
        *,
        pass_over: bool = False,
    ) -> Iterator[Job]:
        """Every picture with its people, through all stages, in order. `read` gives the pixels of
        a source; with `pass_over` a picture that fails comes out with its `problem`."""

        def load(job: Job) -> Job:
            job.picture = read(job.source)
            return job

        def find(job: Job) -> Job:
            return self._find(job, ask.score)

        def join(job: Job) -> Job:
            return self._join(job, ask)

        stages = [
            ("read", load),
            ("find", find),
            ("crop", self._crop),
            ("pose", self._pose),
            ("join", join),
        ]
        if pass_over:
            stages = [(name, _passing_over(work)) for name, work in stages]
        return iter(Pipeline(jobs, stages, self.ahead))

    def in_boxes(self, picture: Picture, people: Persons, ask: Ask | None = None) -> Persons:
        """Poses of people whose boxes (and scores) are known, joined where two are one person."""
        job = Job(picture, as_array(picture))
        job.people = seen(people, job.picture.shape[:2])
        return self._join(self._pose(self._crop(job)), ask or Ask()).people

    def _persons(self, pictures: list[Picture], ask: Ask) -> list[Persons]:
        return [job.people for job in self.jobs(map(Job, pictures), ask)]

    def _find(self, job: Job, score: float) -> Job:
        found = self.finder.find(job.picture, job.name, score)
        job.people = seen(found, job.picture.shape[:2])
        return job

    def _crop(self, job: Job) -> Job:
        job.crops = cut_crops([job.picture], [job.people], self.system.config)
        return job

    @torch.inference_mode()
    def _pose(self, job: Job) -> Job:
        images = job.crops.images
        count = len(self.system.skeleton)
        places, values = [images.new_zeros(0, count, 2)], [images.new_zeros(0, count)]
        for part in images.split(CROPS_AT_ONCE) if len(images) else ():
            given = part.to(self.device).contiguous(memory_format=LAYOUT)
            joints, scores = self.system.read(given)
            places.append(joints.cpu())
            values.append(scores.cpu())
        job.joints, job.joint_scores = torch.cat(places), torch.cat(values)
        return job

    @torch.inference_mode()
    def _join(self, job: Job, ask: Ask) -> Job:
        found = self.system.poses(job.crops, job.joints, job.joint_scores, ask)
        job.people = found[0].persons
        job.crops = job.joints = job.joint_scores = None
        self._heap.done(1)
        return job


def _passing_over(work: Callable[[Job], Job]) -> Callable[[Job], Job]:
    def guarded(job: Job) -> Job:
        if job.problem is None:
            try:
                return work(job)
            except HumanQueryError as problem:
                job.problem = problem
        return job

    return guarded


def seen(people: Persons, size: tuple[int, int]) -> Persons:
    """Boxes and scores of the people who are inside the picture at least `LEAST_SIDE` px wide and
    high, clipped to it.

    A box or score that is not finite raises AnnotationError.
    """
    boxes, scores = people.boxes.float().cpu(), people.scores.float().cpu()
    wrong = ~(boxes.isfinite().all(1) & scores.isfinite())
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise AnnotationError(
            f"box {row} of {len(boxes)} is {boxes[row].tolist()}, score {float(scores[row])}: "
            "expected finite xyxy px; look at what found these people"
        )
    inside = clip(boxes, (int(size[0]), int(size[1])))
    kept = ((inside[:, 2:] - inside[:, :2]) >= LEAST_SIDE).all(1)
    return Persons(image_size=tuple(size), boxes=inside[kept], scores=scores[kept])


def finder_of(boxes: str | Path | BasePredictor | Finder | None, device: str) -> Finder:
    """What `load(..., boxes=...)` means: a finder as it is, a model, a model's name or file, a
    boxes file (`.json`); None: the shipped detector."""
    if isinstance(boxes, BasePredictor):
        return Detector(boxes)
    if boxes is not None and not isinstance(boxes, str | Path):
        return boxes
    if boxes is not None and str(boxes).lower().endswith(".json"):
        from humanquery.predict.boxes_file import BoxesFile

        return BoxesFile.read(boxes)
    from humanquery.predict.loading import load

    return Detector(load(boxes, device))
