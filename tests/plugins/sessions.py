"""One-node models of the covis ops and sessions that run them with libcovis_ort."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.plugins.native import library

Array = NDArray[Any]
INPUTS = {
    "BlockSparseAttention": ("Q", "K", "V", "level"),
    "BlockSelect": ("Q", "K", "pair", "keep_ratio", "cdf"),
}
_TYPES = {"level": TensorProto.INT8, "pair": TensorProto.INT8}
_SCALARS = ("keep_ratio", "cdf")


def model(
    op: str,
    attributes: Mapping[str, int | float | str],
    element: int = TensorProto.FLOAT,
    shape: tuple[int | str, ...] = ("B", "H", "S", "D"),
) -> onnx.ModelProto:
    """A model of one node; Q, K, V are float32 and cast to `element` inside where that differs.

    The cast serves bfloat16, which numpy does not have; O comes back as float32.
    """
    nodes: list[onnx.NodeProto] = []
    inputs: list[onnx.ValueInfoProto] = []
    names: list[str] = []
    for name in INPUTS[op]:
        if name in _SCALARS:
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
        elif name in _TYPES:
            inputs.append(helper.make_tensor_value_info(name, _TYPES[name], ["b", "h", "r", "c"]))
        else:
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
        cast = name in ("Q", "K", "V") and element != TensorProto.FLOAT
        if cast:
            nodes.append(helper.make_node("Cast", [name], [name + "_cast"], to=element))
        names.append(name + "_cast" if cast else name)
    attention = op == "BlockSparseAttention"
    cast = attention and element != TensorProto.FLOAT
    result = "O_cast" if cast else "O"
    node = helper.make_node(op, names, [result], domain="covis")
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    nodes.append(node)
    if cast:
        nodes.append(helper.make_node("Cast", [result], ["O"], to=TensorProto.FLOAT))
    kind = TensorProto.FLOAT if attention else TensorProto.INT8
    output = helper.make_tensor_value_info("O", kind, None)
    return helper.make_model(
        helper.make_graph(nodes, "one_op", inputs, [output]),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("covis", 1)],
        ir_version=10,
    )


def session(proto: onnx.ModelProto, threads: int = 2) -> onnxruntime.InferenceSession:
    """A session with libcovis_ort registered."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # the errors under test are not for the console
    options.register_custom_ops_library(str(library()))
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(
    op: str,
    feeds: Mapping[str, Array],
    attributes: Mapping[str, int | float | str] | None = None,
    element: int = TensorProto.FLOAT,
    threads: int = 2,
) -> Array:
    """The op's output for these inputs."""
    made = session(model(op, attributes or {}, element), threads)
    result: Array = np.asarray(made.run(None, dict(feeds))[0])
    return result
