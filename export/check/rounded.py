"""Running a narrow graph on the CPU where ONNX Runtime has no kernels for its types.

Imports no torch: it runs in the verifier's helper process.
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
# With kernels for bfloat16, or dissolved into such: they move numbers and round nothing.
_MOVING = frozenset(["Cast", "CastLike", "Shape", "Constant", "Identity"])


def round_results(model: ir.Model, dtype: ir.DataType) -> None:
    """Make every operator of the main graph that has `dtype` compute in float32.

    Inputs are widened before it and results rounded to `dtype` after it, so each value of that type
    is what a kernel with a float32 accumulator would write. Casts among them stay as they are.
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
    """Every output of a graph by name, from ONNX Runtime's CPU provider.

    Args:
        graph: the file.
        inputs: by name.
        dtype: an ONNX type such as BFLOAT16 whose operators run as `round_results` says; None: the
            graph runs as it is.
    """
    ort = import_onnxruntime()
    settings = session_settings()
    # Optimisations take casts there and back for nothing, and fold weights into wide copies.
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    path = graph
    try:
        if dtype is not None:
            model = ir.load(graph)
            round_results(model, ir.DataType[dtype])
            path = graph.with_name(_COPY)  # beside the weights that it points to
            ir.save(model, path)
        session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    finally:
        if path != graph:
            path.unlink(missing_ok=True)
