"""Writes a network as one file for other runtimes, and only leaves a file that says what the
network says."""

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.export import ExportedProgram

from humanquery.core.config import to_plain
from humanquery.core.errors import ConfigError, ExportError, HumanQueryError, nearest
from humanquery.core.target import Target
from humanquery.data.readers.coco import CocoSourceConfig
from humanquery.data.scenes.scenes import Scenes, preset
from humanquery.export.graph import SIDE_STEP, Graph, input_names, output_names, trace
from humanquery.export.verify import Comparison, compare, compare_ap
from humanquery.media.images import read_image
from humanquery.predict.exported_predictor import FACTS, Facts, open_exported, skeleton_facts
from humanquery.predict.predict_folder import find_pictures
from humanquery.predict.predictor import Predictor

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
OPSET = 18
NUM_SCENES = 12
NUM_PHOTOS = 40
"""of people/val, for AP"""
NUM_COMPARED = 12
"""pictures whose numbers are compared one by one"""


def export(
    predictor: Predictor,
    out: Path,
    *,
    format: str = "onnx",
    verify: bool = True,
    photos: Path | None = None,
    max_persons: int | None = None,
    on_comparison: Callable[[Comparison], None] = lambda comparison: None,
) -> Path:
    """Writes the predictor's network to `out`, with the format's suffix (see `SUFFIXES`), and
    returns the path.

    The file gives whoever reaches the score that it is asked for, at most `max_persons` of a
    picture (default: the model's own `HQNetConfig.num_persons`); it takes time for each of them,
    and none for others.

    With `verify` the file is written under another name, run on pictures (`photos`: a folder;
    default: see `default_pictures`) and compared; a file whose numbers or AP differ (see
    `export.verify`) is removed and raises ExportError.
    """
    out = written_files(out, format)[0]
    unfinished = out.with_name(f".unfinished-{out.name}")
    predictor = copied(predictor)
    if max_persons is not None:
        predictor = limited(predictor, max_persons)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        _WRITERS[format](trace(predictor.system), unfinished, facts_of(predictor))
        if verify:
            comparison = verified(predictor, unfinished, photos)
            on_comparison(comparison)
            refuse(comparison, out)
        for written in _files(unfinished):
            os.replace(written, out.with_suffix(written.suffix))
    finally:
        for left in _files(unfinished):
            left.unlink(missing_ok=True)
    return out


def copied(predictor: Predictor) -> Predictor:
    """The predictor with a copy of its system on the CPU: the caller's stays where it is."""
    predictor, system = copy.copy(predictor), copy.deepcopy(predictor.system)
    predictor.system, predictor.batches = system.cpu().eval(), False
    return predictor


def written_files(out: Path, format: str) -> list[Path]:
    """What `export` writes for `out`."""
    if format not in SUFFIXES:
        raise ConfigError(f"--format {format}: unknown format.{nearest(format, SUFFIXES)}")
    suffix = SUFFIXES[format]
    out = out if out.suffix == suffix else out.with_name(out.name + suffix)
    return [out, out.with_suffix(".bin")] if format == "openvino" else [out]


def limited(predictor: Predictor, max_persons: int) -> Predictor:
    """The same weights, giving at most so many persons per picture; a number that cannot be
    raises ConfigError."""
    config = predictor.system.config
    if not 1 <= max_persons <= config.num_queries:
        raise ConfigError(
            f"--max-persons {max_persons}: expected 1 to {config.num_queries}, the number of the "
            f"model's queries; it gives "
            f"{config.num_persons} by itself"
        )
    predictor, system = copy.copy(predictor), copy.copy(predictor.system)  # the tensors stay shared
    system.config = replace(config, num_persons=max_persons)
    predictor.system = system
    return predictor


def refuse(comparison: Comparison, out: Path) -> None:
    """Raises ExportError that says what differed and by how much, or nothing."""
    if problems := comparison.problems():
        raise ExportError(
            f"{out}: not written, since the exported graph does not say what the network says:\n  "
            + "\n  ".join(problems)
            + "\nAnother version of torch, onnx or onnxruntime may do better; --no-verify writes "
            "it all the same"
        )


