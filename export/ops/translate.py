"""Translate the torch ops to ONNX nodes, and attach the function bodies that those nodes need.

`torch.onnx.export` always inlines a function that has a body, and the node is lost. Therefore the
torch ops become nodes without a body. The bodies are attached to the finished model after every
optimisation, because `onnxscript.optimizer.optimize` would inline them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import onnx_ir as ir
import torch
from onnxscript.values import Op

from covis.engines.errors import user_error
from covis.engines.op import ATTENTION_ATTRIBUTES, DOMAIN, SELECT, SELECT_ATTRIBUTES, VERSION
from covis.export.ops.functions import functions
from covis.export.ops.schema import block_select_op, block_sparse_attention_op, farthest_first_op


def translation_table() -> dict[Callable[..., object], Callable[..., object]]:
    """Return the `custom_translation_table` of `torch.onnx.export(dynamo=True)` for the three ops.

    Import `covis.export.ops` first: it registers the torch ops that are the table's keys.
    """
    return {
        torch.ops.covis.block_sparse_attention.default: _node_of(
            block_sparse_attention_op, ATTENTION_ATTRIBUTES
        ),
        torch.ops.covis.block_select.default: _node_of(block_select_op, SELECT_ATTRIBUTES),
        torch.ops.covis.farthest_first.default: _node_of(farthest_first_op, {}),
    }


def _node_of(op: Op, defaults: Mapping[str, int | float | str]) -> Callable[..., object]:
    """Return a function that writes one node with every attribute, defaults included."""
    count = len(op.op_schema.inputs)

    def node(*values: object) -> object:
        attributes = dict(zip(defaults, values[count:], strict=False))
        return op(*values[:count], **{**defaults, **attributes})

    return node


def attach_functions(model: ir.Model) -> ir.Model:
    """Append the body of each of the project's ops that the model uses; idempotent.

    Works in place and returns the model. Call it last, because optimisers inline functions that
    have a body.
    """
    nodes = [*model.graph.all_nodes()]
    for function in model.functions.values():
        nodes += function.all_nodes()
    ours = [node for node in nodes if node.domain == DOMAIN]
    used = {node.op_type for node in ours}
    selects = [node.attributes for node in ours if node.op_type == SELECT]
    pools = [each["pool"].as_string() if "pool" in each else "mean" for each in selects]
    present = {f.name for f in model.functions.values() if f.domain == DOMAIN}
    for proto in functions(_only_pool(pools)):
        if proto.name in used - present:
            body = ir.serde.deserialize_function(proto)
            model.functions[body.identifier()] = body
    if used:
        model.opset_imports.setdefault(DOMAIN, VERSION)
    return model


def _only_pool(pools: Iterable[str]) -> str:
    """Return the `pool` of all BlockSelect nodes; the body of the op supports only one."""
    found = set(pools) or {"mean"}
    if len(found) > 1:
        raise user_error(
            f"is {' and '.join(sorted(found))} in one graph",
            where="pool of BlockSelect",
            hint="use one in all layers",
        )
    return found.pop()
