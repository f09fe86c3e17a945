"""Initializers that refer to a safetensors file instead of containing their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from covis.export.passes.base import Parameters
from covis.export.weights.entries import Entry


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
        entries: Table of the weights file, from `covis.export.weights.entries`.
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
