"""From a name or a file to something that looks at pictures."""

from pathlib import Path
from typing import Any

import torch

from humanquery.core.errors import CheckpointError, ConfigError
from humanquery.core.system import ReadsGivenBoxes
from humanquery.predict.base import EXPORTED, BasePredictor, find_weights, settings_of


def load(
    name_or_path: str | Path | None = None,
    device: str = "auto",
    *,
    graphs: bool = False,
    boxes: Any = None,
) -> BasePredictor:
    """What looks at pictures: from a shipped name (default: the shipped model), a weights file or
    an exported file.

    `device`: "auto" takes a GPU if there is one. A file that cannot be used raises CheckpointError.
    Weights give a `Predictor`, whose `system` has its batch norms folded into convolutions and is
    not for training; an exported file (.onnx, .pt2, .xml) gives an `ExportedPredictor`.

    `graphs` (weights on CUDA only): each size of canvas is captured as a CUDA graph when it first
    comes and repeated from then on, for videos and for pictures of few sizes. Not tried on a GPU
    yet.

    `boxes` (weights of a top-down model only): who finds the people whose joints are read: a
    model's name or file, a predictor, a `.json` of boxes (`predict.boxes_file`), an object with
    `find` (`predict.whole_body.Finder`); default: the shipped detector.
    """
    path = find_weights(name_or_path)
    if path.suffix in EXPORTED:
        if boxes is not None:
            raise ConfigError(f"{path}: boxes={boxes!r} is for weights of a top-down model")
        if graphs:
            raise ConfigError(
                f"{path}: graphs=True is for weights; an exported file runs in a runtime of its own"
            )
        from humanquery.predict.exported_predictor import open_exported

        predictor = open_exported(path, device)
        predictor.path = path
        return predictor
    system, card = trained(name_or_path)
    predictor = _predictor(path, system, card, device, graphs, boxes)
    predictor.path = path
    return predictor


def _predictor(path, system, card, device: str, graphs: bool, boxes: Any) -> BasePredictor:
    from humanquery.models.topdown.system import TopDown
    from humanquery.predict.predictor import Predictor

    if isinstance(system, TopDown):
        from humanquery.predict.whole_body import WholeBodyPredictor, finder_of

        if graphs:
            raise ConfigError(f"{path}: graphs=True is for an HQNet, this is a top-down model")
        return WholeBodyPredictor(system, finder_of(boxes, device), card, device)
    if boxes is not None:
        raise ConfigError(
            f"{path}: boxes={boxes!r} is for top-down models, which read people in given boxes; "
            "this model finds them by itself"
        )
    return Predictor(optimise_for_inference(system), card, device, graphs=graphs)


def optimise_for_inference(system: Any) -> Any:
    """The system, changed in place, with its norms folded: for predicting only."""
    from humanquery.nn.inference import fold_norms

    fold_norms(system.backbone, lambda: look_once(system.backbone))
    return system


def trained(name_or_path: str | Path | None = None) -> tuple[Any, dict[str, Any]]:
    """The model of a shipped name or a weights file as it was trained, in eval mode on the CPU, and
    its card."""
    path = find_weights(name_or_path)
    if path.suffix in EXPORTED:
        raise CheckpointError(
            f"{path}: an exported file only looks at pictures; give the weights that it was made "
            f"from"
        )
    from humanquery.engine.checkpoint import load_state, read_weights
    from humanquery.models import rebuild

    weights = read_weights(path)
    system = rebuild(weights.config, settings_of(name_or_path))
    if isinstance(system, ReadsGivenBoxes):
        raise CheckpointError(
            f"{path}: holds {type(system).__name__}, which reads people in given boxes and finds "
            f"nobody by itself; score it with `humanquery evaluate --recipe` and the recipe that "
            f"trained it, or give the weights of an HQNet"
        )
    load_state(system, weights.state)
    return system.eval(), weights.card


def look_once(backbone: Any) -> None:
    """Calls each network among the parts of a backbone, those too that are asked about people
    only."""
    from humanquery.backbones import Backbone

    for network in backbone.modules():
        parts = network.modules() if isinstance(network, Backbone) else ()
        if [isinstance(part, Backbone) for part in parts].count(True) == 1:  # only itself
            network(torch.zeros(1, 3, 64, 64))
