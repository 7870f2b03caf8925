"""Predicts people with an exported file: ONNX, OpenVINO or torch.export."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8

from humanquery.core.batch import ZOOM, Meta
from humanquery.core.errors import CheckpointError, ConfigError, HumanQueryError
from humanquery.core.fields import FieldSpec
from humanquery.core.persons import Persons
from humanquery.core.skeleton import Skeleton
from humanquery.core.system import Ask
from humanquery.media.letterbox import LetterboxConfig, on_canvas
from humanquery.predict.base import BasePredictor, Picture, as_array
from humanquery.tasks.decode import HELPERS, decode

FORMAT = "humanquery-export"
FORMAT_VERSION = 4
"""1: masks of the whole canvas only; 2: also masks in windows; 3: the graph is given the score and
computes nobody below it; 4: the file declares its outputs, and the larger pictures are `zoomed`"""
FACTS = "humanquery.json"
"""name of the facts inside an exported file"""

Run = Callable[["Canvases", float], dict[str, np.ndarray]]
"""pictures and the least score that is asked for, to the graph's outputs"""


@dataclass(frozen=True, eq=False)
class Canvases:
    """What a graph looks at."""

    images: UInt8[np.ndarray, "b 3 h w"]
    sizes: Int[np.ndarray, "b 2"]
    """(height, width) of the valid part of each"""
    metas: list[Meta]
    zoomed: UInt8[np.ndarray, "b 3 H W"] | None = None
    """the same pictures at `Facts.zoom` times the size; None for 1"""

    @staticmethod
    def of(pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]], facts: "Facts") -> "Canvases":
        config = LetterboxConfig(facts.short_side, facts.long_side, zoom=facts.zoom)
        samples = [on_canvas(picture, config) for picture in pictures]
        images = collate([sample.image for sample in samples], facts.side_step)
        closer = None
        if facts.zoom > 1:
            closer = collate(
                [sample.views[ZOOM][0].image for sample in samples], facts.side_step * facts.zoom
            )
        metas = [sample.meta for sample in samples]
        return Canvases(
            images, np.array([meta.canvas_size for meta in metas], np.int64), metas, closer
        )

    def inputs(self, score: float) -> dict[str, np.ndarray]:
        """By the names of the graph's inputs."""
        given = {"images": self.images, "sizes": self.sizes, "score": np.array(score, np.float32)}
        return given if self.zoomed is None else given | {"zoomed": self.zoomed}


@dataclass(frozen=True)
class Facts:
    """What an exported file says about itself, all of it plain data."""

    config: dict[str, Any]
    """the system's, as in its weights file"""
    card: dict[str, Any]
    skeleton: dict[str, Any]
    short_side: int
    long_side: int
    side_step: int
    """both sides of a canvas batch are multiples of this, px"""
    zoom: int = 1
    """how many times as large the pictures are given a second time"""
    outputs: tuple[dict[str, Any], ...] = ()
    """declarations of what the system can give, and of its tasks' fields (`FieldSpec.plain`)"""
    format: str = FORMAT
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        return json.dumps(vars(self))

    @staticmethod
    def read(path: Path, text: str) -> "Facts":
        """Raises CheckpointError for a file that `humanquery export` did not write, or one of
        another format's version."""
        try:
            plain = json.loads(text or "{}")
        except json.JSONDecodeError:
            plain = {}
        if plain.get("format") != FORMAT:
            raise CheckpointError(
                f"{path}: no facts of humanquery in this file; expected one that `humanquery "
                f"export` wrote, which "
                "holds the skeleton, the sizes and the threshold"
            )
        if plain["format_version"] > FORMAT_VERSION:
            raise CheckpointError(
                f"{path}: export format {plain['format_version']}, this humanquery reads "
                f"{FORMAT_VERSION}; update it"
            )
        if plain["format_version"] < FORMAT_VERSION:
            raise CheckpointError(
                f"{path}: export format {plain['format_version']}, this humanquery reads "
                f"{FORMAT_VERSION}; export the "
                "weights again"
            )
        return Facts(**plain | {"outputs": tuple(plain["outputs"])})


def skeleton_facts(skeleton: Skeleton) -> dict[str, Any]:
    """A skeleton as plain data, see `Facts.skeleton`."""
    return {
        name: getattr(skeleton, name) for name in ("name", "joints", "pairs", "limbs", "sigmas")
    }


def _skeleton(plain: dict[str, Any]) -> Skeleton:
    pairs = {name: tuple(map(tuple, plain[name])) for name in ("pairs", "limbs")}
    return Skeleton(
        name=plain["name"], joints=tuple(plain["joints"]), sigmas=tuple(plain["sigmas"]), **pairs
    )


class ExportedPredictor(BasePredictor):
    """Looks at pictures with an exported graph; gives what the `Predictor` of the same weights
    gives.

    `batches`: pictures go through the graph together. On the CPU that is slower than one by one
    (docs/performance.md).
    """

    def __init__(self, run: Run, facts: Facts, batches: bool = False):
        self.run = run
        self.facts = facts
        self.batches = batches
        self.card = facts.card
        self.skeleton = _skeleton(facts.skeleton)
        given = {one["name"]: FieldSpec(**one) for one in facts.outputs}
        self.outputs = {name: spec for name, spec in given.items() if not spec.part_of}
        self.extra = {name: spec for name, spec in given.items() if name not in Persons.specs()}
        """declarations of the fields that `Persons` does not have of its own"""
        known = {**Persons.specs(), **HELPERS, **given}
        self._asked_as = {name: spec.part_of or name for name, spec in known.items()}

    @property
    def system(self):
        raise CheckpointError(
            "an exported file only looks at pictures; for this, give the weights it was made from"
        )

    def _persons(self, pictures: list[Picture], ask: Ask) -> list[Persons]:
        groups = [pictures] if self.batches else [[picture] for picture in pictures]
        return [people for group in groups for people in self._batch(group, ask)]

    def _batch(self, pictures: list[Picture], ask: Ask) -> list[Persons]:
        canvases = Canvases.of([as_array(picture) for picture in pictures], self.facts)
        found = self.run(canvases, ask.score)
        return decode(
            {name: torch.from_numpy(found[name]) for name in found if self._wanted(name, ask)},
            canvases.metas,
            tuple(canvases.images.shape[2:]),
            skeleton=self.skeleton,
            ask=ask,
            specs=self.extra,
        )

    def _wanted(self, tensor: str, ask: Ask) -> bool:
        """Whether a tensor of the graph is part of what was asked for."""
        output = self._asked_as.get(tensor, tensor)
        return output not in self.outputs or ask.wants(output)


