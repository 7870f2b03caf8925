"""Looks at pictures with an exported file. An .onnx file needs onnxruntime and numpy, no
PyTorch."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from humanquery.core.affine import Affine2D, Size
from humanquery.core.batch import ZOOM, Meta
from humanquery.core.errors import CheckpointError, ConfigError, HumanQueryError
from humanquery.core.persons import Persons
from humanquery.core.skeleton import Skeleton
from humanquery.media.letterbox import LetterboxConfig, on_canvas
from humanquery.predict.base import BasePredictor, Picture, as_array

FORMAT = "humanquery-export"
FORMAT_VERSION = 4
"""1: masks of the whole canvas only; 2: also masks in windows; 3: the graph is told the score,
and looks at nobody below it"""
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
                [s.views[ZOOM][0].image for s in samples], facts.side_step * facts.zoom
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
        return Facts(**plain)


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

    @property
    def system(self):
        raise CheckpointError(
            "an exported file only looks at pictures; for this, give the weights it was made from"
        )

    def _look(self, pictures: list[Picture], score: float, tasks: tuple[str, ...]) -> list[Persons]:
        groups = [pictures] if self.batches else [[picture] for picture in pictures]
        return [people for group in groups for people in self._batch(group, score, tasks)]

    def _batch(
        self, pictures: list[Picture], score: float, tasks: tuple[str, ...]
    ) -> list[Persons]:
        seen = Canvases.of([as_array(picture) for picture in pictures], self.facts)
        found = self.run(seen, score)
        return [
            self._persons(
                {name: value[i] for name, value in found.items()},
                meta,
                seen.images.shape[2:],
                score,
                tasks,
            )
            for i, meta in enumerate(seen.metas)
        ]

    def _persons(
        self,
        found: dict[str, np.ndarray],
        meta: Meta,
        padded: Size,
        score: float,
        tasks: tuple[str, ...],
    ) -> Persons:
        """People of one picture from the graph's outputs for it."""
        kept = found["scores"] >= score
        found = {name: found[name][kept] for name in found if name not in ("queries", "tokens")}
        to_picture = meta.to_canvas.inverse()
        fields = {name: found[name] for name in ("scores", "embeddings")}
        fields["boxes"] = _moved(
            found["boxes"].reshape(-1, 2, 2), to_picture, meta.image_size
        ).reshape(-1, 4)
        if "keypoints" in tasks and "keypoints" in found:
            fields["keypoints"] = _moved(found["keypoints"], to_picture, meta.image_size)
            confidence = found.get("keypoint_confidence", found["scores"])
            alike = np.repeat(confidence[:, None], len(self.skeleton), 1)
            fields["keypoint_scores"] = found.get("keypoint_scores", alike)
            if "keypoint_scores" in found:
                fields["pose_scores"] = found["scores"] * _sureness(found["keypoint_scores"])
        fields |= {
            name: found[name] for name in ("gender", "age") if name in tasks and name in found
        }
        if "mask" in tasks and "mask_logits" in found:
            if "mask_windows" in found:
                masks, inside = window_masks(found["mask_logits"], found["mask_windows"], meta)
            else:
                masks, inside = picture_masks(found["mask_logits"], meta, padded)
            fields |= {"masks": masks, "mask_scores": found["scores"] * inside}
        return Persons(
            image_size=meta.image_size,
            skeleton=self.skeleton,
            **{name: as_house(np.ascontiguousarray(value)) for name, value in fields.items()},
        )


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


