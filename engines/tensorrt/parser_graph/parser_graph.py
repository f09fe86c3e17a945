"""Copies of a bundle's graph that TensorRT's ONNX parser can read.

A bundle's graph carries the two ops as model-local functions, which any runtime can run. TensorRT
would inline those (10.6 even when a plugin of that name is registered), so the parser gets a copy
without them, whose nodes name the plugin. Weights are not copied: initializers still point into
the bundle's file, and the parser needs the path of the original graph to find it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from covis.engines.op import ATTENTION, DOMAIN
from covis.engines.tensorrt.parser_graph.float32_attention import (
    expand_dense,
    find_float32_attention,
)

ONNXRUNTIME_DOMAIN: Final = (
    "trt.plugins"  # domain in which ONNX Runtime's TensorRT provider looks up plugins
)
PLUGIN_VERSION: Final = "1"
COPY_VERSION: Final = 2  # version of the rewrites below; a change raises it, and plans are rebuilt
PLUGIN_NAMESPACE: Final = ""

Precision = Literal["full", "fp8"]
Integers = NDArray[Any]

_LARGEST = 1024  # elements of a constant that is folded: shapes and axes
_FOLDED = {"Add", "Cast", "Concat", "Div", "Gather", "Identity", "Mul", "Reshape", "Slice"}
_FOLDED |= {"Squeeze", "Sub", "Unsqueeze"}


def for_tensorrt(model: onnx.ModelProto, precision: Precision | None = None) -> onnx.ModelProto:
    """Copy a graph so that TensorRT's parser, 10.6 to 11.x, turns `covis` nodes into plugins.

    - Each node gets the attributes `plugin_version` and `plugin_namespace`: the parser tries
      plugins first if the latter is present, even empty.
    - Elements of sequences, which TensorRT does not support, become slices.
    - Integers computed from constants become constants, because the parser requires the axes of a
      reduction to be constant.
    - Float32 attention without a level map becomes products and a softmax (`float32_attention`).

    Level maps are int32 between the ops already, as exported.

    Args:
        model: Model from `graphs.read.load_graph`, with external weights on the disk.
        precision: Precision in which the plugin may compute level 1, "full" or "fp8". None: "fp8"
            if the graph lowers every level to at most 1 (`covis export --precision fp8`).

    Returns:
        A new model; `model` is not changed. Pass the original file's path beside the serialised
        bytes to the parser, so that it finds the external weights.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    functions = [function for function in copy.functions if function.domain != DOMAIN]
    del copy.functions[:]
    copy.functions.extend(functions)
    expand_dense(copy.graph, find_float32_attention(model))
    for graph in _graphs(copy.graph):
        _fold_integers(graph)
        _slice_sequences(graph)
        lowered = _lowered(graph)
        for node in graph.node:
            if node.domain == DOMAIN:
                allowed = "fp8" if lowered.intersection(node.input) else "full"
                _name_plugin(node, precision or allowed)
    return copy


def for_onnxruntime_tensorrt(
    model: onnx.ModelProto, precision: Precision | None = None
) -> onnx.ModelProto:
    """Copy a graph for ONNX Runtime's TensorRT provider: as `for_tensorrt`, in its own domain.

    The provider declares every registered plugin as an operator of domain `trt.plugins`. A session
    of this copy therefore runs only with that provider and the plugin library.
    """
    copy = for_tensorrt(model, precision)
    for graph in _graphs(copy.graph):
        for node in graph.node:
            if node.domain == DOMAIN:
                node.domain = ONNXRUNTIME_DOMAIN
    others = [entry for entry in copy.opset_import if entry.domain != DOMAIN]
    if len(others) < len(copy.opset_import):
        others.append(helper.make_opsetid(ONNXRUNTIME_DOMAIN, 1))
    del copy.opset_import[:]
    copy.opset_import.extend(others)
    return copy


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _graphs(inner)


def _lowered(graph: onnx.GraphProto) -> set[str]:
    """Find values that are at most 1: constants, minima with such a constant, and their casts."""
    types = (onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.INT8)
    ones = {name for name, value in _constants(graph, types) if np.all(value <= 1)}
    found = set(ones)
    for node in graph.node:
        low = node.op_type == "Min" and ones.intersection(node.input)
        if low or (node.op_type in ("Cast", "Identity") and node.input[0] in found):
            found.update(node.output)
    return found


