"""Small integer constants of a graph: shapes, axes, indices and constant level maps."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import onnx_ir as ir
from numpy.typing import NDArray

LARGEST: Final = 1024  # elements of a constant that is read: shapes and axes are smaller


def small_constant(
    value: ir.Value | None, kinds: Collection[ir.DataType] = (ir.DataType.INT64,)
) -> NDArray[Any] | None:
    """Read a constant of at most `LARGEST` elements and one of these types; None if it is none.

    Weights in external files are never read.
    """
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or isinstance(tensor, ir.ExternalTensor):
        return None
    return tensor.numpy() if tensor.dtype in kinds and tensor.size <= LARGEST else None


def constant(name: str, array: NDArray[Any]) -> ir.Node:
    """Create a Constant node whose output has this name."""
    tensor = ir.tensor(array, name=name)
    node = ir.node("Constant", [], attributes={"value": tensor}, name=name)
    node.outputs[0].name = name
    return node
