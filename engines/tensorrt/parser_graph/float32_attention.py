"""Expand dense float32 attention to TensorRT's own operators, because the plugin has no kernel.

The parts that a narrow export keeps in float32, by default the heads, contain attention without a
level map over few tokens: two products and a softmax with a small score matrix. Attention that
follows a map attends to the tokens of all views. Its score matrix would take the memory that block
sparsity avoids, so it is not expanded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from covis.engines.graphs.read import op_attributes
from covis.engines.op import ATTENTION, DOMAIN


@dataclass(frozen=True)
class Float32Attention:
    """The attention nodes of a graph whose queries are float32.

    Attributes:
        dense: Head size of every node without a level map, by the name of its output.
        mapped: Names of the nodes that follow a level map.
    """

    dense: Mapping[str, int]
    mapped: tuple[str, ...]


def find_float32_attention(model: onnx.ModelProto) -> Float32Attention:
    """Find the float32 attention nodes, by the types in the graph, else by ONNX's inference.

    Args:
        model: Model with its function bodies, because types are inferred through them.
    """
    nodes = [n for n in model.graph.node if (n.domain, n.op_type) == (DOMAIN, ATTENTION)]
    known = _types(model.graph)
    if any(node.input[0] not in known for node in nodes):
        known = {**_types(shape_inference.infer_shapes(model, data_prop=True).graph), **known}
    full = _full_levels(model.graph)
    dense: dict[str, int] = {}
    mapped: list[str] = []
    for node in nodes:
        kind = known.get(node.input[0])
        if kind is None or kind.elem_type != TensorProto.FLOAT:
            continue
        sizes = [dim.dim_value for dim in kind.shape.dim]
        if node.input[3] in full and len(sizes) == 4 and sizes[3] > 0:
            dense[node.output[0]] = sizes[3]
        else:
            mapped.append(node.name or node.output[0])
    return Float32Attention(dense, tuple(mapped))


def expand_dense(graph: onnx.GraphProto, attention: Float32Attention) -> None:
    """Replace the nodes without a level map by products and a softmax, in place.

    A graph that also contains float32 attention with a map cannot be built, and stays unchanged.
    """
    if attention.mapped or not attention.dense:
        return
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        size = attention.dense.get(node.output[0]) if node.op_type == ATTENTION else None
        nodes += [node] if size is None else _products(node, size)
    del graph.node[:]
    graph.node.extend(nodes)


def _products(node: onnx.NodeProto, head_dim: int) -> list[onnx.NodeProto]:
    """Create the nodes of softmax(scale Q K^T) V, named after the attention node."""
    query, key, value, _ = node.input
    scale = np.asarray(op_attributes(node)["scale"] or 1.0 / math.sqrt(head_dim), np.float32)
    out = node.output[0]
    name = {part: f"{out}.{part}" for part in ("scale", "scaled", "keys", "scores", "weights")}

    def make(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        label = f"{node.name}/{output.rpartition('.')[2] if output != out else 'values'}"
        return helper.make_node(op, inputs, [output], name=label, **attributes)

    return [
        make("Constant", [], name["scale"], value=numpy_helper.from_array(scale)),
        make("Mul", [query, name["scale"]], name["scaled"]),
        make("Transpose", [key], name["keys"], perm=[0, 1, 3, 2]),
        make("MatMul", [name["scaled"], name["keys"]], name["scores"]),
        make("Softmax", [name["scores"]], name["weights"], axis=-1),
        make("MatMul", [name["weights"], value], out),
    ]


def _types(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto.Tensor]:
    values = (*graph.input, *graph.output, *graph.value_info)
    found = {value.name: value.type.tensor_type for value in values}
    return {name: kind for name, kind in found.items() if kind.elem_type}


def _full_levels(graph: onnx.GraphProto) -> set[str]:
    """Find constant maps of one positive number, and casts of them: they skip nothing."""
    tensors = [(tensor.name, tensor) for tensor in graph.initializer]
    for node in graph.node:
        if node.op_type == "Constant":
            tensors += [(node.output[0], a.t) for a in node.attribute if a.name == "value"]
    full = {
        name
        for name, tensor in tensors
        if tensor.data_type in (TensorProto.INT8, TensorProto.INT32)
        and tensor.data_location != TensorProto.EXTERNAL
        and math.prod(tensor.dims) == 1
        and int(numpy_helper.to_array(tensor).item()) > 0
    }
    casts = [node for node in graph.node if node.op_type == "Cast" and node.input[0] in full]
    return full.union(*(node.output for node in casts))
