"""Constant folding of small integers: TensorRT's parser requires constant axes and shapes."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from covis.engines.tensorrt.parser_graph.constants import LARGEST, constant, small_constant

_FOLDED: Final = frozenset(
    [
        "Add",
        "Cast",
        "Concat",
        "Div",
        "Gather",
        "Identity",
        "Mul",
        "Reshape",
        "Slice",
        "Squeeze",
        "Sub",
        "Unsqueeze",
    ]
)


def fold_integers(graph: ir.Graph) -> None:
    """Replace nodes that compute small int64 values from constants alone by those constants."""
    for node in graph:
        if node.domain or node.op_type not in _FOLDED or len(node.outputs) != 1:
            continue
        feeds: dict[str, Any] = {}
        for value in node.inputs:
            array = small_constant(value)
            if value is not None and value.name and array is not None:
                feeds[value.name] = array
        output = node.outputs[0]
        if not feeds or any(value is None or value.name not in feeds for value in node.inputs):
            continue
        (result,) = ReferenceEvaluator(ir.to_proto(node)).run(None, feeds)
        folded = np.asarray(result)
        if folded.dtype == np.int64 and folded.size <= LARGEST:
            new = constant(output.name or "", folded)
            ir.convenience.replace_nodes_and_values(
                graph, node, [node], [new], [output], new.outputs
            )
