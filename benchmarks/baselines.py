"""Other people's detectors in the library's shape: each has the `predict` of a `System`."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import nms

from humanquery.core.batch import Batch, Meta
from humanquery.core.boxes import clip
from humanquery.core.errors import CheckpointError
from humanquery.core.persons import Persons
from humanquery.core.skeleton import COCO17
from humanquery.core.system import Ask, Picture
from humanquery.core.target import Target
from humanquery.evaluation.attribute_ap import YEARS
from humanquery.experts import MoveNetBackbone, RtmdetBackbone, build
from humanquery.experts.movenet import HEADS, MoveNetFeatures, MoveNetPoses
from humanquery.experts.rtmdet import RtmdetFeatures, cell_boxes

MOST_BOXES = 100


class Finder(Protocol):
    def predict(self, batch: Batch, ask: Ask = Ask()) -> list[Picture]:
        """As of a `System`; everything is given, whatever `ask` says."""


class Rtmdet:
    """RTMDet-nano: the ONNX file through onnxruntime (one picture at a time, of the size that the
    file fixes), or its parameters in the rebuilt module (any size). `overlap`: the IoU above which
    the worse of two boxes is dropped."""

    def __init__(self, path: Path, *, overlap: float = 0.6, least: float = 0.001):
        self.overlap, self.least = overlap, least
        self.session = _session(path) if path.suffix == ".onnx" else None
        self.module: RtmdetFeatures = build(
            RtmdetBackbone("" if self.session else str(path))
        ).eval()
        self.parameters = sum(p.numel() for p in self.module.parameters())
        self.side: int | None = self.session.get_inputs()[0].shape[-1] if self.session else None

    @torch.inference_mode()
    def predict(self, batch: Batch, ask: Ask = Ask()) -> list[Picture]:
        images = normalised(batch.images, self.module.mean, self.module.std)
        logits, boxes = self._dense(images)
        return [
            Picture(self._persons(*rows))
            for rows in zip(logits.sigmoid(), boxes, batch.metas, strict=True)
        ]

    def _dense(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.session is None:
            dense = self.module.answer(images).boxes
            return dense.logits, dense.boxes
        name = self.session.get_inputs()[0].name
        outputs = [
            self._joined(self.session.run(None, {name: image.numpy()}))
            for image in images.flip(1).split(1)
        ]
        return torch.cat([logits for logits, _ in outputs]), torch.cat(
            [boxes for _, boxes in outputs]
        )

    def _joined(self, levels: list[Any]) -> tuple[Tensor, Tensor]:
        """Logits 1×s and boxes 1×s×4 from the file's maps 1×h×w×5 (logit, then distances in px)."""
        logits, boxes = [], []
        for level, stride in zip(levels, self.module.strides[1:], strict=True):
            cells = torch.from_numpy(level).permute(0, 3, 1, 2)
            logits.append(cells[:, 0].flatten(1))
            boxes.append(cell_boxes(cells[:, 1:], stride).flatten(1, 2))
        return torch.cat(logits, 1), torch.cat(boxes, 1)

    def _persons(self, scores: Tensor, boxes: Tensor, meta: Meta) -> Persons:
        sure = (scores >= self.least).nonzero()[:, 0]
        kept = sure[nms(boxes[sure], scores[sure], self.overlap)[:MOST_BOXES]]
        return Persons(
            image_size=meta.image_size, boxes=in_picture(boxes[kept], meta), scores=scores[kept]
        )


def _session(path: Path):
    try:
        import onnxruntime
    except ImportError:
        raise CheckpointError(
            f"{path}: reading it needs onnxruntime (pip install onnxruntime)"
        ) from None
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected rtmdet_nano_person.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class MoveNet:
    """MoveNet MultiPose with its published decoding, but `people` best centres instead of 6."""

    def __init__(self, path: Path, *, people: int = 30):
        self.people = people
        self.module: MoveNetFeatures = build(MoveNetBackbone(str(path), heads=True)).eval()
        self.parameters = sum(p.numel() for p in self.module.parameters())

    @torch.inference_mode()
    def predict(self, batch: Batch, ask: Ask = Ask()) -> list[Picture]:
        answers = self.module.answer(normalised(batch.images, self.module.mean, self.module.std))
        lengths, pictures = box_lengths(answers.features[0]), []
        for i, meta in enumerate(batch.metas):
            found = decode_movenet(maps_of(answers.poses, i), lengths[i], self.people)
            pictures.append(Picture(self._persons(found, meta)))
        return pictures

    def _persons(self, found: "Poses", meta: Meta) -> Persons:
        stride = self.module.strides[0]
        # joints are indices of pixels
        joints = meta.to_canvas.inverse().points(found.joints * stride + 0.5)
        return Persons(
            image_size=meta.image_size,
            boxes=in_picture(found.boxes * stride, meta),
            scores=found.scores,
            keypoints=joints,
            keypoint_scores=found.joint_scores,
            skeleton=COCO17,
        )


def box_lengths(features: Float[Tensor, "b _c h w"]) -> Float[Tensor, "b 4 h w"]:
    """MoveNet's box scale and offset, (y, x) each in cells, from its features of stride 4: there
    the maps of `HEADS` come last, lengths as asinh(x / 4)."""
    after = HEADS["kpt_regress"] + HEADS["kpt_offset"]
    return 4 * features[:, -after - 4 : -after].sinh()