def _name_plugin(node: onnx.NodeProto, precision: str) -> None:
    names = {"plugin_version": PLUGIN_VERSION, "plugin_namespace": PLUGIN_NAMESPACE}
    if node.op_type == ATTENTION:
        names["precision"] = precision
    others = [attribute for attribute in node.attribute if attribute.name not in names]
    del node.attribute[:]
    node.attribute.extend(others)
    node.attribute.extend(helper.make_attribute(name, text) for name, text in names.items())


def _fold_integers(graph: onnx.GraphProto) -> None:
    """Replace nodes that compute small integers from constants alone: constant folding."""
    from onnx.reference import ReferenceEvaluator

    known = dict(_constants(graph))
    nodes = []
    for node in graph.node:
        constant = not node.domain and len(node.output) == 1 and bool(node.input)
        constant = constant and all(name in known for name in node.input)
        if constant and node.op_type in _FOLDED:
            feeds = {name: known[name] for name in node.input}
            (result,) = ReferenceEvaluator(node).run(None, feeds)
            value = np.asarray(result)
            if value.dtype == np.int64 and value.size <= _LARGEST:
                name = node.output[0]
                known[name] = value
                tensor = numpy_helper.from_array(value)
                nodes.append(helper.make_node("Constant", [], [name], node.name, value=tensor))
                continue
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _slice_sequences(graph: onnx.GraphProto) -> None:
    """Replace SplitToSequence and its SequenceAt by slices where size and indices are constant."""
    constants = dict(_constants(graph))
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    elsewhere = {output.name for output in graph.output}
    for inner in [*_graphs(graph)][1:]:
        elsewhere.update(name for node in inner.node for name in node.input)
    replaced: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "SplitToSequence" and node.output[0] not in elsewhere:
            slices = _slices(node, readers.get(node.output[0], []), constants)
            if slices is not None:
                replaced[node.output[0]] = []
                replaced.update((nodes[-1].output[0], nodes) for nodes in slices)
    if replaced:
        nodes = [new for old in graph.node for new in replaced.get(old.output[0], [old])]
        del graph.node[:]
        graph.node.extend(nodes)


def _slices(
    split: onnx.NodeProto, readers: list[onnx.NodeProto], constants: dict[str, Integers]
) -> list[list[onnx.NodeProto]] | None:
    """Return the nodes that replace each SequenceAt of `split`; None if they cannot be replaced."""
    size = _scalar(constants, split.input[1], 0) if len(split.input) > 1 else 0
    places = [
        _scalar(constants, node.input[1], -1) if node.op_type == "SequenceAt" else -1
        for node in readers
    ]
    if size < 1 or any(place < 0 for place in places):
        return None
    axis = next((a.i for a in split.attribute if a.name == "axis"), 0)
    return [
        _slice(split.input[0], node.output[0], place * size, (place + 1) * size, axis)
        for node, place in zip(readers, places, strict=True)
    ]


def _slice(source: str, target: str, start: int, end: int, axis: int) -> list[onnx.NodeProto]:
    names = {f"{target}.start": start, f"{target}.end": end, f"{target}.axis": axis}
    bounds = [
        helper.make_node("Constant", [], [name], value_ints=[value])
        for name, value in names.items()
    ]
    return [*bounds, helper.make_node("Slice", [source, *names], [target], name=f"{target}.slice")]


def _scalar(constants: dict[str, Integers], name: str, otherwise: int) -> int:
    """Return a constant integer; an array of one counts as none, because it lists lengths."""
    value = constants.get(name)
    return int(value) if value is not None and value.ndim == 0 else otherwise


def _constants(
    graph: onnx.GraphProto, types: tuple[int, ...] = (onnx.TensorProto.INT64,)
) -> Iterator[tuple[str, Integers]]:
    """Iterate over the small constants of these types that the graph itself contains."""
    tensors = [(tensor.name, tensor) for tensor in graph.initializer]
    for node in graph.node:
        if node.op_type == "Constant" and len(node.attribute) == 1:
            attribute = node.attribute[0]
            if attribute.name == "value_int":
                yield node.output[0], np.array(attribute.i, np.int64)
            elif attribute.name == "value_ints":
                yield node.output[0], np.array(attribute.ints, np.int64)
            elif attribute.name == "value":
                tensors.append((node.output[0], attribute.t))
    for name, tensor in tensors:
        inside = tensor.data_location != onnx.TensorProto.EXTERNAL
        small = math.prod(tensor.dims) <= _LARGEST
        if tensor.data_type in types and inside and small:
            yield name, numpy_helper.to_array(tensor)
