"""The ONNX function bodies, run by ONNX Runtime on the CPU, as an implementation of the contract.

An adapter of a custom-op library is the same model with the library registered. It has no function
bodies, so that the kernels must run.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from covis.export.ops.functions import functions
from tests.vectors.case import DTYPES, Array, AttentionCase, SelectCase
from tests.vectors.farthest_case import FarthestCase
from tests.vectors.suite import Case

_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}


def attention_model(case: AttentionCase, *, with_body: bool = True) -> onnx.ModelProto:
    """Return a model of one BlockSparseAttention; B, H, S are dynamic, D is fixed."""
    level = helper.make_tensor_value_info("level", TensorProto.INT8, ["b", "h", "Rq", "Rk"])
    node = helper.make_node(
        "BlockSparseAttention", ["Q", "K", "V", "level"], ["O"], domain="covis", **case.attributes
    )
    tokens = ["B", "H", "S", case.q.shape[3]]
    output = helper.make_tensor_value_info("O", _TYPES[case.dtype], tokens)
    return _model(node, "QKV", case.q, [level], output, functions() if with_body else [])


def select_model(case: SelectCase, *, with_body: bool = True) -> onnx.ModelProto:
    """Return a model of one BlockSelect; all dimensions but D are dynamic."""
    inputs = [helper.make_tensor_value_info("pair", TensorProto.INT8, [1, 1, "m", "m"])]
    for name in ("keep_ratio", "cdf"):
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
    names = ["Q", "K", *(i.name for i in inputs)]
    node = helper.make_node("BlockSelect", names, ["level"], domain="covis", **case.attributes)
    output = helper.make_tensor_value_info("level", TensorProto.INT8, ["B", "H", "Rq", "Rk"])
    bodies = functions(case.pool) if with_body else []
    return _model(node, "QK", case.q, inputs, output, bodies)


def farthest_model(*, with_body: bool = True) -> onnx.ModelProto:
    """Return a model of one FarthestFirst; M is dynamic."""
    inputs = [
        helper.make_tensor_value_info("similarity", TensorProto.FLOAT, ["M", "M"]),
        helper.make_tensor_value_info("given", TensorProto.INT64, ["M"]),
        helper.make_tensor_value_info("count", TensorProto.INT64, []),
    ]
    node = helper.make_node("FarthestFirst", [i.name for i in inputs], ["rank"], domain="covis")
    output = helper.make_tensor_value_info("rank", TensorProto.INT32, ["M"])
    return _finished([node], inputs, output, functions() if with_body else [])


def _model(
    node: onnx.NodeProto,
    tokens: str,
    like: Array,
    inputs: list[onnx.ValueInfoProto],
    output: onnx.ValueInfoProto,
    bodies: Iterable[onnx.FunctionProto],
) -> onnx.ModelProto:
    """Return a model of the node; bfloat16 inputs get casts, because numpy has no bfloat16."""
    kind = _TYPES[like.dtype.name]
    outside = TensorProto.FLOAT if kind == TensorProto.BFLOAT16 else kind
    shape = ["B", "H", "S", like.shape[3]]
    nodes = [node]
    if outside != kind:
        for i, name in enumerate(tokens):
            nodes.insert(i, helper.make_node("Cast", [name], [f"{name}_cast"], to=kind))
            node.input[i] = f"{name}_cast"
        if output.type.tensor_type.elem_type == kind:
            node.output[0] = "inside"
            nodes.append(helper.make_node("Cast", ["inside"], [output.name], to=outside))
            output.type.tensor_type.elem_type = outside
    first = [helper.make_tensor_value_info(name, outside, shape) for name in tokens]
    return _finished(nodes, [*first, *inputs], output, bodies)


def _finished(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    output: onnx.ValueInfoProto,
    bodies: Iterable[onnx.FunctionProto],
) -> onnx.ModelProto:
    """Return the model of these nodes with the bodies that they use."""
    graph = helper.make_graph(nodes, "one_op", inputs, [output])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("covis", 1)]
    used = {node.op_type for node in nodes}
    own = [body for body in bodies if body.name in used]
    return helper.make_model(graph, opset_imports=opsets, functions=own, ir_version=10)


class OrtOps:
    """One-node models in ONNX Runtime: the function bodies, or a custom-op library's kernels."""

    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    low_precision = "exact"

    def __init__(self, library: Path | None = None, threads: int = 2) -> None:
        self.name = f"ONNX Runtime ({library.name if library else 'function body'})"
        self._library = library
        self._threads = threads

    def supports(self, case: Case) -> str | None:
        return None

    def attention(self, case: AttentionCase) -> Array:
        model = attention_model(case, with_body=self._library is None)
        tokens = {"Q": case.q, "K": case.k, "V": case.v}
        return self._run(model, tokens, {"level": case.level}).astype(DTYPES[case.dtype])

    def select(self, case: SelectCase) -> Array:
        model = select_model(case, with_body=self._library is None)
        scalars = {
            "keep_ratio": np.array(case.keep_ratio, np.float32),
            "cdf": np.array(case.cdf, np.float32),
        }
        return self._run(model, {"Q": case.q, "K": case.k}, {"pair": case.pair, **scalars})

    def farthest(self, case: FarthestCase) -> Array:
        model = farthest_model(with_body=self._library is None)
        count = np.array(case.count, np.int64)
        inputs = {"similarity": case.similarity, "given": case.given, "count": count}
        return self._run(model, {}, inputs)

    def _run(
        self, model: onnx.ModelProto, tokens: dict[str, Array], others: dict[str, Array]
    ) -> Array:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        if self._library is not None:
            options.register_custom_ops_library(str(self._library))
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        wide = {
            n: x.astype(np.float32) if x.dtype.itemsize == 2 and x.dtype != np.float16 else x
            for n, x in tokens.items()
        }
        out: Array = session.run(None, {**wide, **others})[0]
        return out