def _sureness(joints: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    """Of a pose: the mean of its joints' scores, weighed by themselves, as
    `KeypointsTask.decode`."""
    return (joints**2).sum(1) / np.maximum(joints.sum(1), 1e-6)


def _moved(
    points: Float[np.ndarray, "n k 2"], to_picture: Affine2D, size: Size
) -> Float[np.ndarray, "n k 2"]:
    """Canvas px to picture px, kept inside."""
    limits = np.array([size[1], size[0]], np.float32)
    x, y = points[..., 0], points[..., 1]
    moved = [
        to_picture.a * x + to_picture.b * y + to_picture.c,
        to_picture.d * x + to_picture.e * y + to_picture.f,
    ]
    return np.minimum(np.maximum(np.stack(moved, -1), 0), limits).astype(np.float32)


def picture_masks(
    logits: Float[np.ndarray, "n h w"], meta: Meta, padded: Size
) -> tuple[Bool[np.ndarray, "n H W"], Float[np.ndarray, " n"]]:
    """Masks at the picture's pixels from logits on the padded canvas, and the mean probability
    inside each.

    Bilinear, from the valid part of the canvas only, as `MaskTask.decode`.
    """
    (height, width), move = meta.image_size, meta.to_canvas
    top, bottom, y = _taps(height, move.e, move.f, padded[0], logits.shape[1], meta.canvas_size[0])
    left, right, x = _taps(width, move.a, move.c, padded[1], logits.shape[2], meta.canvas_size[1])
    masks = np.zeros((len(logits), height, width), bool)
    inside = np.zeros(len(logits), np.float32)
    for i, cells in enumerate(logits):
        full = _blended(cells, (top, bottom, y), (left, right, x))
        masks[i], inside[i] = full > 0, _mean_inside(full)
    return masks, inside


def window_masks(
    logits: Float[np.ndarray, "n g g"], windows: Float[np.ndarray, "n 4"], meta: Meta
) -> tuple[Bool[np.ndarray, "n H W"], Float[np.ndarray, " n"]]:
    """`picture_masks` from logits on grids over windows (xyxy px of the canvas); nothing is
    inside beyond a window."""
    (height, width), move = meta.image_size, meta.to_canvas
    masks = np.zeros((len(logits), height, width), bool)
    inside = np.zeros(len(logits), np.float32)
    for i, (cells, (x1, y1, x2, y2)) in enumerate(zip(logits, windows.tolist(), strict=True)):
        lines, down = _window_taps(
            height, move.e, move.f, (y1, y2), len(cells), meta.canvas_size[0]
        )
        columns, across = _window_taps(
            width, move.a, move.c, (x1, x2), len(cells), meta.canvas_size[1]
        )
        full = _blended(cells, down, across)
        masks[i, lines, columns], inside[i] = full > 0, _mean_inside(full)
    return masks, inside


Taps = tuple[Int[np.ndarray, "_"], Int[np.ndarray, "_"], Float[np.ndarray, "_"]]
"""for each pixel of one axis of the picture: the two cells around its centre, and the share of
the second"""


def _blended(cells: Float[np.ndarray, "h w"], down: Taps, across: Taps) -> Float[np.ndarray, "_ _"]:
    (top, bottom, y), (left, right, x) = down, across
    lines = cells[:, left] * (1 - x) + cells[:, right] * x
    return lines[top] * (1 - y[:, None]) + lines[bottom] * y[:, None]


def _mean_inside(full: Float[np.ndarray, "_ _"]) -> float:
    """Mean probability where it is over a half; 0 where nothing is."""
    positive = full[full > 0]
    return float((1 / (1 + np.exp(-positive))).sum() / (len(positive) + 1e-6))


def _taps(pixels: int, scale: float, shift: float, padded: int, cells: int, canvas: int) -> Taps:
    """Of all pixels of the picture on a map of the padded canvas."""
    stride = padded / cells
    place = (np.arange(pixels, dtype=np.float32) + 0.5) * scale + shift
    # half a cell from the edge of the valid part nothing of the padding is blended in
    place = np.minimum(place / stride, max(canvas / stride - 0.5, 0.5)) - 0.5
    return _two_cells(place, cells)


def _window_taps(
    pixels: int, scale: float, shift: float, window: tuple[float, float], cells: int, canvas: int
) -> tuple[slice, Taps]:
    """Which pixels of the picture have their centre in the window and on the canvas, and where
    on the window's grid."""
    low, high = window
    centers = (np.arange(pixels) + 0.5) * scale + shift
    inside = np.flatnonzero((centers >= max(low, 0.0)) & (centers < min(high, canvas)))
    here = slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0)
    return here, _two_cells((centers[here] - low) / max(high - low, 1e-6) * cells - 0.5, cells)


def _two_cells(place: Float[np.ndarray, "_"], cells: int) -> Taps:
    """Places as indices of cells, 0.0 the first one's centre."""
    place = place.clip(0, cells - 1).astype(np.float32)
    low = np.floor(place).astype(np.int64)
    return low, np.minimum(low + 1, cells - 1), place - low


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
    if not HAS_TORCH:
        raise CheckpointError(
            f"{path}: needs PyTorch, which is not installed; .onnx files do without"
        )
    import torch

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