def collate(canvases: list[UInt8[np.ndarray, "_ _ 3"]], step: int) -> UInt8[np.ndarray, "b 3 H W"]:
    """Pictures at the top left of one canvas size, zeros around them; the pixels of
    `Batch.collate`."""
    height, width = (
        -(-max(canvas.shape[axis] for canvas in canvases) // step) * step for axis in (0, 1)
    )
    images = np.zeros((len(canvases), 3, height, width), np.uint8)
    for image, canvas in zip(images, canvases, strict=True):
        image[:, : canvas.shape[0], : canvas.shape[1]] = canvas.transpose(2, 0, 1)
    return images


def open_exported(path: Path | str, device: str = "auto", threads: int = 0) -> ExportedPredictor:
    """An `ExportedPredictor` of a file that `humanquery export` wrote; others raise
    CheckpointError.

    `threads`: CPU threads of onnxruntime and OpenVINO, 0 for all; PyTorch has its own setting.
    """
    path = Path(path)
    openers = {".onnx": _open_onnx, ".pt2": _open_torch, ".xml": _open_openvino}
    if path.suffix not in openers:
        raise CheckpointError(f"{path}: expected an exported file: {', '.join(openers)}")
    if not path.is_file():
        raise CheckpointError(f"{path}: does not exist; `humanquery export` writes such a file")
    run, facts, on_gpu = openers[path.suffix](path, device, threads)
    return ExportedPredictor(run, Facts.read(path, facts), batches=on_gpu)


Opened = tuple[Run, str, bool]
"""the graph, what the file says about itself, and whether it runs on a GPU"""


def _open_onnx(path: Path, device: str, threads: int) -> Opened:
    try:
        import onnxruntime
    except ImportError:
        raise HumanQueryError(
            f"{path}: needs onnxruntime: pip install 'humanquery[onnx]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            path, options, providers=_providers(device, onnxruntime)
        )
    except HumanQueryError:
        raise
    except Exception as problem:  # onnxruntime has a class for each way to fail
        raise CheckpointError(
            f"{path}: onnxruntime cannot open it ({str(problem).splitlines()[0]})"
        ) from problem
    names = [output.name for output in session.get_outputs()]

    def run(seen: Canvases, score: float) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, seen.inputs(score)), strict=True))

    on_gpu = session.get_providers()[0] == "CUDAExecutionProvider"
    return run, session.get_modelmeta().custom_metadata_map.get(FACTS, ""), on_gpu


def _providers(device: str, onnxruntime: Any) -> list[str]:
    cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cpu" or (device == "auto" and not cuda):
        return ["CPUExecutionProvider"]
    if device in ("auto", "cuda") and cuda:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    raise ConfigError(
        f"device {device!r} cannot be used by onnxruntime here; try 'cpu', or install "
        f"onnxruntime-gpu for 'cuda'"
    )


def _open_torch(path: Path, device: str, threads: int) -> Opened:
    _only_on_cpu(path, device)
    facts = {FACTS: ""}
    try:
        net = torch.export.load(path, extra_files=facts).module()
    except Exception as problem:
        raise CheckpointError(
            f"{path}: not a program of torch.export ({str(problem).splitlines()[0]})"
        ) from problem

    @torch.inference_mode()
    def run(seen: Canvases, score: float) -> dict[str, np.ndarray]:
        found = net(*(torch.from_numpy(given) for given in seen.inputs(score).values()))
        return {name: value.numpy() for name, value in found.items()}

    return run, facts[FACTS], False


def _open_openvino(path: Path, device: str, threads: int) -> Opened:
    try:
        import openvino
    except ImportError:
        raise HumanQueryError(
            f"{path}: needs OpenVINO: pip install 'humanquery[openvino]'"
        ) from None
    _only_on_cpu(path, device)
    options = {"INFERENCE_PRECISION_HINT": "f32"} | (
        {"INFERENCE_NUM_THREADS": threads} if threads else {}
    )
    try:
        model = openvino.Core().read_model(path)
        facts = (
            model.get_rt_info("humanquery").astype(str) if model.has_rt_info("humanquery") else ""
        )
        compiled = openvino.compile_model(model, "CPU", options)
    except RuntimeError as problem:
        raise CheckpointError(
            f"{path}: OpenVINO cannot open it ({str(problem).splitlines()[0]})"
        ) from problem

    def run(seen: Canvases, score: float) -> dict[str, np.ndarray]:
        found = compiled(seen.inputs(score))
        return {output.get_any_name(): np.array(found[output]) for output in compiled.outputs}

    return run, facts, False


def _only_on_cpu(path: Path, device: str) -> None:
    if device not in ("auto", "cpu"):
        raise ConfigError(
            f"{path}: device {device!r}: files of this kind are run on the CPU here; leave "
            f"--device out"
        )
