"""From the torch ops to ONNX nodes, and the function bodies those nodes need.

A function with a body given to `torch.onnx.export` is always inlined and the node is lost. So the
torch ops become body-less nodes, and the bodies are attached to the finished model, after every
optimisation (`onnxscript.optimizer.optimize` would inline them again).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import onnx
import onnx_ir as ir
import torch
from onnxscript.values import Op

from covis.engines.errors import user_error
from covis.engines.op import DOMAIN, VERSION
from covis.export.ops.functions import functions
from covis.export.ops.schema import block_select_op, block_sparse_attention_op

_SELECT = "BlockSelect"
_Model = TypeVar("_Model", onnx.ModelProto, ir.Model)


def translation_table() -> dict[Callable[..., object], Callable[..., object]]:
    """The `custom_translation_table` of `torch.onnx.export(dynamo=True)` for both ops.

    Import `covis.export.ops` first: it registers the torch ops that are the table's keys.
    """
    return {
        torch.ops.covis.block_sparse_attention.default: _attention_node,
        torch.ops.covis.block_select.default: _select_node,
    }


def _attention_node(
    q: object,
    k: object,
    v: object,
    level: object,
    frame_tokens: int = 1,
    special_first: int = 0,
    special_last: int = 0,
    trailing_tokens: int = 0,
    q_block: int = 1,
    k_block: int = 1,
    scale: float = 0.0,
) -> object:
    return _node(
        block_sparse_attention_op,
        (q, k, v, level),
        frame_tokens=frame_tokens,
        special_first=special_first,
        special_last=special_last,
        trailing_tokens=trailing_tokens,
        q_block=q_block,
        k_block=k_block,
        scale=scale,
    )


def _select_node(
    q: object,
    k: object,
    pair: object,
    keep_ratio: object,
    cdf: object,
    frame_tokens: int = 1,
    special_first: int = 0,
    special_last: int = 0,
    trailing_tokens: int = 0,
    q_block: int = 128,
    k_block: int = 64,
    pool: str = "mean",
) -> object:
    return _node(
        block_select_op,
        (q, k, pair, keep_ratio, cdf),
        frame_tokens=frame_tokens,
        special_first=special_first,
        special_last=special_last,
        trailing_tokens=trailing_tokens,
        q_block=q_block,
        k_block=k_block,
        pool=pool,
    )


def _node(op: Op, inputs: tuple[object, ...], **attributes: float | str) -> object:
    return op(*inputs, **attributes)


def attach_functions(model: _Model) -> _Model:
    """Append the body of each of the project's ops that the model uses; idempotent.

    Works in place and returns the model. Call it last: optimisers inline what has a body.
    """
    if isinstance(model, onnx.ModelProto):
        _attach_proto(model)
    else:
        _attach_ir(model)
    return model


def _attach_proto(model: onnx.ModelProto) -> None:
    nodes = [*_nodes(model.graph), *(n for f in model.functions for n in f.node)]
    ours = [node for node in nodes if node.domain == DOMAIN]
    used = {node.op_type for node in ours}
    chosen = [{a.name: a.s.decode() for a in n.attribute} for n in ours if n.op_type == _SELECT]
    pools = [given.get("pool", "mean") for given in chosen]
    present = {f.name for f in model.functions if f.domain == DOMAIN}
    wanted = [f for f in functions(_only_pool(pools)) if f.name in used - present]
    model.functions.extend(wanted)
    if used and DOMAIN not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))


def _attach_ir(model: ir.Model) -> None:
    nodes = [*model.graph.all_nodes()]
    for function in model.functions.values():
        nodes += function.all_nodes()
    ours = [node for node in nodes if node.domain == DOMAIN]
    used = {node.op_type for node in ours}
    chosen = [node.attributes for node in ours if node.op_type == _SELECT]
    pools = [given["pool"].as_string() if "pool" in given else "mean" for given in chosen]
    present = {f.name for f in model.functions.values() if f.domain == DOMAIN}
    for proto in functions(_only_pool(pools)):
        if proto.name in used - present:
            body = ir.serde.deserialize_function(proto)
            model.functions[body.identifier()] = body
    if used:
        model.opset_imports.setdefault(DOMAIN, VERSION)


def _only_pool(pools: Iterable[str]) -> str:
    """The `pool` of a model's nodes: the body of BlockSelect serves one."""
    found = set(pools) or {"mean"}
    if len(found) > 1:
        raise user_error(
            f"is {' and '.join(sorted(found))} in one graph",
            where="pool of BlockSelect",
            hint="use one in all layers",
        )
    return found.pop()


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _nodes(subgraph)
