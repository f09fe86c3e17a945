"""Element types by name, and their names in NumPy, ONNX, safetensors, TensorRT and Triton.

The name of a type is NumPy's or ml_dtypes', which is also the manifest's: "float32", "bfloat16".
Torch's types have the same names: `getattr(torch, name)`. Nothing here may import torch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np


@dataclass(frozen=True)
class ElementType:
    """An element type of tensors.

    Attributes:
        name: Name in NumPy or ml_dtypes, and in the manifest.
        bits: Size of an element; elements below a byte are packed.
        onnx: Number in `onnx.TensorProto.DataType`.
        safetensors: Name in a safetensors header; empty where covis stores no weights of it.
        tensorrt: Member of `tensorrt.DataType`; empty where no stage has inputs of it.
        triton: Name in Triton's `model_config.proto`, likewise.
    """

    name: str
    bits: int
    onnx: int
    safetensors: str = ""
    tensorrt: str = ""
    triton: str = ""


_ELEMENT_TYPES: Final = (
    ElementType("float32", 32, 1, "F32", "FLOAT", "TYPE_FP32"),
    ElementType("float16", 16, 10, "F16", "HALF", "TYPE_FP16"),
    ElementType("bfloat16", 16, 16, "BF16", "BF16", "TYPE_BF16"),
    ElementType("float8_e4m3fn", 8, 17, "F8_E4M3"),
    ElementType("float4_e2m1fn", 4, 23),
    ElementType("float64", 64, 11),
    ElementType("int4", 4, 22),
    ElementType("int8", 8, 3, tensorrt="INT8", triton="TYPE_INT8"),
    ElementType("int16", 16, 5),
    ElementType("int32", 32, 6, tensorrt="INT32", triton="TYPE_INT32"),
    ElementType("int64", 64, 7, tensorrt="INT64", triton="TYPE_INT64"),
    ElementType("uint4", 4, 21),
    ElementType("uint8", 8, 2),
    ElementType("bool", 8, 9, tensorrt="BOOL", triton="TYPE_BOOL"),
)
BY_NAME: Final = {kind.name: kind for kind in _ELEMENT_TYPES}
BY_ONNX: Final = {kind.onnx: kind for kind in _ELEMENT_TYPES}
BY_SAFETENSORS: Final = {kind.safetensors: kind for kind in _ELEMENT_TYPES if kind.safetensors}


def onnx_name(number: int) -> str:
    """Return the name of an ONNX element type; "unknown" for one that covis does not use."""
    kind = BY_ONNX.get(number)
    return kind.name if kind is not None else "unknown"


@functools.cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the NumPy type of that name, from ml_dtypes where NumPy has none."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        kind: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return kind
