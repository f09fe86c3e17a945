"""Mixtures of two graphs compute the same as NumPy for every choice of layers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from covis.engines.errors import CovisError
from covis.engines.graphs.mixed import common_layers, layer_of, layered, mix
from covis.engines.system.ort_settings import import_onnxruntime, session_settings

LAYERS = ("net.blocks.0", "net.blocks.1", "net.blocks.2")
_RANDOM = np.random.default_rng(0)
WEIGHTS = [_RANDOM.standard_normal((6, 6)).astype(np.float32) for _ in LAYERS]
X = _RANDOM.standard_normal((4, 6)).astype(np.float32)


def graph(half: bool) -> onnx.ModelProto:
    """Three residual layers on x; `half` computes each in float16, between casts of its own."""
    nodes, weights = [helper.make_node("Shape", ["x"], ["size"])], []
    stream = "x"
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    for index, weight in enumerate(WEIGHTS):
        name, product = f"net.blocks.{index}.linear.weight", f"product{index}"
        weights.append(
            numpy_helper.from_array(weight.astype(np.float16 if half else np.float32), name)
        )
        if half:
            nodes += [
                helper.make_node("Cast", [stream], [f"narrow{index}"], to=kind),
                helper.make_node("MatMul", [f"narrow{index}", name], [product]),
                helper.make_node("Tanh", [product], [f"gate{index}"]),
                helper.make_node("Cast", [f"gate{index}"], [f"wide{index}"], to=1),
                helper.make_node("Add", [stream, f"wide{index}"], [f"stream{index}"]),
            ]
        else:
            nodes += [
                helper.make_node("MatMul", [stream, name], [product]),
                helper.make_node("Tanh", [product], [f"gate{index}"]),
                helper.make_node("Add", [stream, f"gate{index}"], [f"stream{index}"]),
            ]
        stream = f"stream{index}"
    nodes.append(helper.make_node("Reshape", [stream, "size"], ["y"]))
    shape = [4, 6]
    known = [
        helper.make_tensor_value_info(f"{name}{i}", kind, shape)
        for i in range(3)
        for name in ("product", "gate")
    ]
    known += [helper.make_tensor_value_info(f"stream{i}", 1, shape) for i in range(3)]
    mixed = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, shape)],
        weights,
        value_info=known,
    )
    return helper.make_model(mixed, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def expected(from_reference: frozenset[str]) -> NDArray[Any]:
    stream = X
    for layer, weight in zip(LAYERS, WEIGHTS, strict=True):
        if layer in from_reference:
            stream = stream + np.tanh(stream @ weight)
        else:
            product = stream.astype(np.float16) @ weight.astype(np.float16)
            stream = stream + np.tanh(product).astype(np.float32)
    return stream


@pytest.mark.parametrize("count", range(4))
@pytest.mark.parametrize("inferred", [False, True])
def test_every_choice_of_layers(count: int, inferred: bool) -> None:
    """The graph may also lack the types of its tensors."""
    graphs = [graph(False), graph(True)]
    if inferred:
        for model in graphs:
            del model.graph.value_info[:]
    reference, candidate = (layered(model) for model in graphs)
    assert common_layers(reference, candidate) == LAYERS
    results = []
    for from_reference in map(frozenset, itertools.combinations(LAYERS, count)):
        model = mix(reference, candidate, from_reference)
        onnx.checker.check_model(model)
        types = [t.data_type for t in model.graph.initializer]
        assert types.count(TensorProto.FLOAT) == count
        session = import_onnxruntime().InferenceSession(
            model.SerializeToString(), session_settings(1), providers=["CPUExecutionProvider"]
        )
        results.append(session.run(["y"], {"x": X})[0])
        # ONNX Runtime's float16 product differs from NumPy's in the order of summation alone.
        np.testing.assert_allclose(results[-1], expected(from_reference), atol=4e-3)
    for a, b in itertools.combinations(results, 2):
        assert np.abs(a - b).max() > 1e-5  # the choice of layers changes the result


def test_external_weights_are_told_apart() -> None:
    graphs = [graph(False), graph(True)]
    for model in graphs:
        for tensor in model.graph.initializer:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="model.safetensors")
            tensor.external_data.add(key="length", value="72")
    mixed = mix(*(layered(model) for model in graphs), {LAYERS[1]})
    places = {t.name: t.external_data[0].value for t in mixed.graph.initializer}
    assert places == {
        "candidate/net.blocks.0.linear.weight": "candidate/model.safetensors",
        "reference/net.blocks.1.linear.weight": "model.safetensors",
        "candidate/net.blocks.2.linear.weight": "candidate/model.safetensors",
    }


@pytest.mark.parametrize(
    ("weight", "layer"),
    [
        ("aggregator.frame_blocks.3.attn.qkv.weight", "aggregator.frame_blocks.3"),
        ("depth_head.scratch.output_conv2.0.bias", "depth_head.scratch.output_conv2.0"),
        ("depth_head.scratch.refinenet1.resConfUnit1.conv1.weight",
         "depth_head.scratch.refinenet1"),
        ("camera_head.token_norm.weight", "camera_head.token_norm"),
        ("aggregator.camera_token", "aggregator.camera_token"),
        ("depth_head.lifted_tensor_0", ""),
        ("bias", ""),
    ],
)  # fmt: skip
def test_layers_are_called_by_the_official_names(weight: str, layer: str) -> None:
    assert layer_of(weight) == layer


def test_graphs_inside_nodes_are_refused() -> None:
    model = graph(False)
    node = helper.make_node("If", ["c"], ["z"], then_branch=model.graph, else_branch=model.graph)
    model.graph.node.append(node)
    with pytest.raises(CovisError, match="holds a graph of its own"):
        layered(model)
