"""What the passes share that cut tensors too large for TensorRT."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from covis.export.passes.base import Pass
from covis.export.sizes import LIMIT, Lengths, elements


class SplitOversized(Pass):
    """Rewrites each Gemm whose result would pass a limit.

    Args:
        lengths: the largest length of each symbol.
        limit: elements of one tensor.
    """

    def __init__(self, lengths: Lengths, limit: int = LIMIT) -> None:
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
