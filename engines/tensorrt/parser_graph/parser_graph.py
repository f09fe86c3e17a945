"""Copies of a bundle's graph that TensorRT's ONNX parser can read.

A bundle's graph carries the three ops as model-local functions, which any runtime can run. TensorRT
would inline those (10.6 even when a plugin of that name is registered), so the parser gets a copy
without them, whose nodes name the plugin. Weights are not copied: initializers still point into
the bundle's file, and the parser needs the path of the original graph to find it.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import onnx
import onnx_ir as ir

from covis.engines.op import ATTENTION, DOMAIN
from covis.engines.tensorrt.parser_graph.constants import small_constant
from covis.engines.tensorrt.parser_graph.float32_attention import (
    expand_dense,
    find_float32_attention,
)
from covis.engines.tensorrt.parser_graph.integers import fold_integers
from covis.engines.tensorrt.parser_graph.sequences import slice_sequences

ONNXRUNTIME_DOMAIN: Final = "trt.plugins"  # where ONNX Runtime's TensorRT provider looks
PLUGIN_VERSION: Final = "1"
PLUGIN_NAMESPACE: Final = ""
COPY_VERSION: Final = 3  # raised with every change of the copy, so that plans are built anew

Precision = Literal["full", "fp8"]


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
    copy = ir.from_proto(model)
    expand_dense(copy, find_float32_attention(copy))
    for key in [key for key, function in copy.functions.items() if function.domain == DOMAIN]:
        del copy.functions[key]
    for graph in copy.graphs():
        fold_integers(graph)
        slice_sequences(graph)
        name_plugins(graph, precision)
    return ir.to_proto(copy)


def for_onnxruntime_tensorrt(
    model: onnx.ModelProto, precision: Precision | None = None
) -> onnx.ModelProto:
    """Copy a graph for ONNX Runtime's TensorRT provider: as `for_tensorrt`, in its own domain.

    The provider declares every registered plugin as an operator of domain `trt.plugins`. A session
    of this copy therefore runs only with that provider and the plugin library.
    """
    copy = ir.from_proto(for_tensorrt(model, precision))
    for node in copy.graph.all_nodes():
        if node.domain == DOMAIN:
            node.domain = ONNXRUNTIME_DOMAIN
    if copy.opset_imports.pop(DOMAIN, None) is not None:
        copy.opset_imports[ONNXRUNTIME_DOMAIN] = 1
    return ir.to_proto(copy)


def name_plugins(graph: ir.Graph, precision: Precision | None) -> None:
    """Give each `covis` node the attributes by which the parser finds its plugin."""
    lowered = _lowered(graph)
    for node in graph:
        if node.domain != DOMAIN:
            continue
        texts = {"plugin_version": PLUGIN_VERSION, "plugin_namespace": PLUGIN_NAMESPACE}
        if node.op_type == ATTENTION:
            allowed = "fp8" if lowered.intersection(node.inputs) else "full"
            texts["precision"] = precision or allowed
        for name, text in texts.items():
            node.attributes[name] = ir.AttrString(name, text)


def _lowered(graph: ir.Graph) -> set[ir.Value]:
    """Find the values that are at most 1: constants, minima with one, and casts of those."""
    kinds = (ir.DataType.INT32, ir.DataType.INT64, ir.DataType.INT8)

    def at_most_one(value: ir.Value | None) -> bool:
        constant = small_constant(value, kinds)
        return constant is not None and bool(np.all(constant <= 1))

    found: set[ir.Value] = set()
    for node in graph:
        found.update(value for value in node.inputs if value is not None and at_most_one(value))
        minimum = node.op_type == "Min" and any(map(at_most_one, node.inputs))
        if minimum or (node.op_type in ("Cast", "Identity") and node.inputs[0] in found):
            found.update(node.outputs)
    return found
