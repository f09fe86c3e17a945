"""Checks of exported graphs for runtimes with little support of int8 and none of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
from onnx import TensorProto, inliner, shape_inference


def check_levels(model: onnx.ModelProto) -> None:
    """Check that only Cast and the ops use int8, and that no constant is int8 or text.

    The graph is checked as it is, and with the bodies of the ops in place of their nodes.
    """
    assert not _narrow_operators(model)
    whole = inliner.inline_local_functions(model)
    nodes = [node for graph in _graphs(whole.graph) for node in graph.node]
    assert all(node.domain != "covis" for node in nodes)
    assert not _narrow_operators(whole)
    assert not text_constants(nodes)


def check_ports(model: onnx.ModelProto) -> None:
    """Check that no port of a stage is int8, because TensorRT treats it as a quantised number."""
    ports = [*model.graph.input, *model.graph.output]
    assert not [p.name for p in ports if p.type.tensor_type.elem_type == TensorProto.INT8]


def text_constants(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Return the attributes of Constant nodes that contain text."""
    return {a.name for n in nodes for a in n.attribute if a.name.startswith("value_string")}


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for attribute in (a for node in graph.node for a in node.attribute):
        for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            yield from _graphs(inner)


def _narrow_operators(model: onnx.ModelProto) -> set[str]:
    """Return operators other than Cast and the ops that use int8; "constant" for int8 or text."""
    found = set()
    inferred = shape_inference.infer_shapes(model, strict_mode=True)
    graphs = [*_graphs(inferred.graph)]
    values = [v for g in graphs for v in (*g.input, *g.output, *g.value_info)]
    narrow = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.INT8}
    for graph in graphs:
        tensors = [*graph.initializer]
        for node in graph.node:
            tensors += [a.t for a in node.attribute if a.HasField("t")]
            touched = narrow.intersection(node.input) | narrow.intersection(node.output)
            if touched and not (node.op_type == "Cast" or node.domain == "covis"):
                found.add(node.op_type)
        if any(t.data_type in (TensorProto.INT8, TensorProto.STRING) for t in tensors):
            found.add("constant")
    return found
