"""Split MLPs whose hidden tensor is too large for TensorRT: compute the tokens in parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from covis.export.passes.base import SplitOversized
from covis.export.sizes import Lengths, elements

# Operators between the two matrix products; each row of a result depends on one row alone.
_BY_ROW = frozenset(["Flatten", "Gelu", "Mul", "Relu", "Reshape", "Sigmoid", "Split"])
_RESHAPES = frozenset(["Flatten", "Reshape"])


class SplitRows(SplitOversized):
    """Split the tokens of an MLP into parts, where its hidden tensor would exceed TensorRT's limit.

    A row of a matrix product depends on no other row, so the parts give the same numbers. A split
    of the hidden columns would change the order of the sums instead. Smaller MLPs stay whole.
    """

    name = "split_rows"

    def split(self, graph: ir.Graph, gemm: ir.Node) -> bool:
        region = _region(gemm) if _tokens(gemm) else None
        if region is None:
            return False
        _split(graph, region, _parts(region, self.lengths, self.limit))
        return True


def _region(first: ir.Node) -> list[ir.Node] | None:
    """Return the nodes from one Gemm to the next one that uses all its results, or None."""
    order: list[ir.Node] = [first]
    inside = {first}
    last: ir.Node | None = None
    for node in order:
        for user in [use for value in node.outputs for use, _ in value.uses()]:
            if user in inside or _reads_leading(user):
                continue
            if user.op_type == "Gemm" and last in (None, user):
                last = user
                inside.add(user)
            elif user.op_type in _BY_ROW:
                order.append(user)
                inside.add(user)
            else:
                return None
    if last is None or any(value.is_graph_output() for n in order for value in n.outputs):
        return None
    graph = first.graph
    assert graph is not None
    return [node for node in graph if node in inside]


def _reads_leading(node: ir.Node) -> bool:
    """Return True for a Shape of all dimensions but the last, which the region does not change."""
    return (
        node.op_type == "Shape"
        and "end" in node.attributes
        and (node.attributes["end"].as_int() == -1)
    )


def _tokens(first: ir.Node) -> ir.Value | None:
    """Return the (..., C) tensor that is flattened to the rows of the first product."""
    flatten = None if first.inputs[0] is None else first.inputs[0].producer()
    return flatten.inputs[0] if flatten is not None and flatten.op_type == "Flatten" else None


def _parts(region: Sequence[ir.Node], lengths: Lengths, limit: int) -> int:
    """Return the smallest number of parts whose tensors all stay within `limit`."""
    largest = max(elements(v, lengths) or 0 for node in region[:-1] for v in node.outputs)
    rows = _rows(region)
    count = elements(rows, lengths)
    assert count is not None and rows.shape is not None
    parts = math.ceil(largest / limit)
    tokens, width = count // int(str(rows.shape[1])), math.ceil(largest / count)
    while math.ceil(tokens / parts) * width * int(str(rows.shape[1])) > limit:
        parts += 1
    return parts


def _rows(region: Sequence[ir.Node]) -> ir.Value:
    value = region[0].inputs[0]
    assert value is not None
    return value


def _split(graph: ir.Graph, region: Sequence[ir.Node], parts: int) -> None:
    rows, last = _rows(region), region[-1]
    tokens_in = _tokens(region[0])
    for value in [v for node in region[:-1] for v in node.outputs]:
        for user, place in list(value.uses()):
            if user.op_type == "Shape":
                user.replace_input_with(place, tokens_in)
    nodes: list[ir.Node] = []

    def add(op: str, inputs: Sequence[ir.Value | None], **attributes: object) -> ir.Value:
        node = ir.node(op, inputs, attributes=attributes)  # type: ignore[arg-type]
        nodes.append(node)
        return node.outputs[0]

    def number(*values: int) -> ir.Value:
        tensor = ir.tensor(np.array(values, np.int64))
        value = add("Constant", [], value=tensor)
        value.type, value.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([len(values)])
        return value

    count = add("Shape", [rows], start=0, end=1)
    length = add("Div", [add("Add", [count, number(parts - 1)]), number(parts)])
    assert rows.shape is not None and rows.dtype is not None
    tokens = str(rows.shape[0])
    share = f"(({tokens} + {parts - 1})//{parts})"
    results = []
    for part in range(parts):
        first = add("Mul", [length, number(part)])
        stop = add("Mul", [length, number(part + 1)])
        piece = add("Slice", [rows, first, stop, number(0)])
        # The text differs for each part, because equal texts mean equal lengths.
        length_here = f"Min({share}, Max(0, ({tokens}) - {part}*{share}))"
        piece.type, piece.shape = ir.TensorType(rows.dtype), ir.Shape([length_here, rows.shape[1]])
        results.append(_copy(region, rows, piece, length_here, part, nodes))
    for value in (v for node in nodes for v in node.outputs if v.type is None):
        value.type, value.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([1])
    old = last.outputs[0]
    whole = add("Concat", results, axis=0)
    whole.type, whole.shape = old.type, old.shape
    for i, node in enumerate(nodes):
        if node.name is None:
            node.name = f"{region[0].name}/rows/{node.op_type}_{i}"
        for value in node.outputs:
            if value.name is None:
                value.name = f"{node.name}.out"
    graph.insert_before(last, nodes)
    old.replace_all_uses_with(whole)


def _copy(
    region: Sequence[ir.Node],
    rows: ir.Value,
    piece: ir.Value,
    tokens: str,
    part: int,
    nodes: list[ir.Node],
) -> ir.Value:
    """Copy the region for one part, on matrices of tokens; its reshapes are left out."""
    twin: dict[ir.Value, ir.Value] = {rows: piece}
    for node in region:
        inputs = [None if v is None else twin.get(v, v) for v in node.inputs]
        if node.op_type in _RESHAPES:
            assert inputs[0] is not None
            twin[node.outputs[0]] = inputs[0]
            continue
        attributes = dict(node.attributes)
        if node.op_type == "Split":
            attributes["axis"] = ir.AttrInt64("axis", -1)  # the last axis, now of two
        copy = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            attributes.values(),
            num_outputs=len(node.outputs),
            name=f"{node.name}.{part}",
        )
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            assert old.dtype is not None and old.shape is not None
            new.type, new.shape = ir.TensorType(old.dtype), ir.Shape([tokens, old.shape[-1]])
            new.name = f"{old.name}.{part}"
            twin[old] = new
        nodes.append(copy)
    return twin[region[-1].outputs[0]]
