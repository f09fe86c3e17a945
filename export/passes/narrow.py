"""Linear layers, convolutions and attention in half precision, between explicit casts."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from covis.engines.op import DOMAIN
from covis.export.passes.base import Pass
from covis.export.trace import layer_of

WIDE = ir.DataType.FLOAT
# Operators that compute in the narrow type, and the number of inputs that have this type.
_COMPUTE: dict[tuple[str, str], int] = {
    ("", "Gemm"): 3,
    ("", "Conv"): 3,
    ("", "ConvTranspose"): 3,
    (DOMAIN, "BlockSparseAttention"): 3,
    (DOMAIN, "BlockSelect"): 2,
}
_NO_BFLOAT16 = {"Conv", "ConvTranspose"}  # in opset 20; opset 22 added the type


class Narrow(Pass):
    """Insert casts around every operator that computes in the narrow type.

    Everything else stays in float32: the residual stream with its LayerScale, LayerNorm, rotary
    embedding, and softmax statistics (inside the attention op, by its contract). The accumulator of
    an operator is float32 in every runtime; only its inputs and outputs are rounded.

    Args:
        dtype: FLOAT16 or BFLOAT16.
        keep: Returns True for the name of a layer that stays wide in this stage.
    """

    name = "narrow"

    def __init__(self, dtype: ir.DataType, keep: Callable[[str], bool]) -> None:
        self.dtype = dtype
        self.keep = keep

    def rewrite(self, model: ir.Model) -> bool:
        graph = model.graph
        cast: dict[ir.Value, ir.Value] = {}
        changed = False
        for node in list(graph):
            reads = _COMPUTE.get((node.domain, node.op_type))
            if reads is None or self.keep(layer_of(node)):
                continue
            if node.op_type in _NO_BFLOAT16 and self.dtype == ir.DataType.BFLOAT16:
                continue
            for place, value in enumerate(node.inputs[:reads]):
                if value is not None and value.dtype == WIDE:
                    if value not in cast:
                        cast[value] = self._narrowed(graph, value)
                    node.replace_input_with(place, cast[value])
            for value in node.outputs:
                if value.dtype == WIDE:
                    widen_output(graph, node, value, self.dtype)
            changed = True
        return changed

    def _narrowed(self, graph: ir.Graph, value: ir.Value) -> ir.Value:
        """Insert a cast of `value` right after its producer, and return the result."""
        node = ir.node("Cast", [value], attributes={"to": int(self.dtype)})
        out = node.outputs[0]
        out.type, out.shape = ir.TensorType(self.dtype), value.shape
        out.name = f"{value.name}.{_suffix(self.dtype)}"
        node.name = f"{value.name}/Cast"
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], node)
        else:
            graph.insert_after(producer, node)
        return out


def widen_output(graph: ir.Graph, node: ir.Node, value: ir.Value, dtype: ir.DataType) -> None:
    """Let `node` write `value` in `dtype`, and let its readers read a cast back to the old type."""
    wide, name = value.dtype, value.name
    assert wide is not None and name is not None
    cast = ir.node("Cast", [value], attributes={"to": int(wide)})
    cast.name = f"{name}/Cast_back"
    out = cast.outputs[0]
    out.type, out.shape = ir.TensorType(wide), value.shape
    graph.insert_after(node, cast)
    value.replace_all_uses_with(out, replace_graph_outputs=True)
    cast.replace_input_with(0, value)
    # A new type object, because values may share one.
    value.type, value.name = ir.TensorType(dtype), f"{name}.{_suffix(dtype)}"
    out.name = name  # the name of a graph output must not change


def _suffix(dtype: ir.DataType) -> str:
    return dtype.name.lower()