def maps_of(maps: MoveNetPoses, picture: int) -> MoveNetPoses:
    """The maps of one picture of a batch, as a batch of one."""
    kept = slice(picture, picture + 1)
    return MoveNetPoses(maps.centers[kept], maps.votes[kept], maps.joints[kept], maps.offsets[kept])


@dataclass(frozen=True, eq=False)
class Poses:
    """People in cells of MoveNet's maps, best first."""

    scores: Float[Tensor, " n"]
    boxes: Float[Tensor, "n 4"]
    joints: Float[Tensor, "n k 2"]
    joint_scores: Float[Tensor, "n k"]


def decode_movenet(
    maps: MoveNetPoses, lengths: Float[Tensor, "4 h w"], people: int, window: int = 3
) -> Poses:
    """People of one picture from MoveNet's maps and `box_lengths`: the best local maxima of the
    centre map; about each a box, and joints where the regression from the centre says, snapped to
    the best nearby heat."""
    scores, rows, columns = peaks(maps.centers[0, 0], people, window)
    centers = torch.stack([columns, rows], 1).float()
    height, width, y, x = lengths[:, rows, columns]
    middles, half = centers + torch.stack([x, y], 1), torch.stack([width, height], 1) / 2
    regressed = maps.votes[0][:, rows, columns].T.unflatten(1, (-1, 2)).flip(2)
    offsets = maps.offsets[0].unflatten(0, (-1, 2)).flip(1)
    joints, joint_scores = snapped(centers[:, None] + regressed, maps.joints[0], offsets)
    return Poses(scores, torch.cat([middles - half, middles + half], 1), joints, joint_scores)


def peaks(heat: Float[Tensor, "h w"], most: int, window: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Values, rows and columns of the highest cells that no other cell of the square `window` about
    them exceeds."""
    highest = F.max_pool2d(heat[None], window, 1, window // 2)[0]
    values, cells = torch.where(heat == highest, heat, 0.0).flatten().topk(min(most, heat.numel()))
    return values, cells // heat.shape[1], cells % heat.shape[1]


def snapped(
    guesses: Float[Tensor, "n k 2"], heat: Float[Tensor, "k h w"], offsets: Float[Tensor, "k 2 h w"]
) -> tuple[Float[Tensor, "n k 2"], Float[Tensor, "n k"]]:
    """Each guessed joint (x, y in cells) moved to the cell whose heat, over its distance to the
    guess and a bit, is the highest, plus that cell's offset; and the heat there."""
    k, height, width = heat.shape
    y, x = torch.arange(height)[:, None], torch.arange(width)
    distance = torch.hypot(x - guesses[..., 0, None, None], y - guesses[..., 1, None, None])
    cells = (heat / (distance + MoveNetPoses.DISTANCE)).flatten(2).argmax(2)
    joint = torch.arange(k)
    places = torch.stack([cells % width, cells // width], -1).float()
    return places + offsets.flatten(2).permute(0, 2, 1)[joint, cells], heat.flatten(1)[joint, cells]


@dataclass(frozen=True)
class Answer:
    """One gender and one age for everybody."""

    gender: float
    """0 male, 1 female"""
    age: float
    """years"""


def commonest(targets: Iterable[Target]) -> Answer:
    """The gender of most labelled people, and the whole age that is right for most of them (less
    than ten years off, or inside where the label is an interval); the middle one where several are.
    """
    genders, ages = [torch.zeros(0)], [torch.zeros(0, 2)]
    for target in targets:
        if target.gender is not None:
            genders.append(target.gender.value[target.gender.valid & ~target.ignore])
        if target.age is not None:
            ages.append(target.age.value[target.age.valid & ~target.ignore])
    low, high = torch.cat(ages).T
    right = [
        torch.where(low == high, (low - a).abs() < YEARS, (low <= a) & (a <= high)).sum()
        for a in range(101)
    ]
    best = (torch.stack(right) == max(right)).nonzero()[:, 0]
    return Answer(float(torch.cat(genders).mean() > 0.5), float(best[len(best) // 2]))


def answered(people: Persons, answer: Answer) -> Persons:
    """The same people, all of one gender and age."""
    return people.replace(
        gender=torch.full_like(people.scores, answer.gender),
        age=torch.full_like(people.scores, answer.age),
    )


class WholePicture:
    """One person as large as the picture, of a given gender and age."""

    def __init__(self, answer: Answer):
        self.answer = answer

    def predict(self, batch: Batch, ask: Ask = Ask()) -> list[Picture]:
        sizes = [meta.image_size for meta in batch.metas]
        found = [
            Persons(image_size=(h, w), boxes=torch.tensor([[0.0, 0.0, w, h]]), scores=torch.ones(1))
            for h, w in sizes
        ]
        return [Picture(answered(people, self.answer)) for people in found]


def normalised(
    images: Float[Tensor, "b 3 h w"], mean: tuple, std: tuple
) -> Float[Tensor, "b 3 h w"]:
    return (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def in_picture(boxes: Float[Tensor, "n 4"], meta: Meta) -> Float[Tensor, "n 4"]:
    """Canvas px to picture px, cut at the picture's edge."""
    return clip(meta.to_canvas.inverse().boxes(boxes), meta.image_size)
