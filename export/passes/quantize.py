"""Linear layers in FP8: QuantizeLinear and DequantizeLinear on both operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from covis.export.passes.base import Parameters, Pass
from covis.export.trace import layer_of

FP8 = ir.DataType.FLOAT8E4M3FN
LARGEST = 448.0  # largest finite number of e4m3fn
_SMALLEST_SCALE = 2.0**-14  # smallest normal float16; scales have the type of the scaled tensors
_MULTIPLE = 16  # FP8 matrix units require rows and columns in multiples of it


def scale_of(peak: float) -> float:
    """Return the scale at which `peak` becomes the largest FP8 number, rounded up to float16."""
    scale = np.float16(peak / LARGEST)
    if float(scale) * LARGEST < peak:
        scale = np.nextafter(scale, np.float16(np.inf))
    return max(float(scale), _SMALLEST_SCALE)


class Quantize(Pass):
    """Insert Q and DQ before both operands of half-precision linear layers; store weights in FP8.

    Each tensor has one scale, on both sides: TensorRT runs an FP8 product for these, but falls back
    to float16 products for scales by channel. Biases and results stay float16.

    Args:
        peaks: Largest magnitude of each layer's input over the calibration photos, by layer.
        weights: Scale of each stored parameter, by its name in the weights file.
        keep: Returns True for the name of a layer that stays wide in this stage.
    """

    name = "quantize"

    def __init__(
        self,
        peaks: Mapping[str, float],
        weights: Mapping[str, float],
        keep: Callable[[str], bool],
    ) -> None:
        self.peaks = peaks
        self.weights = weights
        self.keep = keep

    def rewrite(self, model: ir.Model) -> bool:
        changed = False
        for node in [n for n in model.graph if n.op_type == "Gemm"]:
            layer = layer_of(node)
            key = Parameters.key(node.inputs[1])
            if (
                key is None
                or key not in self.weights
                or layer not in self.peaks
                or self.keep(layer)
            ):
                continue
            self._quantize(model.graph, node, scale_of(self.peaks[layer]), self.weights[key])
            changed = True
        return changed

    def _quantize(self, graph: ir.Graph, node: ir.Node, data: float, weight: float) -> None:
        rows, matrix = node.inputs[0], node.inputs[1]
        assert rows is not None and matrix is not None and rows.dtype == ir.DataType.FLOAT16
        zero = _constant(graph, "fp8.zero", ir.Tensor(np.zeros((), FP8.numpy()), dtype=FP8))
        scale = _scale(graph, f"{node.name}.input_scale", data)
        quantized = ir.node("QuantizeLinear", [rows, scale, zero])
        _finish(quantized, f"{node.name}/QuantizeLinear", FP8, rows.shape)
        back = ir.node("DequantizeLinear", [quantized.outputs[0], scale, zero])
        _finish(back, f"{node.name}/DequantizeLinear", ir.DataType.FLOAT16, rows.shape)
        scale = _scale(graph, f"{matrix.name}.scale", weight)
        wide = ir.node("DequantizeLinear", [matrix, scale, zero])
        _finish(wide, f"{node.name}/DequantizeLinear_weight", ir.DataType.FLOAT16, matrix.shape)
        matrix.type, matrix.const_value = ir.TensorType(FP8), None
        graph.insert_before(node, [quantized, back, wide])
        node.replace_input_with(0, back.outputs[0])
        node.replace_input_with(1, wide.outputs[0])


def quantizable(graph: ir.Graph, keep: Callable[[str], bool]) -> dict[str, str]:
    """Return the weight's name in the file for each linear layer that `Quantize` supports."""
    found = {}
    for node in graph:
        weight = node.inputs[1] if node.op_type == "Gemm" else None
        key = Parameters.key(weight)
        if weight is None or key is None or weight.dtype != ir.DataType.FLOAT16:
            continue
        sizes = [int(str(n)) for n in weight.shape or ()]
        if not keep(layer_of(node)) and all(n % _MULTIPLE == 0 for n in sizes):
            found[layer_of(node)] = key
    return found


def _finish(node: ir.Node, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> None:
    node.name, node.outputs[0].name = name, f"{name}.out"
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(dtype), shape


def _scale(graph: ir.Graph, name: str, value: float) -> ir.Value:
    return _constant(graph, name, ir.Tensor(np.array(value, np.float16)))


def _constant(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    if name not in graph.initializers:
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.numpy().shape)
        )
        value.const_value = tensor
        graph.initializers[name] = value
    return graph.initializers[name]
