"""How many bytes of intermediate results a graph holds at once, from its shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import onnx

from covis.engines.graphs.shapes import TensorFacts

# Another shape of the same bytes: no runtime copies for these.
_VIEWS: Final = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
# May write over an operand of the same size that nobody reads later, as ONNX Runtime does.
_IN_PLACE: Final = frozenset(
    {"Add", "Sub", "Mul", "Div", "Neg", "Exp", "Sqrt", "Abs", "Relu", "Gelu", "Sigmoid", "Tanh"}
    | {"Clip", "Min", "Max", "And", "Or", "Not", "Softmax"}
)


@dataclass(frozen=True)
class Peak:
    """The moment at which a graph holds most.

    Attributes:
        bytes: of intermediate results; without the graph's inputs, outputs and weights.
        node: the node that runs then.
        tensors: the largest results alive then, with their bytes.
    """

    bytes: int
    node: str
    tensors: tuple[tuple[str, int], ...]


def peak_memory(model: onnx.ModelProto, facts: Mapping[str, TensorFacts]) -> Peak:
    """The peak of a run of the nodes in their order, each result freed after its last reader.

    Views share their source's bytes, and element-wise nodes take over an operand of their own size
    that dies with them. A kernel's scratch memory is not in the graph and not in the number; a
    runtime that fuses nodes needs less.

    Args:
        model: the graph.
        facts: from `tensor_facts`.
    """
    graph = model.graph
    # Bytes that are not ours: weights, and buffers of the caller. A result that is an output is
    # written straight into the caller's buffer.
    outside = {t.name for t in graph.initializer} | {v.name for v in graph.input}
    storage: dict[str, str] = {}
    for node in graph.node:
        if node.op_type in _VIEWS and node.domain == "":
            storage[node.output[0]] = storage.get(node.input[0], node.input[0])
    outside |= {storage.get(v.name, v.name) for v in graph.output}
    last = _last_readers(graph, storage)
    live: dict[str, int] = {}
    held = 0
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
            spent = _overwritten(node, size, dying, live, storage)
            if spent is not None:
                dying.discard(spent)
                held -= live.pop(spent)
            live[name] = size
            held += size
        if held > best.bytes:
            largest = sorted(live.items(), key=lambda item: -item[1])[:3]
            best = Peak(held, node.name or node.op_type, tuple(largest))
        unread = {n for n in node.output if n in live and last.get(n, index) == index}
        for name in dying | unread:
            held -= live.pop(name)
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
    """Index of the last node that reads each stored result, through any of its views."""
    last: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in (*node.input, *node.output):
            last[storage.get(name, name)] = index
    return last
