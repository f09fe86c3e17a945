"""Attention that may be computed in FP8: levels of at most 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from covis.engines.op import DOMAIN
from covis.export.passes.base import Pass
from covis.export.trace import layer_of

_LOW = 1  # "low precision allowed", in the op's contract


class LowAttention(Pass):
    """Lower the level of every attention from 2 to 1, which permits FP8 by the op's contract.

    Special and trailing tokens stay exact at every level. Runtimes without an FP8 kernel compute
    level 1 as they compute level 2.

    Args:
        keep: Returns True for the name of a layer that stays wide in this stage.
    """

    name = "low_attention"

    def __init__(self, keep: Callable[[str], bool]) -> None:
        self.keep = keep

    def rewrite(self, model: ir.Model) -> bool:
        lowered: dict[ir.Value, ir.Value] = {}
        for node in list(model.graph):
            attends = (node.domain, node.op_type) == (DOMAIN, "BlockSparseAttention")
            if not attends or self.keep(layer_of(node)):
                continue
            level = node.inputs[3]
            assert level is not None
            if level not in lowered:
                lowered[level] = _lowered(model.graph, node, level)
            node.replace_input_with(3, lowered[level])
        return bool(lowered)


def _lowered(graph: ir.Graph, before: ir.Node, level: ir.Value) -> ir.Value:
    """Compute min(level, 1) in int32, the type of levels between the ops (`WidenLevels`)."""
    one = ir.Value(
        name=f"{level.name}.most", type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape([])
    )
    one.const_value = ir.Tensor(np.array(_LOW, np.int32))
    graph.initializers[one.name] = one  # type: ignore[index]
    nodes: list[ir.Node] = []
    value = level
    for kind, dtype in (("Cast", "INT32"), ("Min", "INT32"), ("Cast", "INT8")):
        inputs = [value, one] if kind == "Min" else [value]
        attributes = {"to": int(ir.DataType[dtype])} if kind == "Cast" else {}
        node = ir.node(kind, inputs, attributes=attributes)
        node.name = f"{before.name}/level/{kind}_{len(nodes)}"
        value = node.outputs[0]
        value.name, value.shape = f"{node.name}.out", level.shape
        value.type = ir.TensorType(ir.DataType[dtype])
        nodes.append(node)
    producer = level.producer()
    graph.insert_before(before, nodes) if producer is None else graph.insert_after(producer, nodes)
    return value
