"""Check the nodes of the three ops in a graph: version of their domain, and their attributes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import onnx

from covis.engines.errors import CovisError, user_error
from covis.engines.op import ATTRIBUTES, DOMAIN, VERSION

_NAMES: Final = {
    int: ("an integer", onnx.AttributeProto.INT),
    float: ("a float", onnx.AttributeProto.FLOAT),
    str: ("a string", onnx.AttributeProto.STRING),
}
_EXPORT: Final = "export the bundle again with this version of covis"


def check_ops(model: onnx.ModelProto, where: Path) -> None:
    """Check that every node of the three ops means what this version of covis computes.

    Raises:
        CovisError: the graph follows another version of the domain, or an attribute is unknown, is
            given twice or has another type than the contract says (exit code 2).
    """
    for opset in _opsets(model):
        if opset.domain == DOMAIN and opset.version != VERSION:
            raise user_error(
                f"follows version {opset.version} of the domain {DOMAIN!r}, this covis {VERSION}",
                where=where,
                hint=_EXPORT,
            )
    for node in _nodes(model):
        if node.domain == DOMAIN and node.op_type in ATTRIBUTES:
            _check_attributes(node, where)


def _check_attributes(node: onnx.NodeProto, where: Path) -> None:
    defaults = ATTRIBUTES[node.op_type]
    seen: set[str] = set()
    for attribute in node.attribute:
        if attribute.name not in defaults:
            raise _fault(node, attribute, "is unknown", where)
        if attribute.name in seen:
            raise _fault(node, attribute, "is given twice", where)
        seen.add(attribute.name)
        words, kind = _NAMES[type(defaults[attribute.name])]
        if attribute.type != kind:
            raise _fault(node, attribute, f"is not {words}", where)


def _fault(
    node: onnx.NodeProto, attribute: onnx.AttributeProto, what: str, where: Path
) -> CovisError:
    place = f"node {node.name[:80]!r} ({node.op_type})"
    return user_error(
        f"attribute {attribute.name[:80]!r} of {place} {what}", where=where, hint=_EXPORT
    )


def _opsets(model: onnx.ModelProto) -> Iterator[onnx.OperatorSetIdProto]:
    yield from model.opset_import
    for function in model.functions:
        yield from function.opset_import


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from _nested(model.graph.node)
    for function in model.functions:
        yield from _nested(function.node)


def _nested(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Iterate over nodes and those of their subgraphs."""
    waiting = [nodes]
    while waiting:
        for node in waiting.pop():
            yield node
            for attribute in node.attribute:
                graphs = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
                waiting.extend(graph.node for graph in graphs)
