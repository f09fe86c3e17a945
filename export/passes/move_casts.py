"""Move casts to where they cost least: after operators that only move numbers, or nowhere."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

from covis.export.passes.base import Parameters, Pass
from covis.export.passes.narrow import WIDE, widen_output
from covis.export.trace import layer_of

# These return the same numbers in any type. Only the first input is data, except for Concat.
_MOVING = frozenset(
    "Concat DepthToSpace Expand Flatten Gather Identity Relu "  # noqa: SIM905
    "Reshape Slice Split Squeeze Transpose Unsqueeze".split()
)
# In an MLP the activation is between two narrow layers, which round its input and its output. So a
# narrow activation loses nothing more, and the models were trained that way.
_ACTIVATIONS = frozenset(["Gelu", "Mul", "Sigmoid"])
_MLP = "mlp"


class MoveCasts(Pass):
    """Move casts to float32 behind operators that only move numbers, and remove pairs of casts.

    x -> narrow -> float32 -> narrow equals x -> narrow, because a narrow number survives the way to
    float32 and back. Parameters that only narrow operators read become narrow themselves.
    """

    name = "move_casts"

    def rewrite(self, model: ir.Model) -> bool:
        graph = model.graph
        for node in list(graph):
            if node.op_type == "Cast":
                _cancel(node)
            elif node.domain == "" and _passes_through(node):
                _sink(graph, node)
        RemoveUnusedNodesPass()(model)
        for value in list(graph.initializers.values()):
            _store_narrow(value)
        ir.passes.Sequential(CommonSubexpressionEliminationPass(), RemoveUnusedNodesPass())(model)
        return True


def _data(node: ir.Node) -> list[ir.Value | None]:
    several = node.op_type in ("Concat", "Mul")
    return list(node.inputs) if several else list(node.inputs[:1])


def _passes_through(node: ir.Node) -> bool:
    inside_mlp = layer_of(node).rpartition(".")[2] == _MLP
    return node.op_type in _MOVING or (inside_mlp and node.op_type in _ACTIVATIONS)


def _before_widening(value: ir.Value | None) -> ir.Value | None:
    """Return the value that a cast to float32 turned into `value`; None without such a cast."""
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "Cast" or value is None or value.dtype != WIDE:
        return None
    source = producer.inputs[0]
    narrow = source is not None and source.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return source if narrow else None


def _sink(graph: ir.Graph, node: ir.Node) -> None:
    sources = [_before_widening(value) for value in _data(node)]
    kinds = {None if source is None else source.dtype for source in sources}
    if len(kinds) != 1 or None in kinds:
        return
    (dtype,) = kinds
    assert dtype is not None
    for place, source in enumerate(sources):
        node.replace_input_with(place, source)
    for value in node.outputs:
        widen_output(graph, node, value, dtype)


def _cancel(cast: ir.Node) -> None:
    """Let readers of a cast back to the type before widening read the value before widening."""
    out = cast.outputs[0]
    source = _before_widening(cast.inputs[0])
    if source is not None and source.dtype == out.dtype and not out.is_graph_output():
        out.replace_all_uses_with(source)


def _store_narrow(value: ir.Value) -> None:
    """Store a parameter in the type that all its readers cast it to."""
    casts = [node for node, _ in value.uses()]
    types = {node.outputs[0].dtype for node in casts if node.op_type == "Cast"}
    if (
        Parameters.key(value) is None
        or len(types) != 1
        or any(node.op_type != "Cast" for node in casts)
    ):
        return
    (dtype,) = types
    assert dtype is not None
    value.type = ir.TensorType(dtype)
    value.const_value = None  # the numbers here are still wide; the weights file gets narrow ones
    for cast in casts:
        cast.outputs[0].replace_all_uses_with(value)
