"""Level maps in int32 between the ops, because other operators hardly support int8."""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx_ir as ir

from covis.engines.op import DOMAIN
from covis.export.passes.base import Pass
from covis.export.trace import layer_of

_LEVEL_INPUT = {"BlockSparseAttention": 3, "BlockSelect": 2}
_INT8, _INT32 = ir.DataType.INT8, ir.DataType.INT32


class WidenLevels(Pass):
    """Turn int8 tensors into int32, except inputs and outputs of the ops and of the graph.

    ONNX Runtime below 1.31 has no Where for int8. TensorRT casts from and to int8 and passes it to
    plugins, but treats it as a quantised number everywhere else, in constants too. Levels are 0, 1
    and 2, so widening loses nothing. The pass runs after all passes that compute with maps.
    """

    name = "widen_levels"

    def rewrite(self, model: ir.Model) -> bool:
        graph = model.graph
        ours = [node for node in graph.all_nodes() if _is_ours(node)]
        narrow = {value for value in graph.inputs if value.dtype == _INT8}
        narrow |= {node.outputs[0] for node in ours if node.op_type == "BlockSelect"}
        _widen_sources(graph)
        wide = _widen_types(graph, narrow)
        for value in sorted(narrow, key=lambda value: value.name or ""):
            uses = [use for use in value.uses() if not _is_level(*use)]
            if uses:
                cast = _cast(graph, value, _INT32)
                for node, place in uses:
                    node.replace_input_with(place, cast)
        casts: dict[ir.Value, ir.Value] = {}
        for node in ours:
            place = _LEVEL_INPUT[node.op_type]
            level = node.inputs[place]
            assert level is not None
            if level not in narrow:
                if level not in casts:
                    casts[level] = _cast(graph, level, _INT8)
                node.replace_input_with(place, casts[level])
        for place, value in enumerate(graph.outputs):
            if value in wide:
                port, value.name = value.name, f"{value.name}.int32"
                graph.outputs[place] = _cast(graph, value, _INT8, port)
        return True


def _is_ours(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type in _LEVEL_INPUT


def _is_level(node: ir.Node, place: int) -> bool:
    return _is_ours(node) and _LEVEL_INPUT[node.op_type] == place


def _widen_sources(graph: ir.Graph) -> None:
    """Turn int8 constants and casts to int8 into int32."""
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype == _INT8:
            value.const_value = ir.Tensor(tensor.numpy().astype(np.int32), name=value.name)
            value.type = ir.TensorType(_INT32)
    for node in graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            if (node.op_type, name) == ("Cast", "to") and attribute.as_int() == _INT8:
                node.attributes[name] = ir.AttrInt64(name, _INT32)
            elif attribute.type == ir.AttributeType.TENSOR:  # Constant and ConstantOfShape have one
                tensor = attribute.as_tensor()
                if tensor.dtype == _INT8:
                    wide = ir.Tensor(tensor.numpy().astype(np.int32), name=tensor.name)
                    node.attributes[name] = ir.AttrTensor(name, wide)


def _widen_types(graph: ir.Graph, narrow: Container[ir.Value]) -> set[ir.Value]:
    """Set the type of all int8 values that become int32, and return these values."""
    wide = {
        value
        for node in graph.all_nodes()
        for value in node.outputs
        if value.dtype == _INT8 and value not in narrow
    }
    for value in wide:
        value.type = ir.TensorType(_INT32)
    return wide


def _cast(graph: ir.Graph, value: ir.Value, to: ir.DataType, name: str | None = None) -> ir.Value:
    """Insert a cast of `value` right after its producer, and return the result."""
    node = ir.node("Cast", [value], attributes={"to": int(to)})
    (result,) = node.outputs
    result.name = name or f"{value.name}.{to.name.lower()}"
    result.type, result.shape = ir.TensorType(to), value.shape
    producer = value.producer()
    node.name = f"{'' if producer is None else layer_of(producer)}/{result.name}"
    if producer is None:
        graph.insert_before(graph[0], node)
    else:
        assert producer.graph is not None
        producer.graph.insert_after(producer, node)
    return result
