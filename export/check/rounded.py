"""Run a narrow graph on the CPU where ONNX Runtime has no kernels for its types.

Imports no torch, because it runs in the verifier's helper process.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import NameFixPass

from covis.engines.system.ort_settings import import_onnxruntime, session_settings

_COPY = "rounded.onnx"
_KERNELS = {"", "ai.onnx"}
# Operators that have bfloat16 kernels or vanish at load; they move numbers and round nothing.
_MOVING = frozenset(["Cast", "CastLike", "Shape", "Constant", "Identity"])


def round_results(model: ir.Model, dtype: ir.DataType) -> None:
    """Make every operator of the main graph that has `dtype` compute in float32.

    Its inputs are widened and its results are rounded to `dtype`. So each value of that type equals
    the result of a kernel with a float32 accumulator. Existing casts stay as they are.
    """
    graph = model.graph
    for node in list(graph):
        if node.domain not in _KERNELS or node.op_type in _MOVING:
            continue
        for place, value in enumerate(node.inputs):
            if value is not None and value.dtype == dtype:
                cast = ir.node("Cast", [value], attributes={"to": int(ir.DataType.FLOAT)})
                cast.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
                graph.insert_before(node, cast)
                node.replace_input_with(place, cast.outputs[0])
        for value in node.outputs:
            if value.dtype == dtype:
                cast = ir.node("Cast", [value], attributes={"to": int(dtype)})
                cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(dtype), value.shape
                graph.insert_after(node, cast)
                value.replace_all_uses_with(cast.outputs[0], replace_graph_outputs=True)
                cast.replace_input_with(0, value)
                value.type = ir.TensorType(ir.DataType.FLOAT)
    NameFixPass()(model)


def run_rounded(
    graph: Path, inputs: Mapping[str, NDArray[Any]], dtype: str | None
) -> dict[str, NDArray[Any]]:
    """Return every output of a graph by name, computed by ONNX Runtime's CPU provider.

    Args:
        graph: ONNX file.
        inputs: Input arrays by name.
        dtype: ONNX type, such as BFLOAT16, whose operators run as in `round_results`. None runs the
            graph unchanged.
    """
    ort = import_onnxruntime()
    settings = session_settings()
    # Optimisations would remove pairs of casts that round, and fold weights into wide copies.
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    path = graph
    try:
        if dtype is not None:
            model = ir.load(graph)
            round_results(model, ir.DataType[dtype])
            path = graph.with_name(_COPY)  # beside the weights that it refers to
            ir.save(model, path)
        session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    finally:
        if path != graph:
            path.unlink(missing_ok=True)
