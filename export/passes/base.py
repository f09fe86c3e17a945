"""What all passes share: a name and a version for the manifest, and the marks on parameters."""

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
        name: as in the manifest.
        version: counts what the pass makes of the same graph.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph; function bodies are not attached yet."""
        return ir.passes.PassResult(model, self.rewrite(model))

    def rewrite(self, model: ir.Model) -> bool:
        """Rewrite `model`; whether anything changed."""
        raise NotImplementedError


class Parameters:
    """Which initializers are tensors of the weights file, and how each is to be stored.

    The mark is the tensor's name in the file; all else is a table made at export.
    """

    @staticmethod
    def mark(graph: ir.Graph, names: Iterable[str], keys: Mapping[str, str]) -> None:
        """Mark the initializers whose name (by `keys`, where it has another) is in the file."""
        known = set(names)
        for name, value in graph.initializers.items():
            key = keys.get(name, name)
            if key in known:
                value.meta[_KEY] = key

    @staticmethod
    def key(value: ir.Value | None) -> str | None:
        """The tensor's name in the weights file; None for all but parameters."""
        return None if value is None else value.meta.get(_KEY)

    @staticmethod
    def mark_part(part: ir.Value, whole: ir.Value, first_row: int) -> None:
        """Mark `part` as rows of the parameter `whole`, from `first_row` on."""
        part.meta[_KEY] = whole.meta[_KEY]
        part.meta[_FIRST_ROW] = first_row

    @staticmethod
    def first_row(value: ir.Value) -> int | None:
        """Where a part of a parameter begins; None: it is whole."""
        row: int | None = value.meta.get(_FIRST_ROW)
        return row


def run_passes(model: ir.Model, passes: Sequence[Pass]) -> None:
    """Run `passes` over one stage's model, in order."""
    for each in passes:
        each(model)


class SplitOversized(Pass):
    """Rewrites each Gemm whose result would pass a limit.

    Args:
        lengths: the largest length of each symbol.
        limit: elements of one tensor.
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
        """Cut what `gemm` begins, if it is of the kind that this pass knows; whether it did."""
        raise NotImplementedError
