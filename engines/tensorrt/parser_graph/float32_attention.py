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
import onnx_ir as ir

from covis.engines.op import ATTENTION, DOMAIN
from covis.engines.tensorrt.parser_graph.constants import constant, small_constant


@dataclass(frozen=True)
class Float32Attention:
    """The attention nodes of a graph whose queries are float32.

    Attributes:
        dense: Head size of every node without a level map, by the name of its output.
        mapped: Names of the nodes that follow a level map.
    """

    dense: Mapping[str, int]
    mapped: tuple[str, ...]


def find_float32_attention(model: ir.Model) -> Float32Attention:
    """Find the float32 attention nodes, by the types in the graph, else by ONNX's inference.

    Args:
        model: Model with its function bodies, because types are inferred through them.
    """
    nodes = [n for n in model.graph if (n.domain, n.op_type) == (DOMAIN, ATTENTION)]
    types = {n.outputs[0].name: (_query(n).dtype, _query(n).shape) for n in nodes}
    if any(dtype is None for dtype, _ in types.values()):
        inferred = onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True)
        for node in ir.from_proto(inferred).graph:
            if node.outputs and types.get(node.outputs[0].name, (0,))[0] is None:
                types[node.outputs[0].name] = (_query(node).dtype, _query(node).shape)
    dense: dict[str, int] = {}
    mapped: list[str] = []
    for node in nodes:
        output = node.outputs[0].name or ""
        dtype, shape = types[output]
        if dtype != ir.DataType.FLOAT:
            continue
        size = shape[3] if shape is not None and len(shape) == 4 else None
        if isinstance(size, int) and size > 0 and _keeps_everything(node.inputs[3]):
            dense[output] = size
        else:
            mapped.append(node.name or output)
    return Float32Attention(dense, tuple(mapped))


def expand_dense(model: ir.Model, attention: Float32Attention) -> None:
    """Replace the nodes without a level map by products and a softmax, in place.

    A graph that also contains float32 attention with a map cannot be built, and stays unchanged.
    """
    if attention.mapped:
        return
    for node in list(model.graph):
        size = attention.dense.get(node.outputs[0].name or "")
        if size is not None:
            nodes = _products(node, size)
            ir.convenience.replace_nodes_and_values(
                model.graph, node, [node], nodes, node.outputs, nodes[-1].outputs
            )


def _products(node: ir.Node, head_dim: int) -> list[ir.Node]:
    """Create softmax(scale Q K^T) V, named after the node."""
    query, key, value = node.inputs[:3]
    scale = node.attributes.get_float("scale", 0.0) or 1.0 / math.sqrt(head_dim)
    out = node.outputs[0].name
    nodes = [constant(f"{out}.scale", np.asarray(scale, np.float32))]

    def add(op: str, inputs: list[ir.Value | None], part: str, **attributes: Any) -> ir.Value:
        new = ir.node(op, inputs, attributes=attributes, name=f"{node.name}/{part}")
        new.outputs[0].name = f"{out}.{part}"
        nodes.append(new)
        return new.outputs[0]

    scaled = add("Mul", [query, nodes[0].outputs[0]], "scaled")
    keys = add("Transpose", [key], "keys", perm=[0, 1, 3, 2])
    scores = add("MatMul", [scaled, keys], "scores")
    weights = add("Softmax", [scores], "weights", axis=-1)
    add("MatMul", [weights, value], "values")
    return nodes


def _query(node: ir.Node) -> ir.Value:
    query = node.inputs[0]
    assert query is not None
    return query


def _keeps_everything(level: ir.Value | None) -> bool:
    """Return True for one constant that skips nothing, or a cast of it: attention is dense."""
    producer = None if level is None else level.producer()
    if producer is not None and producer.op_type == "Cast":
        level = producer.inputs[0]
    array = small_constant(level, (ir.DataType.INT8, ir.DataType.INT32))
    return array is not None and array.size == 1 and array.item() > 0
