"""From a name or a file to something that looks at pictures."""

from pathlib import Path

from humanquery.core.arrays import HAS_TORCH
from humanquery.core.errors import CheckpointError
from humanquery.predict.pictures import EXPORTED, Looker, find_weights, settings_of


def load(name_or_path: str | Path | None = None, device: str = "auto") -> Looker:
    """What looks at pictures: from a shipped name (default: the shipped model), a weights file or an exported file.

    `device`: "auto" takes a GPU if there is one. A file that cannot be used raises CheckpointError. Weights give a
    `Predictor`; an exported file (.onnx, .pt2, .xml) an `ExportedPredictor`, and .onnx needs no PyTorch.
    """
    path = find_weights(name_or_path)
    if path.suffix in EXPORTED:
        from humanquery.predict.exported import open_exported

        return open_exported(path, device)
    if not HAS_TORCH:
        raise CheckpointError(
            f"{path}: weights need PyTorch, which is not installed; pip install torch, or give an exported .onnx file"
        )
    from humanquery.engine.checkpoint import load_state, read_weights
    from humanquery.models import rebuild
    from humanquery.models.attributes.attributes import Attributes
    from humanquery.predict.predictor import Predictor

    weights = read_weights(path)
    system = rebuild(weights.config, settings_of(name_or_path))
    if isinstance(system, Attributes):
        raise CheckpointError(
            f"{path}: an attribute model, which reads people in given boxes and finds nobody by itself; score it with "
            "`humanquery evaluate --recipe attributes_small`, or give the weights of an HQNet"
        )
    load_state(system, weights.state)
    return Predictor(system, weights.card, device)
