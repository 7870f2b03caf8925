"""How PATH recipes score one head each: every row of HumanBench's table as an evaluation."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from humanquery.core.affine import Affine2D
from humanquery.core.batch import Batch, Meta, Sample
from humanquery.core.crops import crop_matrix
from humanquery.core.system import Picture
from humanquery.core.target import Target
from humanquery.data.readers.counting import CountingConfig
from humanquery.data.readers.crowdhuman import CrowdHumanConfig
from humanquery.data.readers.identities import IdentityConfig
from humanquery.data.readers.parsing import PARSING, ParsingConfig
from humanquery.data.readers.pedestrian_attributes import Pa100kConfig, PetaAttributesConfig
from humanquery.data.readers.persons import PersonsConfig
from humanquery.data.readers.sources import SourceConfig, open_source
from humanquery.evaluation.attribute_labels import attribute_scores
from humanquery.evaluation.counts import count_scores
from humanquery.evaluation.flat_report import FlatReport
from humanquery.evaluation.joint_distances import end_point_error, pck
from humanquery.evaluation.pedestrian_ap import CrowdPicture, crowd_scores
from humanquery.evaluation.pixel_classes import PixelConfusion
from humanquery.evaluation.retrieval import retrieval_scores
from humanquery.media.letterbox import LetterboxConfig, letterboxed
from humanquery.models.path.heads import DENSITY

PCK_SHARE = 0.2
"""of the longer side of the box"""


@dataclass(frozen=True)
class _OneHead:
    """Scores the head of one data set, whose name begins the names of the numbers."""

    finds_people: ClassVar[bool] = False
    data_set: str
    limit: int = 0
    """only the first pictures; 0: all"""
    batch_size: int = 16

    def answers(
        self, system: nn.Module, source: SourceConfig, place
    ) -> Iterator[tuple[Target, Picture]]:
        """Truth and answer of every sample, laid on its canvas by `place`, in px of the picture."""
        opened = open_source(source)
        count = min(self.limit or len(opened), len(opened))
        device = next(system.parameters()).device
        training = system.training
        system.eval()
        try:
            for first in range(0, count, self.batch_size):
                samples = [opened[i] for i in range(first, min(count, first + self.batch_size))]
                batch = Batch.collate([replace(place(s), target=None) for s in samples], 16)
                pictures = system.answer(batch.to(device), self.data_set)
                yield from zip([s.target for s in samples], pictures, strict=True)
        finally:
            system.train(training)


def stretched(sample: Sample, size: tuple[int, int]) -> Sample:
    """The whole picture on a canvas of `size`, without its truth."""
    matrix = Affine2D.resize(sample.image.shape[:2], size)
    meta = Meta(sample.image.shape[:2], size, matrix, sample.meta.image_id, sample.meta.path)
    return Sample(matrix.image(sample.image, size), meta)


@dataclass(frozen=True)
class RetrievalEvaluation(_OneHead):
    """mAP and CMC of a gallery (re-ID)."""

    query: IdentityConfig = IdentityConfig("query")
    gallery: IdentityConfig = IdentityConfig("bounding_box_test")
    size: tuple[int, int] = (256, 128)
    by_camera: bool = True
    """leave out pictures of the same person by the same camera"""

    def run(self, system: nn.Module, data: Any, *, bf16: bool = False) -> FlatReport:
        query, gallery = (self._embedded(system, part) for part in (self.query, self.gallery))
        cameras = (query[2], gallery[2]) if self.by_camera else (None, None)
        scores = retrieval_scores(1 - query[0] @ gallery[0].T, query[1], gallery[1], *cameras)
        return FlatReport(self.data_set, scores.numbers())

    def _embedded(self, system, source) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = [
            (picture.persons.embeddings[0].cpu().double(), target.track_ids, target.get("camera"))
            for target, picture in self.answers(system, source, lambda s: stretched(s, self.size))
        ]
        features, people, cameras = zip(*rows, strict=True)
        return (
            torch.stack(features).numpy(), torch.cat(people).numpy(), torch.cat(cameras).numpy()
        )  # fmt: skip


@dataclass(frozen=True)
class AttributesEvaluation(_OneHead):
    """mA and instance-based scores of pedestrian attributes."""

    source: PetaAttributesConfig | Pa100kConfig = PetaAttributesConfig("peta", "val")
    size: tuple[int, int] = (256, 192)

    def run(self, system: nn.Module, data: Any, *, bf16: bool = False) -> FlatReport:
        found, true = zip(
            *(
                (picture.persons.get("attributes").cpu().double(), target.get("attributes"))
                for target, picture in self.answers(
                    system, self.source, lambda s: stretched(s, self.size)
                )
            ),
            strict=True,
        )
        scores = attribute_scores(torch.cat(found).numpy(), torch.cat(true).numpy())
        return FlatReport(self.data_set, scores.numbers())


@dataclass(frozen=True)
class ParsingEvaluation(_OneHead):
    """mIoU and accuracies of a class per pixel, at the size of the picture."""

    source: ParsingConfig = ParsingConfig("images", "labels")
    letterbox: LetterboxConfig = LetterboxConfig(canvas=(480, 480))

    def run(self, system: nn.Module, data: Any, *, bf16: bool = False) -> FlatReport:
        confusion = PixelConfusion(open_source(self.source).labels.classes)
        for target, picture in self.answers(system, self.source, self._laid):
            found, true = picture.maps[PARSING].cpu(), target.maps[PARSING].values
            confusion.add(found.numpy(), true.long().numpy())
        return FlatReport(self.data_set, confusion.scores().numbers())

    def _laid(self, sample: Sample) -> Sample:
        return letterboxed(sample, self.letterbox, with_target=False)


@dataclass(frozen=True)
class CountingEvaluation(_OneHead):
    """MAE and RMSE of the number of people."""

    source: CountingConfig = CountingConfig("counting")
    letterbox: LetterboxConfig = LetterboxConfig(canvas=(512, 512))
    batch_size: int = 4

    def run(self, system: nn.Module, data: Any, *, bf16: bool = False) -> FlatReport:
        pairs = [
            (float(picture.maps[DENSITY].sum()), len(target.people()))
            for target, picture in self.answers(
                system, self.source, lambda s: letterboxed(s, self.letterbox, with_target=False)
            )
        ]
        found, true = zip(*pairs, strict=True)
        return FlatReport(self.data_set, count_scores(found, true).numbers())


@dataclass(frozen=True)
class CrowdEvaluation(_OneHead):
    """CrowdHuman's AP, MR^-2 and JI of boxes."""

    source: CrowdHumanConfig = CrowdHumanConfig("annotation_val.odgt", "Images")
    letterbox: LetterboxConfig = LetterboxConfig()
    batch_size: int = 1
    least_score: float = 0.05
    most: int = 500
    """people per picture"""

    def run(self, system: nn.Module, data: Any, *, bf16: bool = False) -> FlatReport:
        pictures = []
        for target, picture in self.answers(
            system, self.source, lambda s: letterboxed(s, self.letterbox, with_target=False)
        ):
            people = picture.persons.above(self.least_score)[: self.most].to("cpu")
            pictures.append(
                CrowdPicture(
                    people.boxes.double().numpy(), people.scores.double().numpy(),
                    target.boxes.double().numpy(), target.ignore.numpy(),
                )
            )  # fmt: skip
        return FlatReport(self.data_set, crowd_scores(pictures).numbers())


