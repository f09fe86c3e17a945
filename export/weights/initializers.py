"""Initializers that refer to a safetensors file instead of containing their numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from covis.engines.dtypes import BY_SAFETENSORS
from covis.engines.errors import user_error
from covis.export.passes.base import Parameters

_MAX_HEADER = 100 << 20  # safetensors' own limit


@dataclass(frozen=True)
class Entry:
    """Position of one tensor in a safetensors file; offset and length in bytes from its start."""

    dtype: ir.DataType
    shape: tuple[int, ...]
    offset: int
    length: int

    def rows(self, first: int, count: int) -> Entry:
        """Return the entry of some rows (first dimension), which are contiguous."""
        row = self.length // self.shape[0]
        return Entry(self.dtype, (count, *self.shape[1:]), self.offset + first * row, count * row)


def read_entries(path: Path) -> dict[str, Entry]:
    """Read the table of a safetensors file (an 8-byte length, a JSON header, then raw tensors).

    Raises:
        CovisError: no safetensors file, a truncated one, or a type that a graph cannot refer to.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise user_error(
                "is no safetensors file, or cut off", where=path, hint="fetch it again"
            )
        header = json.loads(stream.read(length))
    base = 8 + length
    entries = {}
    for name, facts in header.items():
        if name == "__metadata__":
            continue
        if facts["dtype"] not in BY_SAFETENSORS:
            raise user_error(
                f"tensor {name!r} has type {facts['dtype']}",
                where=path,
                hint="give F32, F16 or BF16",
            )
        first, last = facts["data_offsets"]
        if base + last > size:
            raise user_error(
                f"is cut off inside tensor {name!r}", where=path, hint="fetch it again"
            )
        shape = tuple(facts["shape"])
        dtype = ir.DataType(BY_SAFETENSORS[facts["dtype"]].onnx)
        entries[name] = Entry(dtype, shape, base + first, last - first)
    return entries


def point_at_weights(
    graph: ir.Graph,
    weights: Path,
    entries: Mapping[str, Entry],
    location: str,
    keys: Mapping[str, str],
) -> None:
    """Replace every parameter of `graph` by a reference into the weights file.

    Args:
        graph: Graph whose initializers have the parameters' names in the model.
        weights: Path of the weights file now.
        entries: Table of the weights file, from `read_entries`.
        location: Name of the weights file in the bundle.
        keys: Name in the file by parameter name, where they differ (aliases).
    """
    for value in list(graph.initializers.values()):
        assert value.name is not None
        key = Parameters.key(value) or keys.get(value.name, value.name)
        entry = entries.get(key)
        if entry is None:
            continue  # a table computed at export, not a parameter: it stays in the graph
        first_row = Parameters.first_row(value)
        if first_row is not None:
            assert value.shape is not None
            entry = entry.rows(first_row, int(str(value.shape[0])))
        tensor = ir.ExternalTensor(
            location=location,
            offset=entry.offset,
            length=entry.length,
            dtype=entry.dtype,
            shape=ir.Shape(entry.shape),
            name=value.name,
            base_dir=str(weights.parent),
        )
        if entry.dtype == value.dtype:
            value.const_value = tensor
        else:
            _widen(graph, value, tensor)


def _widen(graph: ir.Graph, value: ir.Value, tensor: ir.ExternalTensor) -> None:
    """Insert a cast to float32 between the stored tensor in half precision and its users."""
    stored = ir.Value(
        name=f"{value.name}.stored", type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape)
    )
    stored.const_value = tensor
    assert value.dtype is not None
    cast = ir.node("Cast", [stored], attributes={"to": int(value.dtype)})
    wide = cast.outputs[0]
    wide.dtype, wide.shape = value.dtype, value.shape
    name = value.name
    assert name is not None
    value.replace_all_uses_with(wide)
    del graph.initializers[name]
    wide.name = name
    graph.initializers[f"{name}.stored"] = stored
    graph.insert_before(graph[0], cast)
