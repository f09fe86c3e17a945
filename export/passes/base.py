"""Base of all passes: name and version for the manifest, and marks on parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from covis.engines.op import MOST_ELEMENTS
from covis.export.sizes import Lengths, elements

_KEY = "covis.key"
_FIRST_ROW = "covis.first_row"


class Pass(ir.passes.InPlacePass):
    """A rewrite of one stage's graph, in place.

    Attributes:
        name: Name in the manifest.
        version: Version in the manifest; raised when the pass produces another graph from the same
            input.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph; function bodies are not attached yet."""
        return ir.passes.PassResult(model, self.rewrite(model))

    def rewrite(self, model: ir.Model) -> bool:
        """Rewrite `model` in place, and return True if anything changed."""
        raise NotImplementedError


class Parameters:
    """Marks on the initializers that are tensors of the weights file.

    The mark is the name of the tensor in the file. An initializer without a mark is a table that
    was computed at export.
    """

    @staticmethod
    def mark(graph: ir.Graph, names: Iterable[str], keys: Mapping[str, str]) -> None:
        """Mark the initializers whose name is in the file; `keys` maps names that differ there."""
        known = set(names)
        for name, value in graph.initializers.items():
            key = keys.get(name, name)
            if key in known:
                value.meta[_KEY] = key

    @staticmethod
    def key(value: ir.Value | None) -> str | None:
        """Return the name of a parameter in the weights file; None if `value` is no parameter."""
        return None if value is None else value.meta.get(_KEY)

    @staticmethod
    def mark_part(part: ir.Value, whole: ir.Value, first_row: int) -> None:
        """Mark `part` as rows of the parameter `whole`, from `first_row` on."""
        part.meta[_KEY] = whole.meta[_KEY]
        part.meta[_FIRST_ROW] = first_row

    @staticmethod
    def first_row(value: ir.Value) -> int | None:
        """Return the first row of a part of a parameter; None for a whole parameter."""
        row: int | None = value.meta.get(_FIRST_ROW)
        return row


def run_passes(model: ir.Model, passes: Sequence[Pass]) -> None:
    """Run `passes` over one stage's model, in order."""
    for each in passes:
        each(model)


class SplitOversized(Pass):
    """Base of passes that rewrite each Gemm whose result would exceed a limit.

    Args:
        lengths: Largest length of each symbol.
        limit: Largest number of elements of one tensor.
    """

    def __init__(self, lengths: Lengths, limit: int = MOST_ELEMENTS) -> None:
        self.lengths = lengths
        self.limit = limit

    def rewrite(self, model: ir.Model) -> bool:
        changed = False
        for node in [n for n in model.graph if n.op_type == "Gemm"]:
            if (elements(node.outputs[0], self.lengths) or 0) > self.limit:
                changed = self.split(model.graph, node) or changed
        if changed:
            RemoveUnusedNodesPass()(model)
        return changed

    def split(self, graph: ir.Graph, gemm: ir.Node) -> bool:
        """Split the operators that start with `gemm`, and return True if the pass supports them."""
        raise NotImplementedError