@dataclass(frozen=True)
class JointsEvaluation(_OneHead):
    """PCK@0.2 of the box and the mean end-point error in px of joints in given boxes: a source with
    one person per sample."""

    source: PersonsConfig = PersonsConfig("val.json", layout="coco")
    size: tuple[int, int] = (256, 192)
    padding: float = 1.25

    def run(self, system: nn.Module, data: Any, *, bf16: bool = False) -> FlatReport:
        found, true, labelled, sides = [], [], [], []
        for target, picture in self.answers(system, self.source, self._cropped):
            known = target.with_skeleton(system.heads[self.data_set].skeleton)
            found.append(picture.persons.keypoints.cpu())
            true.append(known.keypoints.value)
            labelled.append(known.counted_joints)
            sides.append((known.boxes[:, 2:] - known.boxes[:, :2]).amax(1))
        rows = [torch.cat(part).numpy() for part in (found, true, labelled, sides)]
        shares = pck(rows[0], rows[1], rows[2], rows[3], PCK_SHARE)
        error = end_point_error(rows[0], rows[1], rows[2])
        values = {"PCK": shares.mean, "EPE": error, "joints": shares.joints}
        return FlatReport(self.data_set, values)

    def _cropped(self, sample: Sample) -> Sample:
        matrix = crop_matrix(sample.target.boxes[0].tolist(), self.size, self.padding)
        meta = Meta(
            sample.image.shape[:2], self.size, matrix, sample.meta.image_id, sample.meta.path
        )
        return Sample(matrix.image(sample.image, self.size), meta)


PathEvaluation = (
    RetrievalEvaluation
    | AttributesEvaluation
    | ParsingEvaluation
    | CountingEvaluation
    | CrowdEvaluation
    | JointsEvaluation
)
