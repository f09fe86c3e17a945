"""Reading ONNX files without their weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from covis.engines.errors import user_error


@dataclass(frozen=True)
class ExternalData:
    """Where a tensor keeps its bytes: a file beside the graph, offset and length in bytes."""

    tensor: str
    location: str
    offset: int
    length: int


def load_graph(path: Path) -> onnx.ModelProto:
    """Parse an ONNX file; external weights stay on the disk.

    Raises:
        CovisError: the file is not an ONNX model.
    """
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise user_error(
            "is not an ONNX model", where=path, hint="export the bundle again"
        ) from error


def external_data(model: onnx.ModelProto) -> Iterator[ExternalData]:
    """Every tensor with external bytes, those of attributes, subgraphs and functions too."""
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        offset, length = entries.get("offset", "0"), entries.get("length", "-1")
        if not (offset.isdigit() and length.isdigit()):
            offset, length = "-1", "-1"
        yield ExternalData(tensor.name, entries.get("location", ""), int(offset), int(length))


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        yield attribute.t
        yield from attribute.tensors
        for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
            yield sparse.values
            yield sparse.indices
        for graph in [attribute.g, *attribute.graphs]:
            yield from _graph_tensors(graph)
