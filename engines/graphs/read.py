"""Read ONNX files without their weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx

from covis.engines.dtypes import onnx_name
from covis.engines.errors import user_error
from covis.engines.graphs.ops import check_ops
from covis.engines.limits import GRAPH
from covis.engines.op import ATTRIBUTES
from covis.engines.system.regular import read_regular

_EXPORT: Final = "export the bundle again"


@dataclass(frozen=True)
class ExternalData:
    """Place of a tensor's bytes outside the graph.

    Attributes:
        tensor: Name of the tensor.
        location: Path of the file, relative to the graph's folder.
        offset: Offset in the file, in bytes; -1 if it is invalid.
        length: Length in bytes; -1 if it is invalid.
    """

    tensor: str
    location: str
    offset: int
    length: int


@dataclass(frozen=True)
class Port:
    """Element type and shape of an input or output; None stands for an unknown size or rank."""

    dtype: str
    shape: tuple[int | None, ...] | None


def load_graph(path: Path) -> onnx.ModelProto:
    """Parse an ONNX file without loading its external weights.

    Raises:
        CovisError: the file is larger than the limit of a graph, is not an ONNX model, or uses the
            three ops in a way that this version does not know.
    """
    return parse_model(read_regular(path, GRAPH, hint=_EXPORT, follow=True), path)


def parse_model(data: bytes, path: Path) -> onnx.ModelProto:
    """Parse the bytes of an ONNX file.

    Args:
        data: Bytes of the file, without external weights.
        path: Path of the file, for errors.

    Raises:
        CovisError: the file is not an ONNX model, or uses the three ops in a way that this version
            does not know.
    """
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise user_error("is not an ONNX model", where=path, hint=_EXPORT) from error
    check_ops(model, path)
    return model


def external_data(model: onnx.ModelProto) -> Iterator[ExternalData]:
    """Iterate over all external tensors, also those of attributes, subgraphs and functions."""
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        offset, length = _number(entries.get("offset", "0")), _number(entries.get("length", ""))
        if len(entries) != len(tensor.external_data):
            offset = -1  # a key occurs twice, and readers differ in which one they take
        yield ExternalData(tensor.name, location, offset, length)


def signature(model: onnx.ModelProto) -> tuple[dict[str, Port], dict[str, Port]]:
    """Return element type and shape of the graph's inputs and outputs, by name."""
    known = {initializer.name for initializer in model.graph.initializer}
    inputs = {v.name: _port(v) for v in model.graph.input if v.name not in known}
    return inputs, {v.name: _port(v) for v in model.graph.output}


def op_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of a node of the three ops, with the defaults of those left out."""
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    words = {n: v.decode() if isinstance(v, bytes) else v for n, v in values.items()}
    return {**ATTRIBUTES[node.op_type], **words}


def _port(value: onnx.ValueInfoProto) -> Port:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return Port(onnx_name(kind.elem_type), None)
    dims = (dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
    return Port(onnx_name(kind.elem_type), tuple(dims))


def _number(text: str) -> int:
    """Parse a plain decimal number of bytes, else -1 (`isdigit` alone accepts superscripts)."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _node_tensors(node)
        for attribute in function.attribute_proto:
            yield from _attribute_tensors(attribute)
    for training in model.training_info:
        yield from _graph_tensors(training.initialization)
        yield from _graph_tensors(training.algorithm)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: onnx.AttributeProto) -> Iterator[onnx.TensorProto]:
    yield attribute.t
    yield from attribute.tensors
    for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
        yield sparse.values
        yield sparse.indices
    for graph in [attribute.g, *attribute.graphs]:
        yield from _graph_tensors(graph)
