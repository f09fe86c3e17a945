"""Split fused Q, K, V projections whose packed result is too large for TensorRT."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from covis.export.passes.base import Parameters, SplitOversized

_PERMUTATION = [2, 0, 3, 1, 4]  # (B, S, 3, H, D) -> (3, B, H, S, D)
_NAMES = "qkv"


class SplitQkv(SplitOversized):
    """Compute Q, K and V by one product each, where one for all would exceed TensorRT's limit.

    Each product reads its own rows of the one weight, so nothing is stored twice and no number
    changes.
    """

    name = "split_qkv"

    def split(self, graph: ir.Graph, gemm: ir.Node) -> bool:
        return _split(graph, gemm)


def _only_user(value: ir.Value, kind: str) -> ir.Node | None:
    users = [node for node, _ in value.uses()]
    return users[0] if len(users) == 1 and users[0].op_type == kind else None


def _split(graph: ir.Graph, gemm: ir.Node) -> bool:
    transpose, shape = _unpacking(gemm)
    if transpose is None or shape is None:
        return False
    ends = [_piece(user) for user, _ in transpose.outputs[0].uses()]
    if sorted(which for which, _ in ends) != [0, 1, 2]:
        return False
    weight, bias = gemm.inputs[1], gemm.inputs[2]
    assert weight is not None and bias is not None
    axes = ir.node("Constant", [], attributes={"value": ir.tensor(np.array([0, 1, 3, 4]))})
    axes.outputs[0].type = ir.TensorType(ir.DataType.INT64)
    axes.outputs[0].shape = ir.Shape([4])
    heads = ir.node("Gather", [shape, axes.outputs[0]], attributes={"axis": 0})
    heads.outputs[0].type, heads.outputs[0].shape = ir.TensorType(ir.DataType.INT64), ir.Shape([4])
    nodes = [axes, heads]
    for node in nodes:
        node.name = f"{gemm.name}/{node.op_type}"
        node.outputs[0].name = f"{node.name}.out"
    graph.insert_before(transpose, nodes)
    for which, old in ends:
        _project(graph, transpose, gemm, (_part(weight, which), _part(bias, which)), heads, old)
    return True


def _unpacking(gemm: ir.Node) -> tuple[ir.Node | None, ir.Value | None]:
    """Return the transposition that puts the three first, and its input's shape (B, S, 3, H, D)."""
    value = gemm.outputs[0]
    for _ in range(2):
        reshape = _only_user(value, "Reshape")
        if reshape is None:
            return None, None
        value = reshape.outputs[0]
        transpose = _only_user(value, "Transpose")
        if transpose is not None:
            fits = list(transpose.attributes["perm"].as_ints()) == _PERMUTATION
            return (transpose, reshape.inputs[1]) if fits else (None, None)
    return None, None


def _piece(node: ir.Node) -> tuple[int, ir.Value]:
    """Return which of the three a Slice and its Squeeze select, and their result; -1 if neither."""
    start = node.inputs[1].const_value if node.op_type == "Slice" and node.inputs[1] else None
    squeeze = _only_user(node.outputs[0], "Squeeze")
    if start is None or squeeze is None:
        return -1, node.outputs[0]
    return int(start.numpy().item()), squeeze.outputs[0]


def _part(value: ir.Value, which: int) -> ir.Value:
    """Return a third of a parameter's rows as a parameter of its own over the same bytes."""
    graph = value.graph
    assert graph is not None and value.shape is not None and value.dtype is not None
    name = f"{value.name}.{_NAMES[which]}"
    if name not in graph.initializers:
        rows = int(str(value.shape[0])) // 3
        part = ir.Value(
            name=name,
            type=ir.TensorType(value.dtype),
            shape=ir.Shape([rows, *list(value.shape)[1:]]),
        )
        Parameters.mark_part(part, value, which * rows)
        graph.initializers[name] = part
    return graph.initializers[name]


def _project(
    graph: ir.Graph,
    before: ir.Node,
    gemm: ir.Node,
    weights: tuple[ir.Value, ir.Value],
    heads: ir.Node,
    old: ir.Value,
) -> None:
    """Insert rows -> product -> (B, S, H, D) -> (B, H, S, D) in place of `old`."""
    rows, name = gemm.inputs[0], weights[0].name
    width = weights[0].shape
    assert (
        rows is not None and rows.shape is not None and width is not None and old.dtype is not None
    )
    product = ir.node("Gemm", [rows, *weights], attributes=dict(gemm.attributes))
    product.name = f"{gemm.name}.{str(name)[-1]}"
    split = ir.node("Reshape", [product.outputs[0], heads.outputs[0]])
    turned = ir.node("Transpose", [split.outputs[0]], attributes={"perm": [0, 2, 1, 3]})
    assert old.shape is not None
    batch, count, tokens, size = list(old.shape)
    shapes = ([rows.shape[0], width[0]], [batch, tokens, count, size], [batch, count, tokens, size])
    for node, shape in zip((product, split, turned), shapes, strict=True):
        node.name = node.name or f"{product.name}/{node.op_type}"
        node.outputs[0].name = f"{node.name}.out"
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(old.dtype), ir.Shape(shape)
    graph.insert_before(before, [product, split, turned])
    old.replace_all_uses_with(turned.outputs[0])