def verified(predictor: Predictor, path: Path, photos: Path | None = None) -> Comparison:
    """How far the file at `path` is from the network, on pictures and in AP."""
    exported = open_exported(path, "cpu", threads=torch.get_num_threads())
    labelled = list(labelled_pictures())
    pictures = (
        list(_read(photos)) if photos else [*default_pictures(), *(image for image, _ in labelled)]
    )
    compared = pictures[: None if photos else NUM_COMPARED]
    comparison = compare(Graph(predictor.system), exported, compared, score=predictor.default_score)
    comparison.ap = compare_ap(predictor, exported, labelled)
    return comparison


def facts_of(predictor: Predictor) -> Facts:
    config, declared = predictor.system.config, {**predictor.outputs, **predictor.system.specs}
    return Facts(
        config=to_plain(config),
        card=predictor.card,
        skeleton=skeleton_facts(predictor.system.skeleton),
        short_side=config.input.short_side,
        long_side=config.input.long_side,
        side_step=SIDE_STEP,
        zoom=config.input.zoom,
        outputs=tuple(spec.plain() for spec in declared.values()),
    )


def default_pictures() -> Iterator[np.ndarray]:
    """scikit-image's astronaut, where that is installed."""
    try:
        from skimage.data import astronaut
    except ImportError:
        return
    yield astronaut()


def labelled_pictures() -> Iterator[tuple[np.ndarray, Target]]:
    """Photos of people/val under HUMANQUERY_DATA (docs/datasets.md); without them generated
    scenes."""
    annotations = Path(os.environ.get("HUMANQUERY_DATA", "")) / "people" / "val.json"
    if "HUMANQUERY_DATA" in os.environ and annotations.is_file():
        source, count = CocoSourceConfig(str(annotations)).build(), NUM_PHOTOS
    else:
        source, count = Scenes(preset("mixed", seed=5, count=NUM_SCENES, split="val")), NUM_SCENES
    for i in range(min(count, len(source))):
        sample = source[i]
        yield sample.image, sample.target


def _read(photos: Path) -> Iterator[np.ndarray]:
    for path in find_pictures([str(photos)]):
        yield read_image(path)


def _write_torch(program: ExportedProgram, path: Path, facts: Facts) -> None:
    torch.export.save(program, path, extra_files={FACTS: facts.to_json()})


def _write_onnx(program: ExportedProgram, path: Path, facts: Facts) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch asks for it late, and with a traceback)
    except ImportError as problem:
        raise HumanQueryError(
            f"export to ONNX needs {problem.name}: pip install 'humanquery[export]'"
        ) from None
    from humanquery.export.shapes import fix_reshapes

    made = torch.onnx.export(
        program,
        dynamo=True,
        input_names=input_names(program),
        output_names=output_names(program),
        opset_version=OPSET,
        external_data=False,
        verbose=False,
        # folding thousands of nodes takes longer than all the rest; runtimes do it on opening
        optimize=False,
    )
    model = made.model_proto
    fix_reshapes(model)
    onnx.helper.set_model_props(model, {FACTS: facts.to_json()})
    onnx.save(model, path)


def _write_openvino(program: ExportedProgram, path: Path, facts: Facts) -> None:
    try:
        import openvino
    except ImportError:
        raise HumanQueryError(
            "export to OpenVINO needs OpenVINO: pip install 'humanquery[export,openvino]'"
        ) from None
    onnx_file = path.with_suffix(".onnx")
    _write_onnx(program, onnx_file, facts)
    model = openvino.convert_model(onnx_file)
    model.set_rt_info(facts.to_json(), "humanquery")
    openvino.save_model(model, path, compress_to_fp16=False)
    onnx_file.unlink()


_WRITERS: dict[str, Callable[[ExportedProgram, Path, Facts], None]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torch": _write_torch,
}


def _files(path: Path) -> Sequence[Path]:
    """The file and what stands beside it: OpenVINO's weights, or an ONNX file on the way there."""
    files = {
        path,
        path.with_suffix(".bin"),
        path.with_suffix(".onnx"),
    }  # `path` may be the ONNX file itself
    return [file for file in files if file.exists()]
