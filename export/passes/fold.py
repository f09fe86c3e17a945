"""What the exporter leaves to be computed again at every run, computed once."""

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

_LARGEST = 1024  # elements of a constant: shapes and indices, never a weight


class Fold(Pass):
    """Folds shape arithmetic, sequences of tensors become Split, and every value gets its shape.

    TensorRT knows no sequences. Parameters are never folded: they stay what the weights file holds.
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
        return True


def _without_parameters(node: ir.Node) -> bool | None:
    """False for what reads a parameter; None leaves the choice to the folder."""
    return False if any(Parameters.key(value) for value in node.inputs) else None
