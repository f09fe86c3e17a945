"""Constant folding of what the exporter leaves to be recomputed at every run."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    IdentityEliminationPass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
)
from onnxscript.optimizer._constant_folding import FoldConstantsPass

from covis.export.passes.base import Parameters, Pass

_LARGEST = (
    1024  # elements of a folded constant: enough for shapes and indices, too few for a weight
)


class Fold(Pass):
    """Fold shape arithmetic, replace sequences of tensors by Split, and infer every value's shape.

    Sequences are replaced because TensorRT does not support them. Parameters are never folded: they
    stay as they are in the weights file.
    """

    name = "fold"

    def rewrite(self, model: ir.Model) -> bool:
        ir.passes.Sequential(
            FoldConstantsPass(
                shape_inference=True,
                input_size_limit=_LARGEST,
                output_size_limit=_LARGEST,
                should_fold=_without_parameters,
            ),
            RemoveUnusedNodesPass(),
            LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            CommonSubexpressionEliminationPass(),
            IdentityEliminationPass(),
            RemoveUnusedNodesPass(),
        )(model)
        _complete_shapes(model.graph)
        return True


def _complete_shapes(graph: ir.Graph) -> None:
    """Set shapes with products of symbols, such as tokens as rows of a matrix.

    Shape inference leaves them open.
    """
    for node in graph:
        data = node.inputs[0] if node.inputs else None
        if data is None or data.shape is None:
            continue
        if node.op_type == "Flatten" and node.attributes["axis"].as_int() == -1:
            rows = [str(dim) if isinstance(dim, int) else str(dim.value) for dim in data.shape[:-1]]
            count = "*".join(f"({n})" for n in rows) if rows else 1  # a single token is one row
            node.outputs[0].shape = ir.Shape([count, data.shape[-1]])
        elif node.op_type == "Gemm" and node.inputs[1] is not None and node.inputs[1].shape:
            node.outputs[0].shape = ir.Shape([data.shape[0], node.inputs[1].shape[0]])


def _without_parameters(node: ir.Node) -> bool | None:
    """Return False for a node that reads a parameter; None lets the folding pass decide."""
    return False if any(Parameters.key(value) for value in node.inputs) else None
