"""
The copies of a bundle's graph that TensorRT's ONNX parser reads.

A bundle's graph carries the two ops as model-local functions, which any runtime can run. TensorRT
would inline those (10.6 even when a plugin of that name is registered), so the parser gets a copy
without them, whose nodes name the plugin. Weights stay where they are: initializers keep pointing
into the bundle's file, and the parser must be told the path of the original graph to find it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import onnx
from onnx import helper, numpy_helper

DOMAIN: Final = "covis"  # of the two ops, in every exported graph
ONNXRUNTIME_DOMAIN: Final = "trt.plugins"  # where ONNX Runtime's TensorRT provider looks
PLUGIN_VERSION: Final = "1"
PLUGIN_NAMESPACE: Final = ""


def for_tensorrt(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose `covis` nodes become plugins in TensorRT's parser, 10.6 to 11.x.

    Each node gets the attributes `plugin_version` and `plugin_namespace`: the parser tries plugins
    first where the latter is present, even empty. Parts of sequences, which TensorRT does not
    know, become slices.

    Args:
        model: as `engines.graph.load_graph` reads it, external weights left on the disk.

    Returns:
        A new model; `model` is not changed. Pass the original file's path beside the serialised
        bytes to the parser, so that it finds the external weights.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [function for function in copy.functions if function.domain != DOMAIN]
    del copy.functions[:]
    copy.functions.extend(kept)
    for graph in _graphs(copy.graph):
        _slice_sequences(graph)
        for node in graph.node:
            if node.domain == DOMAIN:
                _name_plugin(node)
    return copy


def for_onnxruntime_tensorrt(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for ONNX Runtime's TensorRT provider: as `for_tensorrt`, in that provider's domain.

    The provider declares every registered plugin as an operator of domain `trt.plugins`; a session
    made from this copy therefore runs only with that provider and the plugin library.
    """
    copy = for_tensorrt(model)
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


def _name_plugin(node: onnx.NodeProto) -> None:
    wanted = {"plugin_version": PLUGIN_VERSION, "plugin_namespace": PLUGIN_NAMESPACE}
    others = [attribute for attribute in node.attribute if attribute.name not in wanted]
    del node.attribute[:]
    node.attribute.extend(others)
    node.attribute.extend(helper.make_attribute(name, text) for name, text in wanted.items())


def _slice_sequences(graph: onnx.GraphProto) -> None:
    """SplitToSequence by a constant size, read only by constant SequenceAt, becomes slices."""
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
                replaced.update((made[-1].output[0], made) for made in slices)
    if replaced:
        nodes = [new for old in graph.node for new in replaced.get(old.output[0], [old])]
        del graph.node[:]
        graph.node.extend(nodes)


def _slices(
    split: onnx.NodeProto, readers: list[onnx.NodeProto], constants: dict[str, int]
) -> list[list[onnx.NodeProto]] | None:
    """For each SequenceAt of `split` the nodes that replace it, or None where they cannot."""
    size = constants.get(split.input[1], 0) if len(split.input) > 1 else 0
    places = [
        constants.get(node.input[1], -1) if node.op_type == "SequenceAt" else -1 for node in readers
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
    made = [
        helper.make_node("Constant", [], [name], value_ints=[value])
        for name, value in names.items()
    ]
    return [*made, helper.make_node("Slice", [source, *names], [target], name=f"{target}.slice")]


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, int]]:
    """Scalar integers (an array of one is no scalar: it splits by listed lengths)."""
    tensors = [(tensor.name, tensor) for tensor in graph.initializer]
    for node in graph.node:
        if node.op_type == "Constant" and len(node.attribute) == 1:
            attribute = node.attribute[0]
            if attribute.name == "value_int":
                yield node.output[0], attribute.i
            elif attribute.name == "value":
                tensors.append((node.output[0], attribute.t))
    for name, tensor in tensors:
        integer = tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
        if integer and not tensor.dims and tensor.data_location != onnx.TensorProto.EXTERNAL:
            yield name, int(numpy_helper.to_array(tensor))
