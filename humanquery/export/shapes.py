"""Shapes in an ONNX graph that runtimes can read without running it."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int
from onnx import ModelProto, NodeProto, numpy_helper


def fix_reshapes(model: ModelProto) -> int:
    """Gives every `Reshape` whose sides are known but for one a constant shape with -1 in its
    place, in `model` itself; how many.

    A product of open sides, such as pictures times people, leaves OpenVINO without the sides
    that stand beside it, and `RoiAlign` and convolutions then without the numbers that they
    need.
    """
    graph = model.graph
    known = dict(_constants(model))
    made = {name: node for node in graph.node for name in node.output}
    fixed = 0
    for node in graph.node:
        shape = _shape(made.get(node.input[1]), known, made) if node.op_type == "Reshape" else None
        if shape is not None:
            node.input[1] = f"fixed_shape_{fixed}"
            graph.initializer.append(numpy_helper.from_array(shape, node.input[1]))
            fixed += 1
    return fixed


def _constants(model: ModelProto) -> Iterator[tuple[str, Int[np.ndarray, "..."]]]:
    """Name and value of all constants of whole numbers with at most one axis."""
    for tensor in model.graph.initializer:
        if len(tensor.dims) <= 1 and tensor.data_type == tensor.INT64:
            yield tensor.name, numpy_helper.to_array(tensor)
    for node in model.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value_ints":
                yield node.output[0], np.array(attribute.ints, np.int64)
            elif (
                attribute.name == "value"
                and len(attribute.t.dims) <= 1
                and attribute.t.data_type == attribute.t.INT64
            ):
                yield node.output[0], numpy_helper.to_array(attribute.t)


def _shape(
    joined: NodeProto | None, known: dict[str, np.ndarray], made: dict[str, NodeProto]
) -> Int[np.ndarray, " sides"] | None:
    """What a `Concat` joins, with -1 for the one part that is open; None where another number of
    parts is."""
    if joined is None or joined.op_type != "Concat":
        return None
    open_parts = [part for part in joined.input if part not in known]
    if len(open_parts) != 1 or not _is_one_number(made.get(open_parts[0]), known):
        return None
    shape = np.concatenate(
        [np.atleast_1d(known.get(part, np.array([-1]))) for part in joined.input]
    )
    return shape.astype(np.int64) if (shape < 0).sum() == 1 and (shape != 0).all() else None


def _is_one_number(node: NodeProto | None, known: dict[str, np.ndarray]) -> bool:
    """Whether a node makes a list of one number from a bare number, as PyTorch's translation
    does."""
    if node is None or node.op_type != "Reshape" or node.input[1] not in known:
        return False
    return known[node.input[1]].tolist() in ([1], [-1])
