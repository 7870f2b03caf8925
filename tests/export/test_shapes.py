"""Shapes of `Reshape` become constants where one open side is all that is open."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs humanquery[export]")
runtime = pytest.importorskip("onnxruntime", reason="needs humanquery[onnx]")

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def graph(parts: list[str], *, numbers: dict[str, list[int]]) -> "onnx.ModelProto":
    """x (p×k×4) to `parts` joined; `rows` is p · k and `k` is k, each a list of one number made
    from a bare one."""
    node = onnx.helper.make_node
    nodes = [
        node("Constant", [], ["one"], value_ints=[-1]),
        *(node("Constant", [], [name], value_ints=value) for name, value in numbers.items()),
        node("Shape", ["x"], ["p"], start=0, end=1),
        node("Shape", ["x"], ["k_list"], start=1, end=2),
        node("Squeeze", ["k_list"], ["bare_k"]),
        node("Mul", ["p", "k_list"], ["product"]),
        node("Squeeze", ["product"], ["bare"]),
        node("Reshape", ["bare"  , "one"], ["rows"]),
        node("Reshape", ["bare_k", "one"], ["k"]),
        node("Concat", parts, ["shape"], axis=0),
        node("Reshape", ["x", "shape"], ["y"]),
    ]  # fmt: skip
    given = [onnx.helper.make_tensor_value_info("x", FLOAT, ["p", "k", 4])]
    made = [onnx.helper.make_tensor_value_info("y", FLOAT, None)]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", given, made),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
    )
    model.ir_version = 8
    return model


def run(model: "onnx.ModelProto") -> np.ndarray:
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": np.arange(24, dtype=np.float32).reshape(2, 3, 4)})[0]


@pytest.mark.parametrize(
    ("parts", "shape"),
    [
        (["rows", "four"], [-1, 4]),
        (["two", "k", "four"], [2, -1, 4]),
        (["rows", "twice"], [-1, 2, 2]),
    ],
)
def test_one_open_side_becomes_minus_one_and_nothing_else_changes(parts, shape):
    from humanquery.export.shapes import fix_reshapes

    model = graph(parts, numbers={"two": [2], "four": [4], "twice": [2, 2]})
    before = run(model)
    assert fix_reshapes(model) == 1
    fixed = {t.name: onnx.numpy_helper.to_array(t).tolist() for t in model.graph.initializer}
    assert fixed == {"fixed_shape_0": shape}
    np.testing.assert_array_equal(run(model), before)


@pytest.mark.parametrize(
    "parts", [["p", "k", "four"], ["two", "k", "rest"], ["p", "twelve"], ["keep", "k", "four"]]
)
def test_shapes_that_are_not_known_but_for_one_side_stay(parts):
    """Two open sides; one already left to the runtime; a list of whose length nothing is known; 0
    for the input's own side."""
    from humanquery.export.shapes import fix_reshapes

    model = graph(
        parts, numbers={"two": [2], "four": [4], "rest": [-1], "twelve": [12], "keep": [0]}
    )
    before = model.SerializeToString()
    assert fix_reshapes(model) == 0 and model.SerializeToString() == before
