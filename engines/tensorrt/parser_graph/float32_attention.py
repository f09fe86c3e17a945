"""Attention in float32: the plugin has no kernel for it, so TensorRT's own operators compute it.

What a narrow export keeps in float32, the heads by default, holds attention without a map over few
tokens: two products and a softmax, whose score matrix is small. Attention that follows a map sees
all tokens of all views; its score matrix would be what this project is there to avoid.
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
from covis.engines.op import ATTENTION


@dataclass(frozen=True)
class WideAttention:
    """The attention nodes of a graph whose queries are float32.

    Attributes:
        dense: head size of those without a map, by the name of their output.
        mapped: names of those with one.
    """

    dense: Mapping[str, int]
    mapped: tuple[str, ...]


def wide_attention(model: onnx.ModelProto, domain: str) -> WideAttention:
    """Find them, by the types that the graph records, else by ONNX's inference.

    Args:
        model: with its function bodies, which types are inferred through.
        domain: of the op.
    """
    nodes = [n for n in model.graph.node if (n.domain, n.op_type) == (domain, ATTENTION)]
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
    return WideAttention(dense, tuple(mapped))


def expand_dense(graph: onnx.GraphProto, wide: WideAttention) -> None:
    """Replace the nodes without a map by products and a softmax, in place.

    A graph that also holds float32 attention with a map cannot be built as it is, and is left.
    """
    if wide.mapped or not wide.dense:
        return
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        size = wide.dense.get(node.output[0]) if node.op_type == ATTENTION else None
        nodes += [node] if size is None else _products(node, size)
    del graph.node[:]
    graph.node.extend(nodes)


def _products(node: onnx.NodeProto, head_dim: int) -> list[onnx.NodeProto]:
    """softmax(scale Q K^T) V, named after the node."""
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
    """Constant maps of one number that skips nothing, and casts of them: attention is dense."""
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
