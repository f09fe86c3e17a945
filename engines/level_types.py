"""Level maps in int32 between the ops, for runtimes whose other operators know no int8.

TensorRT casts from and to int8, and hands int8 to plugins; its Select, Slice and the like are
documented for int32 and wider integers only (int8 is for quantised numbers there). Levels are 0, 1
and 2, so that nothing is lost on the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_LEVEL_INPUT: Final = {"BlockSparseAttention": 3, "BlockSelect": 2}
_WIDE: Final = ".int32"
_NARROW: Final = ".int8"


def widen_levels(graph: onnx.GraphProto, domain: str) -> None:
    """Let every int8 tensor be int32, but what the ops of `domain` read and write, in place.

    The graph's own inputs and outputs keep their types.
    """
    _widen_sources(graph)
    ours = [node for node in graph.node if node.domain == domain and node.op_type in _LEVEL_INPUT]
    narrow = {value.name for value in graph.input if _is_int8(value)}
    narrow |= {node.output[0] for node in ours if node.op_type == "BlockSelect"}
    slots = {id(node): _LEVEL_INPUT[node.op_type] for node in ours}
    used = {
        name
        for node in graph.node
        for place, name in enumerate(node.input)
        if name in narrow and slots.get(id(node)) != place
    }
    made: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    for name in sorted(used & {value.name for value in graph.input}):
        nodes.append(_cast(name, name + _WIDE, TensorProto.INT32))
    for node in graph.node:
        for place, name in enumerate(node.input):
            if slots.get(id(node)) != place:
                node.input[place] = name + _WIDE if name in used else name
            elif name not in narrow:
                if name not in made:
                    nodes.append(_cast(name, name + _NARROW, TensorProto.INT8))
                    made.add(name)
                node.input[place] = name + _NARROW
        nodes.append(node)
        nodes += [_cast(o, o + _WIDE, TensorProto.INT32) for o in node.output if o in used]
    nodes += _narrow_outputs(graph, nodes, narrow)
    del graph.node[:]
    graph.node.extend(nodes)
    _forget_types(graph)


def _widen_sources(graph: onnx.GraphProto) -> None:
    """Casts to int8, and constants of it, become int32."""
    quantised = {
        name for node in graph.node if node.op_type.endswith("Linear") for name in node.input
    }
    for initializer in graph.initializer:
        if initializer.name not in quantised:
            _widen_tensor(initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to":
                if attribute.i == TensorProto.INT8:
                    attribute.i = TensorProto.INT32
            elif attribute.name == "value" and not set(node.output) & quantised:
                _widen_tensor(attribute.t)  # of Constant and ConstantOfShape


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    external = tensor.data_location == TensorProto.EXTERNAL
    if tensor.data_type == TensorProto.INT8 and not external:
        wide = numpy_helper.to_array(tensor).astype(np.int32)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _narrow_outputs(
    graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto], narrow: set[str]
) -> list[onnx.NodeProto]:
    """The graph's int8 outputs, cast from the int32 that is now computed."""
    wide = {value.name for value in graph.output if _is_int8(value)} - narrow
    for node in nodes:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = name + _WIDE if name in wide else name
    return [_cast(name + _WIDE, name, TensorProto.INT8) for name in sorted(wide)]


def _forget_types(graph: onnx.GraphProto) -> None:
    """Recorded types of inner int8 values are no longer true, and nobody needs them."""
    kept = [value for value in graph.value_info if not _is_int8(value)]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _cast(source: str, target: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}.cast", to=to)


def _is_int8(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.INT8)
