"""Estimate the peak memory of a graph's intermediate results from its shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import onnx

from covis.engines.graphs.shapes import TensorFacts

# Another shape of the same bytes: no runtime copies data for these.
_VIEWS: Final = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
# May overwrite an operand of the same size that no later node reads, as ONNX Runtime does.
_IN_PLACE: Final = frozenset(
    {"Add", "Sub", "Mul", "Div", "Neg", "Exp", "Sqrt", "Abs", "Relu", "Gelu", "Sigmoid", "Tanh"}
    | {"Clip", "Min", "Max", "And", "Or", "Not", "Softmax"}
)


@dataclass(frozen=True)
class Peak:
    """Peak memory of a graph.

    Attributes:
        bytes: Intermediate results in bytes, without the graph's inputs, outputs and weights.
        node: Name of the node that runs at the peak.
        tensors: The three largest results alive at the peak, with their sizes in bytes.
    """

    bytes: int
    node: str
    tensors: tuple[tuple[str, int], ...]


def peak_memory(model: onnx.ModelProto, facts: Mapping[str, TensorFacts]) -> Peak:
    """Simulate a run of the nodes in their order, and return its peak memory.

    A result counts from the node that produces it to the last node that reads it. Reshapes share
    their source's memory, and element-wise nodes overwrite an operand of equal size that no later
    node reads. The workspace of kernels is not included. A runtime that fuses nodes needs less.

    Args:
        model: The graph.
        facts: Types and shapes of its tensors, from `tensor_facts`.
    """
    graph = model.graph
    # Memory that does not count: weights, and buffers of the caller. A result that is an output
    # is written directly into the caller's buffer.
    outside = {t.name for t in graph.initializer} | {v.name for v in graph.input}
    storage: dict[str, str] = {}
    for node in graph.node:
        if node.op_type in _VIEWS and node.domain == "":
            storage[node.output[0]] = storage.get(node.input[0], node.input[0])
    outside |= {storage.get(v.name, v.name) for v in graph.output}
    last = _last_readers(graph, storage)
    live: dict[str, int] = {}
    live_bytes = 0
    best = Peak(0, "", ())
    for index, node in enumerate(graph.node):
        dying = {
            owner
            for name in node.input
            if (owner := storage.get(name, name)) in live and last[owner] == index
        }
        for name in node.output:
            if not name or name in storage or name in outside:
                continue
            size = facts[name].bytes
            operand = _overwritten(node, size, dying, live, storage)
            if operand is not None:
                dying.discard(operand)
                live_bytes -= live.pop(operand)
            live[name] = size
            live_bytes += size
        if live_bytes > best.bytes:
            largest = sorted(live.items(), key=lambda item: -item[1])[:3]
            best = Peak(live_bytes, node.name or node.op_type, tuple(largest))
        unread = {n for n in node.output if n in live and last.get(n, index) == index}
        for name in dying | unread:
            live_bytes -= live.pop(name)
    return best


def _overwritten(
    node: onnx.NodeProto,
    size: int,
    dying: set[str],
    live: Mapping[str, int],
    storage: Mapping[str, str],
) -> str | None:
    if node.op_type not in _IN_PLACE or node.domain != "":
        return None
    operands = [storage.get(name, name) for name in node.input]
    return next((name for name in operands if name in dying and live[name] == size), None)


def _last_readers(graph: onnx.GraphProto, storage: Mapping[str, str]) -> dict[str, int]:
    """Find the index of the last node that reads each stored result, also through reshapes."""
    last: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in (*node.input, *node.output):
            last[storage.get(name, name)] = index
    return last
