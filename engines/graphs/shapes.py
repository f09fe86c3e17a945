"""Infer type and shape of every tensor of a graph, for given shapes of its inputs.

ONNX's own inference does not determine shapes that are computed inside the graph. Here those small
computations are evaluated, node by node, so that every shape becomes a tuple of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from covis.engines.dtypes import BY_ONNX
from covis.engines.errors import user_error
from covis.engines.graphs.read import op_attributes
from covis.engines.op import ATTENTION, DOMAIN, FARTHEST

Shape = tuple[int, ...]

# Shape arithmetic handles a few numbers; indices of views or tokens are data, and not evaluated.
_SMALL: Final = 64
_GROWING: Final = frozenset({"Range", "Expand", "ConstantOfShape", "Tile"})


@dataclass(frozen=True)
class TensorFacts:
    """Element type (of `onnx.TensorProto`) and shape of a tensor."""

    dtype: int
    shape: Shape

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in memory in bytes; elements below a byte are packed."""
        kind = BY_ONNX.get(self.dtype)
        if kind is not None:
            bits = kind.bits
        else:  # a type that no graph of covis has
            bits = 8 * int(helper.tensor_dtype_to_np_dtype(self.dtype).itemsize)
        return (self.elements * bits + 7) // 8


def tensor_facts(model: onnx.ModelProto, inputs: Mapping[str, Shape]) -> dict[str, TensorFacts]:
    """Infer every input, initializer and node output of a graph, by name.

    Args:
        model: A graph without sequences and subgraphs, from `for_tensorrt`.
        inputs: Shape of every graph input.

    Raises:
        CovisError: a shape depends on data of the run (exit code 2).
    """
    return ShapeEvaluator(model)(inputs)


class ShapeEvaluator:
    """Infers one graph for many input shapes; nodes that depend on none are evaluated once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._opsets = list(model.opset_import)
        versions = {entry.domain or "": entry.version for entry in self._opsets}
        self._opset = versions.get("", 20)
        self._ir = model.ir_version
        self._schemas: dict[str, Any] = {}
        self._runners: dict[str, ReferenceEvaluator] = {}
        self._inputs = {v.name: v.type.tensor_type.elem_type for v in model.graph.input}
        self._facts: dict[str, TensorFacts] = {}
        self._values: dict[str, Any] = {}
        for tensor in model.graph.initializer:
            self._facts[tensor.name] = TensorFacts(tensor.data_type, tuple(tensor.dims))
            small = math.prod(tensor.dims) <= _SMALL
            if small and tensor.data_location != onnx.TensorProto.EXTERNAL:
                self._values[tensor.name] = numpy_helper.to_array(tensor)
        self._dynamic: list[onnx.NodeProto] = []
        for node in model.graph.node:
            if node.op_type == "Constant" or self._foldable(node):
                self._visit(node)
            else:
                self._dynamic.append(node)
        self._constant = dict(self._facts), dict(self._values)

    def __call__(self, inputs: Mapping[str, Shape]) -> dict[str, TensorFacts]:
        """Infer all tensors for these input shapes, see `tensor_facts`."""
        self._facts, self._values = dict(self._constant[0]), dict(self._constant[1])
        for name, kind in self._inputs.items():
            if name in inputs:
                self._facts[name] = TensorFacts(kind, inputs[name])
        for node in self._dynamic:
            self._visit(node)
        return self._facts

    def _visit(self, node: onnx.NodeProto) -> None:
        if node.domain == DOMAIN:
            self._facts[node.output[0]] = self._op_output(node)
        elif node.op_type == "Shape":
            start = next((a.i for a in node.attribute if a.name == "start"), 0)
            end = next((a.i for a in node.attribute if a.name == "end"), None)
            shape = self._facts[node.input[0]].shape[start:end]
            self._record(node.output[0], np.asarray(shape, np.int64))
        elif node.op_type == "Constant" or self._foldable(node):
            for name, value in zip(node.output, self._run(node), strict=False):
                self._record(name, np.asarray(value))
        else:
            self._infer(node)

    def _record(self, name: str, value: Any) -> None:
        dtype = helper.np_dtype_to_tensor_dtype(value.dtype)
        self._facts[name] = TensorFacts(dtype, tuple(value.shape))
        if value.size <= _SMALL:
            self._values[name] = value

    def _foldable(self, node: onnx.NodeProto) -> bool:
        if not node.input or any(name and name not in self._values for name in node.input):
            return False
        if node.op_type not in _GROWING:
            return True
        self._infer(node)  # indices over all tokens would be a large array, and no shape needs them
        return self._facts[node.output[0]].elements <= _SMALL

    def _infer(self, node: onnx.NodeProto) -> None:
        types = {name: self._type(name) for name in node.input if name}
        data = {
            name: numpy_helper.from_array(self._values[name], name)
            for name in node.input
            if name in self._values
        }
        found = shape_inference.infer_node_outputs(
            self._schema(node), node, types, data, opset_imports=self._opsets, ir_version=self._ir
        )
        for name in node.output:
            if name:
                self._facts[name] = self._known_shape(node, name, found.get(name))

    def _known_shape(self, node: onnx.NodeProto, name: str, kind: Any) -> TensorFacts:
        tensor = (kind or onnx.TypeProto()).tensor_type
        has_rank = tensor.HasField("shape")
        if not has_rank or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            raise user_error(
                f"the shape of {name!r} ({node.op_type}) is not known before the graph runs",
                where="graph",
                hint="export the bundle again",
            )
        return TensorFacts(tensor.elem_type, tuple(dim.dim_value for dim in tensor.shape.dim))

    def _type(self, name: str) -> onnx.TypeProto:
        facts = self._facts[name]
        return helper.make_tensor_type_proto(facts.dtype, facts.shape)

    def _schema(self, node: onnx.NodeProto) -> Any:
        if node.op_type not in self._schemas:
            self._schemas[node.op_type] = defs.get_schema(node.op_type, self._opset, node.domain)
        return self._schemas[node.op_type]

    def _op_output(self, node: onnx.NodeProto) -> TensorFacts:
        """Infer the output of a node of the three ops, by their contracts in `plugins/`."""
        query = self._facts[node.input[0]]
        if node.op_type == FARTHEST:
            return TensorFacts(onnx.TensorProto.INT32, query.shape[:1])
        if node.op_type == ATTENTION:
            value = self._facts[node.input[2]].shape
            return TensorFacts(query.dtype, (*query.shape[:3], value[3]))
        sizes = op_attributes(node)
        batch, heads, tokens, _ = query.shape
        frames = (tokens - sizes["trailing_tokens"]) // sizes["frame_tokens"]
        special = sizes["special_first"] + sizes["special_last"]
        patches = frames * (sizes["frame_tokens"] - special)
        rows, columns = (-(-patches // sizes[name]) for name in ("q_block", "k_block"))
        return TensorFacts(onnx.TensorProto.INT8, (batch, heads, rows, columns))

    def _run(self, node: onnx.NodeProto) -> list[Any]:
        key = node.output[0]
        if key not in self._runners:
            self._runners[key] = ReferenceEvaluator(node, opsets={"": self._opset})
        fed = {name: self._values[name] for name in node.input if name}
        with np.errstate(all="ignore"):
            return list(self._runners[key].run(None, fed))
