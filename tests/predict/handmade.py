"""A hand-made exported file: an ONNX graph that says the same two people of every picture."""

import json
from pathlib import Path

import numpy as np

from humanquery.core.persons import Persons

FACTS = {
    "config": {},
    "card": {"score_threshold": 0.5, "name": "handmade"},
    "skeleton": {
        "name": "line",
        "joints": ["left_end", "right_end"],
        "pairs": [[0, 1]],
        "limbs": [[0, 1]],
        "sigmas": [],
    },
    "short_side": 64,
    "long_side": 64,
    "side_step": 32,
    "format": "humanquery-export",
    "format_version": 4,
    "outputs": [Persons.specs()[name].plain() for name in ("keypoints", "masks", "gender", "age")],
}


def said() -> dict[str, np.ndarray]:
    """Canvas 64 × 64: scores 0.9 and 0.2; the first person's mask is the left half."""
    logits = np.full((1, 2, 16, 16), -4.0)
    logits[0, 0, :, :8] = 4.0
    found = {
        "scores": [[0.9, 0.2]],
        "boxes": [[[4, 8, 32, 60], [40, 0, 70, 64]]],
        "keypoints": [[[[8, 16], [24, 32]], [[40, 8], [60, 8]]]],
        "keypoint_confidence": [[0.75, 0.5]],
        "gender": [[0.25, 0.75]],
        "age": [[30.5, 8.0]],
        "embeddings": np.eye(2)[None],
        "mask_logits": logits,
    }
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def write_handmade(path: Path, **facts) -> Path:
    """Needs onnx to write, not to read. `facts` replace those of the file; `metadata=False` leaves
    all of them out."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    inputs = [
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["b", 3, "h", "w"]),
        helper.make_tensor_value_info("sizes", TensorProto.INT64, ["b", 2]),
        helper.make_tensor_value_info("score", TensorProto.FLOAT, []),
    ]
    numbers = said()
    weights = [numpy_helper.from_array(value, f"{name}_weight") for name, value in numbers.items()]
    nodes = [helper.make_node("Identity", [f"{name}_weight"], [name]) for name in numbers]
    outputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in numbers.items()
    ]
    graph = helper.make_graph(nodes, "people", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    if facts != {"metadata": False}:
        helper.set_model_props(model, {"humanquery.json": json.dumps(FACTS | facts)})
    onnx.save(model, path)
    return path
